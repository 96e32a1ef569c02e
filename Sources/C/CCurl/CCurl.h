#ifndef APUS_CCURL_H
#define APUS_CCURL_H
#include <curl/curl.h>
#include <dlfcn.h>

/* Loaded when it is first needed and not linked: libcurl brings some thirty libraries and 4 MB into every process, a
   running node's as well, which has no use for it unless it has webhooks. */
typedef struct {
    CURL *(*init)(void);
    void (*cleanup)(CURL *);
    CURLcode (*setopt)(CURL *, CURLoption, ...);
    CURLcode (*perform)(CURL *);
    CURLcode (*getinfo)(CURL *, CURLINFO, ...);
    const char *(*strerror)(CURLcode);
} apus_curl;

/* Returns NULL, or why the library cannot be loaded. */
static inline const char *apus_curl_load(apus_curl *curl) {
    void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!library) return dlerror();
    *(void **)&curl->init = dlsym(library, "curl_easy_init");
    *(void **)&curl->cleanup = dlsym(library, "curl_easy_cleanup");
    *(void **)&curl->setopt = dlsym(library, "curl_easy_setopt");
    *(void **)&curl->perform = dlsym(library, "curl_easy_perform");
    *(void **)&curl->getinfo = dlsym(library, "curl_easy_getinfo");
    *(void **)&curl->strerror = dlsym(library, "curl_easy_strerror");
    if (curl->init && curl->cleanup && curl->setopt && curl->perform && curl->getinfo && curl->strerror) return NULL;
    return "libcurl.so.4 lacks a function";
}

static inline CURL *apus_curl_init(const apus_curl *curl) { return curl->init(); }
static inline void apus_curl_cleanup(const apus_curl *curl, CURL *handle) { curl->cleanup(handle); }
static inline CURLcode apus_curl_perform(const apus_curl *curl, CURL *handle) { return curl->perform(handle); }
static inline const char *apus_curl_strerror(const apus_curl *curl, CURLcode code) { return curl->strerror(code); }

/* Swift cannot call variadic functions: one shim for each kind of argument. */

static inline CURLcode apus_curl_set_long(const apus_curl *curl, CURL *handle, CURLoption option, long value) {
    return curl->setopt(handle, option, value);
}

static inline CURLcode apus_curl_set_text(const apus_curl *curl, CURL *handle, CURLoption option, const char *value) {
    return curl->setopt(handle, option, value);
}

static inline CURLcode apus_curl_set_write(
    const apus_curl *curl, CURL *handle, curl_write_callback callback, void *context) {
    CURLcode code = curl->setopt(handle, CURLOPT_WRITEDATA, context);
    return code == CURLE_OK ? curl->setopt(handle, CURLOPT_WRITEFUNCTION, callback) : code;
}

static inline CURLcode apus_curl_set_headers(
    const apus_curl *curl, CURL *handle, curl_write_callback callback, void *context) {
    CURLcode code = curl->setopt(handle, CURLOPT_HEADERDATA, context);
    return code == CURLE_OK ? curl->setopt(handle, CURLOPT_HEADERFUNCTION, callback) : code;
}

static inline CURLcode apus_curl_status(const apus_curl *curl, CURL *handle, long *status) {
    return curl->getinfo(handle, CURLINFO_RESPONSE_CODE, status);
}

/* Why the other end's certificate was not taken: X509_V_…, of the chain. */
static inline CURLcode apus_curl_verify_result(const apus_curl *curl, CURL *handle, long *result) {
    return curl->getinfo(handle, CURLINFO_SSL_VERIFYRESULT, result);
}

static inline CURLcode apus_curl_set_pointer(
    const apus_curl *curl, CURL *handle, CURLoption option, const void *value) {
    return curl->setopt(handle, option, value);
}

static inline CURLcode apus_curl_set_size(const apus_curl *curl, CURL *handle, CURLoption option, curl_off_t value) {
    return curl->setopt(handle, option, value);
}

