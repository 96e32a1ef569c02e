#ifndef APUS_CCURL_H
#define APUS_CCURL_H
#include <curl/curl.h>
#include <dlfcn.h>

/* Loaded when it is first needed and not linked: libcurl brings some thirty libraries and 4 MB into every process, a
   running node's as well, which has no use for it. */
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

static inline CURLcode apus_curl_status(const apus_curl *curl, CURL *handle, long *status) {
    return curl->getinfo(handle, CURLINFO_RESPONSE_CODE, status);
}
#endif
