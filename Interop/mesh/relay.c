/* A relay for TCP that behaves badly on request: delay, jitter, bandwidth, silence (one way or both), resets. It stands
 * between two nodes of a mesh where the kernel has no netem, and needs no rights.
 *
 *     relay CONTROL                      CONTROL: path of a Unix socket that takes commands
 *
 * Commands, a line each, answered by a line that begins with `ok` or `error`:
 *
 *     open WAY LISTEN TARGET             a way: what dials LISTEN (IP:PORT) gets to TARGET
 *     set WAY KEY=VALUE...               delay, jitter in ms (each way), rate in bytes/s of each connection (0: any),
 *                                        silent: 1 = from dialler to target, 2 = back, 3 = both, 0 = none
 *     reset WAY                          ends all its connections with RST
 *     refuse WAY 0|1                     with 1, also those that come
 *     stat WAY                           connections accepted so far, open ones, bytes forth, bytes back
 *
 * Silence holds bytes back and closes nothing, as a dead cable does; what was held goes on when it ends. One thread,
 * epoll; times are in microseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WAYS = 256, CHUNK = 65536, MAX_HELD = 8 << 20 };

typedef unsigned long long u64;

struct chunk {
    struct chunk *next;
    u64 due;
    int start, end;
    char bytes[];
};

enum kind { LISTENER, CONTROL_LISTENER, CONTROL, END };

/* What an epoll event is of. An end is one side of a relayed connection: bytes read from it go to the other's queue. */
struct handle {
    enum kind kind;
    int fd;
    int events;
    struct way *way;
    struct pair *pair;
    int side; /* 0: the dialler's */
    int has_ended, is_connected;
    /* Bytes on their way to this end. */
    struct chunk *first, *last;
    int held;
    u64 last_due;
    double tokens;
    u64 filled;
};

struct pair {
    struct pair *next;
    struct way *way;
    struct handle end[2];
    int is_dead;
};

struct way {
    char name[64];
    struct handle listener;
    struct sockaddr_in target;
    u64 delay, jitter;
    double rate;
    int silent, refuses;
    u64 accepted, open, bytes[2];
};

static struct way ways[MAX_WAYS];
static int way_count;
static struct pair *pairs;
static int poller;

static u64 now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static void watch(struct handle *h, int events) {
    struct epoll_event e = {.events = events, .data.ptr = h};
    if (h->events == events) return;
    epoll_ctl(poller, h->events < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, h->fd, &e);
    h->events = events;
}

static int parse(const char *text, struct sockaddr_in *address) {
    char host[64];
    int port;
    if (sscanf(text, "%63[^:]:%d", host, &port) != 2) return -1;
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_port = htons(port);
    return inet_pton(AF_INET, host, &address->sin_addr) == 1 ? 0 : -1;
}

