/* callers: how many connections each remote address has, so that no one takes them all.
 *
 * An IPv6 client has a whole network of addresses: what is counted is its first 64 bits. Belongs to its server; an
 * address that has no connection has no entry. */
#ifndef ES_NET_CALLERS_H
#define ES_NET_CALLERS_H

#include "core/address.h"

struct es_server;

typedef enum es_caller {
  ES_CALLER_FREE,    /* not counted: no address, a trusted proxy, or loopback without a limit of its own */
  ES_CALLER_COUNTED, /* es_callers_leave is owed */
  ES_CALLER_OVER,    /* the same; it is above the limit, and is to be told so */
  ES_CALLER_REFUSED  /* not counted: far above the limit, or memory is out */
} es_caller;

es_caller es_callers_enter(struct es_server *server, const es_peer *peer);
void es_callers_leave(struct es_server *server, const es_peer *peer);

/* Frees what is left. */
void es_callers_free(struct es_server *server);

#endif