/* Only http and https, under the name that the library at hand knows the option by. */
static inline CURLcode apus_curl_set_web_only(const apus_curl *curl, CURL *handle) {
    enum { protocols_text = CURLOPTTYPE_OBJECTPOINT + 318, protocols_bits = CURLOPTTYPE_LONG + 181 };
    CURLcode code = curl->setopt(handle, (CURLoption)protocols_text, "http,https");
    if (code == CURLE_OK) return code;
    return curl->setopt(handle, (CURLoption)protocols_bits, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
}

/* Who gives up a look-up of a name does not wait for the resolver's thread, where libcurl can do so (7.87). */
static inline CURLcode apus_curl_set_quick_exit(const apus_curl *curl, CURL *handle) {
    enum { quick_exit = CURLOPTTYPE_LONG + 322 };
    (void)curl->setopt(handle, (CURLoption)quick_exit, 1L);
    return CURLE_OK;
}

/* Seconds of the answer's Retry-After, whichever way it says them; 0 without. */
static inline curl_off_t apus_curl_retry_after(const apus_curl *curl, CURL *handle) {
    curl_off_t seconds = 0;
    return curl->getinfo(handle, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK ? seconds : 0;
}

/* Many transfers on one thread, with one cache of connections. */
typedef struct {
    CURLM *(*init)(void);
    CURLMcode (*cleanup)(CURLM *);
    CURLMcode (*add)(CURLM *, CURL *);
    CURLMcode (*remove)(CURLM *, CURL *);
    CURLMcode (*perform)(CURLM *, int *);
    CURLMcode (*poll)(CURLM *, struct curl_waitfd *, unsigned int, int, int *);
    CURLMsg *(*info_read)(CURLM *, int *);
    CURLMcode (*setopt)(CURLM *, CURLMoption, ...);
    const char *(*strerror)(CURLMcode);
    void (*reset)(CURL *);
    struct curl_slist *(*slist_append)(struct curl_slist *, const char *);
    void (*slist_free)(struct curl_slist *);
} apus_curl_multi;

/* Returns NULL, or why the functions for many transfers are not there. After apus_curl_load. */
static inline const char *apus_curl_load_multi(apus_curl_multi *multi) {
    void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!library) return dlerror();
    *(void **)&multi->init = dlsym(library, "curl_multi_init");
    *(void **)&multi->cleanup = dlsym(library, "curl_multi_cleanup");
    *(void **)&multi->add = dlsym(library, "curl_multi_add_handle");
    *(void **)&multi->remove = dlsym(library, "curl_multi_remove_handle");
    *(void **)&multi->perform = dlsym(library, "curl_multi_perform");
    *(void **)&multi->poll = dlsym(library, "curl_multi_poll");
    *(void **)&multi->info_read = dlsym(library, "curl_multi_info_read");
    *(void **)&multi->setopt = dlsym(library, "curl_multi_setopt");
    *(void **)&multi->strerror = dlsym(library, "curl_multi_strerror");
    *(void **)&multi->reset = dlsym(library, "curl_easy_reset");
    *(void **)&multi->slist_append = dlsym(library, "curl_slist_append");
    *(void **)&multi->slist_free = dlsym(library, "curl_slist_free_all");
    if (multi->init && multi->cleanup && multi->add && multi->remove && multi->perform && multi->poll &&
        multi->info_read && multi->setopt && multi->strerror && multi->reset && multi->slist_append &&
        multi->slist_free)
        return NULL;
    return "libcurl.so.4 is older than 7.66";
}

static inline CURLM *apus_curl_multi_init(const apus_curl_multi *multi, long connections) {
    CURLM *handle = multi->init();
    if (!handle) return NULL;
    (void)multi->setopt(handle, CURLMOPT_MAXCONNECTS, connections);
    (void)multi->setopt(handle, CURLMOPT_MAX_TOTAL_CONNECTIONS, connections);
    return handle;
}

static inline void apus_curl_multi_cleanup(const apus_curl_multi *multi, CURLM *handle) {
    (void)multi->cleanup(handle);
}

static inline CURLMcode apus_curl_multi_add(const apus_curl_multi *multi, CURLM *handle, CURL *transfer) {
    return multi->add(handle, transfer);
}

/* Takes a transfer out and makes its handle ready for the next one; its connection stays in the cache. */
static inline void apus_curl_multi_release(const apus_curl_multi *multi, CURLM *handle, CURL *transfer) {
    (void)multi->remove(handle, transfer);
    multi->reset(transfer);
}

static inline CURLMcode apus_curl_multi_perform(const apus_curl_multi *multi, CURLM *handle) {
    int running;
    return multi->perform(handle, &running);
}

/* Waits for a transfer, for the descriptor to be readable, or for the time to be over. */
static inline CURLMcode apus_curl_multi_poll(
    const apus_curl_multi *multi, CURLM *handle, int descriptor, int milliseconds) {
    struct curl_waitfd extra = {descriptor, CURL_WAIT_POLLIN, 0};
    return multi->poll(handle, &extra, 1, milliseconds, NULL);
}

/* The next transfer that has ended; NULL when there is none. */
static inline CURL *apus_curl_multi_next_done(const apus_curl_multi *multi, CURLM *handle, CURLcode *result) {
    int left;
    CURLMsg *message;
    while ((message = multi->info_read(handle, &left))) {
        if (message->msg != CURLMSG_DONE) continue;
        *result = message->data.result;
        return message->easy_handle;
    }
    return NULL;
}

static inline const char *apus_curl_multi_strerror(const apus_curl_multi *multi, CURLMcode code) {
    return multi->strerror(code);
}

/* Adds a line; NULL, with the list as it was, when there is no memory. */
static inline struct curl_slist *apus_curl_list_append(
    const apus_curl_multi *multi, struct curl_slist *list, const char *line) {
    return multi->slist_append(list, line);
}

static inline void apus_curl_list_free(const apus_curl_multi *multi, struct curl_slist *list) {
    if (list) multi->slist_free(list);
}
#endif
