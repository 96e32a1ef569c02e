#ifndef APUS_CCURL_H
#define APUS_CCURL_H
#include <curl/curl.h>

/* Swift cannot call variadic functions: one shim for each kind of argument. */

static inline CURLcode apus_curl_set_long(CURL *curl, CURLoption option, long value) {
    return curl_easy_setopt(curl, option, value);
}

static inline CURLcode apus_curl_set_text(CURL *curl, CURLoption option, const char *value) {
    return curl_easy_setopt(curl, option, value);
}

static inline CURLcode apus_curl_set_write(CURL *curl, curl_write_callback callback, void *context) {
    CURLcode code = curl_easy_setopt(curl, CURLOPT_WRITEDATA, context);
    return code == CURLE_OK ? curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, callback) : code;
}

static inline CURLcode apus_curl_status(CURL *curl, long *status) {
    return curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status);
}
#endif
