/* eventstream.tls: TLS for sources, by OpenSSL. A module of its own: context(options) makes what the core takes. */
#include "net/tls.h"

#include <lauxlib.h>
#include <lua.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#ifndef ERR_SYSTEM_ERROR /* before OpenSSL 3 */
#define ERR_SYSTEM_ERROR(code) (ERR_GET_LIB(code) == ERR_LIB_SYS)
#endif

typedef struct context {
  es_tls_context head; /* first: the core knows no more */
  SSL_CTX *ctx;
} context;

struct es_tls {
  SSL *ssl;
  BIO *in, *out; /* ssl's */
  const char *told;
  char why[200];
};

/* What OpenSSL says of the last error. */
static void note(es_tls *tls) {
  unsigned long code = ERR_get_error();
  long verified = SSL_get_verify_result(tls->ssl);
  if (verified != X509_V_OK && !SSL_is_init_finished(tls->ssl)) {
    BIO_snprintf(tls->why, sizeof tls->why, "the certificate is not trusted: %s",
                 X509_verify_cert_error_string(verified));
  } else {
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    BIO_snprintf(tls->why, sizeof tls->why, "%s", reason != NULL ? reason : "the connection failed");
  }
  tls->told = tls->why;
  ERR_clear_error();
}

static void tls_close(es_tls *tls) {
  SSL_free(tls->ssl); /* and its BIOs */
  free(tls);
}

static int is_address(const char *host) {
  ASN1_OCTET_STRING *address = a2i_IPADDRESS(host);
  ASN1_OCTET_STRING_free(address);
  return address != NULL;
}

/* The name is checked (RFC 9525: among those of subjectAltName, and never the subject's), and told to a server of several
 * (RFC 6066, 3), which addresses are not. */
static int set_host(es_tls *tls, const char *host) {
  X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);
  if (is_address(host))
    return X509_VERIFY_PARAM_set1_ip_asc(param, host);
  X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  return X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 && SSL_set_tlsext_host_name(tls->ssl, host) == 1;
}

static es_tls *tls_open(es_tls_context *head, const char *host) {
  es_tls *tls = calloc(1, sizeof *tls);
  if (tls == NULL)
    return NULL;
  tls->ssl = SSL_new(((context *)head)->ctx);
  tls->in = BIO_new(BIO_s_mem());
  tls->out = BIO_new(BIO_s_mem());
  if (tls->ssl == NULL || tls->in == NULL || tls->out == NULL) {
    BIO_free(tls->in);
    BIO_free(tls->out);
    tls_close(tls);
    return NULL;
  }
  SSL_set_bio(tls->ssl, tls->in, tls->out);
  SSL_set_connect_state(tls->ssl);
  if (set_host(tls, host) == 1)
    return tls;
  tls_close(tls);
  return NULL;
}

static int tls_feed(es_tls *tls, const char *bytes, size_t size) {
  return BIO_write(tls->in, bytes, (int)size) == (int)size ? 0 : -1;
}

static es_tls_result tls_read(es_tls *tls, char *plain, size_t room, size_t *got) {
  if (tls->told != NULL)
    return ES_TLS_ERROR;
  ERR_clear_error();
  int n = SSL_read(tls->ssl, plain, (int)room);
  if (n > 0) {
    *got = (size_t)n;
    return ES_TLS_BYTES;
  }
  switch (SSL_get_error(tls->ssl, n)) {
  case SSL_ERROR_WANT_READ:
  case SSL_ERROR_WANT_WRITE:
    return ES_TLS_MORE;
  case SSL_ERROR_ZERO_RETURN:
    return ES_TLS_END;
  default:
    note(tls);
    return ES_TLS_ERROR;
  }
}

static int tls_ready(es_tls *tls) {
  return SSL_is_init_finished(tls->ssl);
}

static int tls_write(es_tls *tls, const char *plain, size_t size) {
  ERR_clear_error();
  if (SSL_write(tls->ssl, plain, (int)size) == (int)size)
    return 0;
  note(tls);
  return -1;
}

static size_t tls_take(es_tls *tls, char *bytes, size_t room) {
  int n = BIO_read(tls->out, bytes, (int)room);
  return n > 0 ? (size_t)n : 0;
}

static const char *tls_error(es_tls *tls) {
  return tls->told != NULL ? tls->told : "the connection failed";
}

static const es_tls_methods methods = {tls_open,  tls_close, tls_feed, tls_read,
                                       tls_ready, tls_write, tls_take, tls_error};

/* context(ca_file): a context that trusts the system's certificate authorities, or those of a file; or nil and why. */
static int l_context(lua_State *L) {
  const char *ca_file = luaL_optstring(L, 1, NULL);
  context *c = lua_newuserdata(L, sizeof *c);
  *c = (context){.head = {.methods = &methods}};
  luaL_getmetatable(L, ES_TLS_CLASS);
  lua_setmetatable(L, -2);
  ERR_clear_error();
  c->ctx = SSL_CTX_new(TLS_client_method());
  if (c->ctx == NULL)
    return luaL_error(L, "out of memory");
  SSL_CTX_set_min_proto_version(c->ctx, TLS1_2_VERSION);
  SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
  SSL_CTX_set_mode(c->ctx, SSL_MODE_RELEASE_BUFFERS); /* an idle connection has none */
  if ((ca_file != NULL ? SSL_CTX_load_verify_locations(c->ctx, ca_file, NULL)
                       : SSL_CTX_set_default_verify_paths(c->ctx)) == 1)
    return 1;
  unsigned long code = ERR_get_error(); /* the cause; behind it stands what it led to */
  const char *reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
  lua_pushnil(L);
  lua_pushstring(L, reason != NULL ? reason : "no certificates could be read");
  ERR_clear_error();
  return 2;
}

static int l_context_gc(lua_State *L) {
  context *c = lua_touserdata(L, 1);
  SSL_CTX_free(c->ctx); /* connections have references of their own */
  c->ctx = NULL;
  return 0;
}

int luaopen_eventstream_tls(lua_State *L);

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int luaopen_eventstream_tls(lua_State *L) {
  luaL_newmetatable(L, ES_TLS_CLASS);
  lua_pushcfunction(L, l_context_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_context);
  lua_setfield(L, -2, "context");
  return 1;
}
