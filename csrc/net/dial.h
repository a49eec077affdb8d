/* dial: a client's connection: finds the host's addresses, connects to the first that answers (RFC 8305), speaks TLS where
 * it is to, sends one text, and hands on what comes.
 *
 * Frees itself when it is closed and libuv has let go of what is its own. */
#ifndef ES_NET_DIAL_H
#define ES_NET_DIAL_H

#include "core/frame.h"
#include "net/loop.h"
#include "net/tls.h"

typedef struct es_dial es_dial;

/* Called in a turn, and never after es_dial_close, which they may call. */
typedef struct es_dial_hooks {
  void (*bytes)(void *owner, const char *bytes, size_t size);
  void (*ended)(void *owner, const char *why); /* once; NULL: the peer has ended it in good order. To be closed then */
} es_dial_hooks;

/* text is what is sent, and copied. tls, which may be NULL, must stay until the dial is closed. NULL and a
 * negative libuv error where it cannot be begun. */
es_dial *es_dial_open(es_loop *loop, const char *host, int port, es_tls_context *tls, es_slice text,
                      const es_dial_hooks *hooks, void *owner, int *err);

/* Whether the connection stands (and its handshake is over). */
bool es_dial_is_up(const es_dial *dial);

/* Reads no more for a while: the peer is held back. What has been read already is still handed on. Idempotent. */
void es_dial_pause(es_dial *dial, bool pause);

void es_dial_close(es_dial *dial);

#endif
