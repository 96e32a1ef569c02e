// libssl and libcrypto, and as functions what they have only as macros, which Swift does not see.
// Only declarations and static inline shims; nothing is compiled on its own.
#ifndef APUS_COPENSSL_H
#define APUS_COPENSSL_H
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/param_build.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

// MARK: Contexts

/// What every context has in common: buffers are released while nothing is on its way, no renegotiation, no
/// compression, the node's order of suites, except for who is better at ChaCha20.
static inline void apus_ssl_ctx_basics(SSL_CTX *context) {
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE
                                     | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE
                                  | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
}
static inline void apus_ssl_ctx_no_tickets(SSL_CTX *context) { SSL_CTX_set_options(context, SSL_OP_NO_TICKET); }
static inline int apus_ssl_ctx_min_version(SSL_CTX *context, int version) {
    return (int)SSL_CTX_set_min_proto_version(context, version);
}
static inline int apus_ssl_ctx_groups(SSL_CTX *context, const char *list) {
    return (int)SSL_CTX_set1_groups_list(context, list);
}
static inline void apus_ssl_ctx_max_cert_list(SSL_CTX *context, long bytes) {
    SSL_CTX_set_max_cert_list(context, bytes);
}
static inline int apus_ssl_ctx_add_chain(SSL_CTX *context, X509 *certificate) {
    return (int)SSL_CTX_add1_chain_cert(context, certificate);
}
static inline void apus_ssl_ctx_server_name(SSL_CTX *context, int (*call)(SSL *, int *, void *), void *argument) {
    SSL_CTX_set_tlsext_servername_callback(context, call);
    SSL_CTX_set_tlsext_servername_arg(context, argument);
}
static inline int apus_ssl_set_server_name(SSL *ssl, const char *name) {
    return (int)SSL_set_tlsext_host_name(ssl, name);
}

/// A function because parameters refer to their names, which have to stay.
static inline int apus_mac_sha256_key(EVP_MAC_CTX *code, unsigned char *key, size_t count) {
    OSSL_PARAM parameters[3];
    parameters[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key, count);
    parameters[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0);
    parameters[2] = OSSL_PARAM_construct_end();
    return EVP_MAC_CTX_set_params(code, parameters);
}

// MARK: BIO

static inline void apus_bio_want_read(BIO *bio) { BIO_set_retry_read(bio); }
static inline void apus_bio_clear(BIO *bio) { BIO_clear_retry_flags(bio); }

// MARK: Errors

/// The alert that the peer sent, when that is what the error is about; else -1.
static inline int apus_error_alert(unsigned long error) {
    int reason = ERR_GET_REASON(error);
    return ERR_GET_LIB(error) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256
               ? reason - SSL_AD_REASON_OFFSET
               : -1;
}
/// Whether the error says that a PEM file has no more entries of the kind.
static inline int apus_error_is_pem_end(unsigned long error) {
    return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

/// The alternative names of a certificate; NULL when it has none. `critical` becomes -1 then, and -2 for several.
static inline GENERAL_NAMES *apus_alternative_names(const X509 *certificate, int *critical) {
    return (GENERAL_NAMES *)X509_get_ext_d2i(certificate, NID_subject_alt_name, critical, NULL);
}
static inline int apus_general_name_count(const GENERAL_NAMES *names) { return sk_GENERAL_NAME_num(names); }
static inline void apus_general_names_free(GENERAL_NAMES *names) { GENERAL_NAMES_free(names); }
/// The type (GEN_DNS, GEN_EMAIL, GEN_URI, or another) of a name, and for these three its text.
static inline int apus_general_name(const GENERAL_NAMES *names, int index, const unsigned char **text, int *count) {
    int type = -1;
    const ASN1_STRING *value =
        (const ASN1_STRING *)GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, index), &type);
    if (type == GEN_DNS || type == GEN_EMAIL || type == GEN_URI) {
        *text = ASN1_STRING_get0_data(value);
        *count = ASN1_STRING_length(value);
    }
    return type;
}
/// RFC 2253 with UTF-8 left as it is.
static inline int apus_name_print(BIO *bio, const X509_NAME *name) {
    return X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
}
static inline long apus_bio_data(BIO *bio, char **data) { return BIO_get_mem_data(bio, data); }
#endif
