// What Linux offers and Swift's Glibc module does not show: epoll, eventfd, accept4 and a few macros.
// Only declarations and static inline shims; nothing is compiled on its own.
#ifndef APUS_CLINUX_H
#define APUS_CLINUX_H

#include <malloc.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>

// glibc declares these only under _GNU_SOURCE, which Swift's importer has already decided about.
extern char **environ;
extern int posix_spawn_file_actions_addchdir_np(posix_spawn_file_actions_t *actions, const char *path);
extern int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);

/// One descriptor of interest; `token` comes back with every event.
static inline int apus_epoll_set(int epoll, int operation, int fd, uint32_t events, uint64_t token) {
    struct epoll_event event;
    event.events = events;
    event.data.u64 = token;
    return epoll_ctl(epoll, operation, fd, &event);
}
static inline uint64_t apus_epoll_token(const struct epoll_event *event) { return event->data.u64; }
static inline uint32_t apus_epoll_events(const struct epoll_event *event) { return event->events; }

/// What a child process inherits; Swift 6 refuses the mutable global itself.
static inline char **apus_environment(void) { return environ; }

extern int pthread_setname_np(pthread_t thread, const char *name);

/// Names a thread, for top and the debugger; at most 15 bytes are kept.
static inline void apus_name_thread(pthread_t thread, const char *name) { pthread_setname_np(thread, name); }

/// A clock in nanoseconds.
static inline uint64_t apus_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/// Monotonic time in nanoseconds.
static inline uint64_t apus_monotonic_ns(void) { return apus_clock_ns(CLOCK_MONOTONIC); }

/// Bytes that malloc has given out and not got back, in its main arena.
static inline size_t apus_heap_bytes(void) { return mallinfo2().uordblks; }

/// Lets a timer fire every so many nanoseconds, less than a second.
static inline int apus_timer_every(int timer, uint32_t nanoseconds) {
    struct itimerspec setting = {{0, nanoseconds}, {0, nanoseconds}};
    return timerfd_settime(timer, 0, &setting, NULL);
}

#endif