static void kill_pair(struct pair *p, int with_reset) {
    struct linger hard = {1, 0};
    if (p->is_dead) return;
    p->is_dead = 1;
    p->way->open--;
    for (int side = 0; side < 2; side++) {
        if (p->end[side].fd < 0) continue;
        if (with_reset) setsockopt(p->end[side].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close(p->end[side].fd);
        p->end[side].fd = -1;
    }
}

static void connect_target(struct pair *p) {
    struct handle *h = &p->end[1];
    int one = 1;
    h->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    h->events = -1;
    setsockopt(h->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(h->fd, (struct sockaddr *)&p->way->target, sizeof p->way->target) < 0 && errno != EINPROGRESS) {
        kill_pair(p, 1);
        return;
    }
    watch(h, EPOLLOUT);
}

static void accept_one(struct way *w) {
    struct linger hard = {1, 0};
    int one = 1, fd = accept4(w->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (w->refuses) {
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close(fd);
        return;
    }
    struct pair *p = calloc(1, sizeof *p);
    if (p == NULL) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    w->accepted++;
    w->open++;
    p->way = w;
    p->next = pairs;
    pairs = p;
    for (int side = 0; side < 2; side++) {
        p->end[side] = (struct handle){.kind = END, .fd = -1, .events = -1, .way = w, .pair = p, .side = side};
    }
    p->end[0].fd = fd;
    p->end[0].is_connected = 1;
    /* Nobody is reached through silence: the other side is dialled when it ends. */
    if (w->silent == 0) connect_target(p);
}

/* Which bit of `silent` holds what flows to an end. */
static int is_silent_to(struct handle *h) { return h->way->silent & (h->side == 1 ? 1 : 2); }

/* Bytes on their way to an end at most: with a limited rate no more than a quarter of a second of it beyond the delay,
 * so that what is too much waits at its sender, as on a slow line. */
static int most_held(struct way *w) {
    double most = w->rate > 0 ? w->rate * (0.25 + (w->delay + w->jitter) / 1e6) + 4096 : MAX_HELD;
    return most < MAX_HELD ? most : MAX_HELD;
}

/* The same for what the kernel holds. */
static void narrow(struct handle *h) {
    int bytes = 16384;
    if (h->fd >= 0 && h->way->rate > 0) setsockopt(h->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

/* Writes what is due to an end; the time at which there is more to do, or 0. */
static u64 flush(struct handle *h, u64 t) {
    struct way *w = h->way;
    struct handle *source = &h->pair->end[1 - h->side];
    u64 wake = 0;
    if (h->fd < 0 || !h->is_connected || is_silent_to(h)) return 0;
    if (w->rate > 0) {
        double most = w->rate / 50 + 4096;
        h->tokens += w->rate * (t - h->filled) / 1e6;
        if (h->tokens > most) h->tokens = most;
        h->filled = t;
    }
    while (h->first != NULL) {
        struct chunk *c = h->first;
        int length = c->end - c->start;
        if (c->due > t) {
            wake = c->due;
            break;
        }
        if (w->rate > 0) {
            if (h->tokens < 1) {
                wake = t + 2000;
                break;
            }
            if (length > h->tokens) length = h->tokens;
        }
        ssize_t written = send(h->fd, c->bytes + c->start, length, MSG_NOSIGNAL);
        if (written < 0) {
            if (errno == EAGAIN) {
                watch(h, h->events | EPOLLOUT);
                return 0;
            }
            kill_pair(h->pair, 1);
            return 0;
        }
        w->bytes[h->side == 1 ? 0 : 1] += written;
        h->tokens -= written;
        h->held -= written;
        c->start += written;
        if (c->start == c->end) {
            h->first = c->next;
            if (h->first == NULL) h->last = NULL;
            free(c);
        }
    }
    if (h->events & EPOLLOUT) watch(h, h->events & ~EPOLLOUT);
    if (h->first == NULL && source->has_ended) shutdown(h->fd, SHUT_WR);
    if (h->first == NULL && source->has_ended && h->has_ended && source->first == NULL) kill_pair(h->pair, 0);
    else if (h->held < most_held(w) && source->fd >= 0 && !source->has_ended) watch(source, source->events | EPOLLIN);
    return wake;
}

static void read_end(struct handle *h) {
    struct way *w = h->way;
    struct handle *to = &h->pair->end[1 - h->side];
    u64 t = now();
    for (int round = 0; round < 4; round++) {
        int is_held = is_silent_to(to) || to->held >= most_held(w);
        if (is_held) {
            watch(h, h->events & ~EPOLLIN);
            return;
        }
        struct chunk *c = malloc(sizeof *c + CHUNK);
        if (c == NULL) return;
        ssize_t length = recv(h->fd, c->bytes, w->rate > 0 ? 4096 : CHUNK, 0);
        if (length <= 0) {
            free(c);
            if (length < 0 && errno == EAGAIN) break;
            if (length < 0) {
                kill_pair(h->pair, 1);
                return;
            }
            h->has_ended = 1;
            watch(h, h->events & ~EPOLLIN);
            break;
        }
        if (length < CHUNK / 2) {
            struct chunk *smaller = realloc(c, sizeof *c + length);
            if (smaller != NULL) c = smaller;
        }
        c->next = NULL;
        c->start = 0;
        c->end = length;
        c->due = t + w->delay + (w->jitter ? random() % w->jitter : 0);
        /* A stream keeps its order. */
        if (c->due < to->last_due) c->due = to->last_due;
        to->last_due = c->due;
        if (to->last != NULL) to->last->next = c;
        else to->first = c;
        to->last = c;
        to->held += length;
    }
    flush(to, t);
}

static struct way *find(const char *name) {
    for (int i = 0; i < way_count; i++)
        if (strcmp(ways[i].name, name) == 0) return &ways[i];
    return NULL;
}

static const char *open_way(char *name, char *listen_at, char *target) {
    struct sockaddr_in address;
    int one = 1;
    if (way_count == MAX_WAYS) return "error too many";
    struct way *w = &ways[way_count];
    if (parse(listen_at, &address) < 0 || parse(target, &w->target) < 0) return "error address";
    snprintf(w->name, sizeof w->name, "%s", name);
    w->listener = (struct handle){.kind = LISTENER, .events = -1, .way = w};
    w->listener.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(w->listener.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(w->listener.fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(w->listener.fd, 64) < 0) {
        close(w->listener.fd);
        return "error cannot listen";
    }
    watch(&w->listener, EPOLLIN);
    way_count++;
    return "ok";
}

static void command(int fd, char *line) {
    char *save, answer[256] = "ok", *verb = strtok_r(line, " \r", &save), *name = strtok_r(NULL, " \r", &save);
    struct way *w = name != NULL ? find(name) : NULL;
    char *word = strtok_r(NULL, " \r", &save);
    if (verb == NULL || name == NULL || (w == NULL && strcmp(verb, "open") != 0)) {
        strcpy(answer, "error what or which way");
    } else if (strcmp(verb, "open") == 0) {
        char *target = strtok_r(NULL, " \r", &save);
        strcpy(answer, word != NULL && target != NULL ? open_way(name, word, target) : "error usage");
    } else if (strcmp(verb, "set") == 0) {
        for (; word != NULL; word = strtok_r(NULL, " \r", &save)) {
            double value = strchr(word, '=') ? atof(strchr(word, '=') + 1) : 0;
            if (strncmp(word, "delay=", 6) == 0) w->delay = value * 1000;
            else if (strncmp(word, "jitter=", 7) == 0) w->jitter = value * 1000;
            else if (strncmp(word, "rate=", 5) == 0) w->rate = value;
            else if (strncmp(word, "silent=", 7) == 0) w->silent = value;
            else strcpy(answer, "error key");
        }
        for (struct pair *p = pairs; p != NULL; p = p->next) {
            if (p->is_dead || p->way != w) continue;
            if (p->end[1].fd < 0 && w->silent == 0) connect_target(p);
            for (int side = 0; side < 2; side++) narrow(&p->end[side]);
            for (int side = 0; side < 2 && !p->is_dead; side++)
                if (p->end[side].fd >= 0 && p->end[side].is_connected && !p->end[side].has_ended)
                    watch(&p->end[side], p->end[side].events | EPOLLIN);
        }
    } else if (strcmp(verb, "reset") == 0) {
        for (struct pair *p = pairs; p != NULL; p = p->next)
            if (p->way == w) kill_pair(p, 1);
    } else if (strcmp(verb, "refuse") == 0) {
        w->refuses = word != NULL && *word == '1';
    } else if (strcmp(verb, "stat") == 0) {
        snprintf(answer, sizeof answer, "ok %llu %llu %llu %llu", w->accepted, w->open, w->bytes[0], w->bytes[1]);
    } else {
        strcpy(answer, "error verb");
    }
    strcat(answer, "\n");
    if (write(fd, answer, strlen(answer)) < 0) perror("answer");
}

/* Commands are short and come whole. */
static void read_control(struct handle *h) {
    char buffer[4096], *save;
    ssize_t length = read(h->fd, buffer, sizeof buffer - 1);
    if (length <= 0) {
        close(h->fd);
        free(h);
        return;
    }
    buffer[length] = 0;
    for (char *line = strtok_r(buffer, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
        command(h->fd, line);
}

static void ready(struct handle *h, int events) {
    if (h->kind == LISTENER) {
        accept_one(h->way);
    } else if (h->kind == CONTROL_LISTENER) {
        struct handle *made = calloc(1, sizeof *made);
        int fd = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC);
        if (made == NULL || fd < 0) return;
        *made = (struct handle){.kind = CONTROL, .fd = fd, .events = -1};
        watch(made, EPOLLIN);
    } else if (h->kind == CONTROL) {
        read_control(h);
    } else if (!h->pair->is_dead) {
        if (!h->is_connected && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(h->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error != 0) {
                kill_pair(h->pair, 1);
                return;
            }
            h->is_connected = 1;
            narrow(h);
            narrow(&h->pair->end[0]);
            watch(h, EPOLLIN);
            watch(&h->pair->end[0], EPOLLIN);
            return;
        }
        if (events & EPOLLERR && h->way->silent == 0) {
            kill_pair(h->pair, 1);
            return;
        }
        if (events & EPOLLIN) read_end(h);
        if (!h->pair->is_dead && events & EPOLLOUT) flush(h, now());
        /* A hang-up is always reported: not while nobody reads. */
        if (!h->pair->is_dead && events & EPOLLHUP && !(events & EPOLLIN)) {
            if (h->way->silent == 0) kill_pair(h->pair, 1);
            else usleep(1000);
        }
    }
}

int main(int count, char **arguments) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct handle control = {.kind = CONTROL_LISTENER, .events = -1};
    if (count != 2) return 2;
    poller = epoll_create1(EPOLL_CLOEXEC);
    control.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", arguments[1]);
    if (bind(control.fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(control.fd, 8) < 0) {
        perror(arguments[1]);
        return 1;
    }
    watch(&control, EPOLLIN);
    for (;;) {
        struct epoll_event events[64];
        u64 t = now(), wake = 0;
        for (struct pair *p = pairs; p != NULL; p = p->next) {
            for (int side = 0; side < 2 && !p->is_dead; side++) {
                u64 next = p->end[side].first != NULL || p->end[1 - side].has_ended ? flush(&p->end[side], t) : 0;
                if (next != 0 && (wake == 0 || next < wake)) wake = next;
            }
        }
        struct timespec wait = {1, 0};
        if (wake != 0) {
            u64 left = wake > t ? wake - t : 0;
            wait = (struct timespec){left / 1000000, left % 1000000 * 1000};
        }
        int found = epoll_pwait2(poller, events, 64, &wait, NULL);
        for (int i = 0; i < found; i++) ready(events[i].data.ptr, events[i].events);
        /* Dead ones only now: events of theirs may have been among these. */
        for (struct pair **p = &pairs; *p != NULL;) {
            struct pair *dead = *p;
            if (!dead->is_dead) {
                p = &dead->next;
                continue;
            }
            *p = dead->next;
            for (int side = 0; side < 2; side++) {
                while (dead->end[side].first != NULL) {
                    struct chunk *c = dead->end[side].first;
                    dead->end[side].first = c->next;
                    free(c);
                }
            }
            free(dead);
        }
    }
}
