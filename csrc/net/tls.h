/* tls: what the core asks of a TLS library, as a client. The library stands in a module of its own (csrc/tls/), so that who
 * wants none needs none. It is bytes in and bytes out: the sockets stay here. */
#ifndef ES_NET_TLS_H
#define ES_NET_TLS_H

#include <stddef.h>

#define ES_TLS_CLASS "eventstream.tls.1" /* the userdata that is an es_tls_context; the number is the interface's */

typedef struct es_tls es_tls; /* one connection */

typedef enum es_tls_result {
  ES_TLS_MORE,  /* nothing more until bytes come from the peer */
  ES_TLS_BYTES, /* plain bytes are there */
  ES_TLS_END,   /* the peer has ended it in good order */
  ES_TLS_ERROR  /* error() says why */
} es_tls_result;

struct es_tls_context;

typedef struct es_tls_methods {
  /* host is what the certificate must be for. NULL when memory is out. */
  es_tls *(*open)(struct es_tls_context *context, const char *host);
  void (*close)(es_tls *tls);

  /* What has come from the peer. 0, or -1 when memory is out. */
  int (*feed)(es_tls *tls, const char *bytes, size_t size);

  /* Goes on, with the handshake too; *got plain bytes. To be called until it says something but ES_TLS_BYTES. */
  es_tls_result (*read)(es_tls *tls, char *plain, size_t room, size_t *got);

  /* Whether the handshake is over: only then may be written. */
  int (*ready)(es_tls *tls);
  int (*write)(es_tls *tls, const char *plain, size_t size); /* all of it: 0, or -1 */

  /* Moves up to room of the bytes that are to be sent to the peer; how many. */
  size_t (*take)(es_tls *tls, char *bytes, size_t room);

  const char *(*error)(es_tls *tls);
} es_tls_methods;

/* What a script holds; the module's own follows behind it. */
typedef struct es_tls_context {
  const es_tls_methods *methods;
} es_tls_context;

#endif
