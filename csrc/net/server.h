/* server: an app's network half: its listeners, its connections, its channels, its limits and counters.
 *
 * Owns its listeners, connections and channels. Tells the layer above through es_handlers; those calls come from inside a turn,
 * from a callback of libuv's or a job, and may do anything to the server but free it. */
#ifndef ES_NET_SERVER_H
#define ES_NET_SERVER_H

#include "core/cors.h"
#include "net/callers.h"
#include "net/channel.h"
#include "net/connection.h"
#include "net/listener.h"
#include "net/loop.h"

typedef struct es_limits {
  size_t connections;         /* clients at once; those above are told to come back later */
  size_t address_connections; /* the same, of one address; 0: no limit */
  bool loopback;              /* that holds for loopback addresses, too */
  size_t header_bytes;        /* request line and headers */
  size_t body_bytes;          /* a request's body */
  size_t backlog_bytes;       /* what may wait for one client's socket */
  size_t pipelined;           /* requests behind one another that are answered from one read */
  double header_seconds;      /* from a connection's start, or a request's first byte, to the end of its head */
  double body_seconds;        /* from there to the end of its body */
  double keep_alive_seconds;  /* between two requests of a connection */
  double stream_seconds;      /* a stream's age; 0: no limit */
} es_limits;

/* Why a client was not served. */
typedef enum es_refusal {
  ES_REFUSED_MALFORMED, /* what it sent is no request, or no proxy's header */
  ES_REFUSED_LARGE,
  ES_REFUSED_LATE,
  ES_REFUSED_FULL,    /* connections, descriptors, or memory for what waits */
  ES_REFUSED_ADDRESS, /* it has as many connections as an address may have */
  ES_REFUSED_CLOSING,
  ES_REFUSALS
} es_refusal;

typedef struct es_stats {
  uint64_t rejected[ES_REFUSALS];
  uint64_t accepted, requests, published, events, bytes_in, bytes_out;
  uint64_t resumes, gaps, slow, skipped; /* subscribers that came back; gaps told; slow readers cut, or skipped */
  size_t connections, streams, channels, subscribers;
} es_stats;

typedef struct es_server es_server;

typedef struct es_handlers {
  /* A whole request is there. The layer above answers it, at once or later, by one of the es_exchange functions. */
  void (*on_request)(es_exchange *exchange);
  /* A stream that had no room for an event has some again. */
  void (*on_room)(es_exchange *exchange);
  /* Subscriptions of a stream that goes on are over: es_exchange_gone tells which. */
  void (*on_gone)(es_exchange *exchange);
  /* The exchange is over, and with it its subscriptions (es_exchange_gone); called once for every on_request. */
  void (*on_end)(es_exchange *exchange);
  /* es_server_close is through: nothing of the server is open any more. */
  void (*on_closed)(es_server *server);
} es_handlers;

struct es_server {
  /* set by the layer above before the first listener; pool.budget.limit, too: what may wait for all clients, and their
   * bodies */
  es_limits limits;
  es_cors cors;             /* which other origins may read its answers; what it owns is the server's to clear */
  es_trust trust;           /* its networks are the server's to free */
  double heartbeat_seconds; /* 0: none */
  double retry_ms;          /* what a stream's first byte tells; below 0: nothing */
  const es_handlers *handlers;
  void *user;
  /* read-only */
  es_loop *loop;
  es_stats stats;
  bool closing;
  double spread;              /* once it closes: who is sent away comes back within so many seconds */
  uint64_t epoch;             /* of its ids */
  uint64_t sequence;          /* the highest that was given to a frame */
  uint64_t gone;              /* the highest of a channel that went away */
  uint64_t given_gone;        /* the highest with a given id of such a channel */
  uint64_t lost;              /* the highest that was given, and whose frame never came */
  es_table channels, ids;     /* kept by channel.c and log.c */
  es_table callers;           /* kept by callers.c */
  es_pool pool;               /* for the connections' queues */
  uint32_t serial;            /* of the newest stream */
  es_connection *connections; /* kept by connection.c */
  es_listener *listeners;     /* kept by listener.c */
  /* private */
  es_server *prev, *next;
  es_job closed_job;
  bool closed;
  es_deadline grace;
  uint64_t grace_due;
};

/* NULL when memory is out. */
es_server *es_server_new(es_loop *loop);

/* Closes all that is left at once, without any of the handlers, and frees the server; NULL is allowed. */
void es_server_free(es_server *server);

/* Stops accepting and ends every stream, each told to come back after a time of its own within spread seconds, as whoever
 * is sent away from then on; what is still open after grace seconds is cut. Returns at once; on_closed tells the end. A second call may shorten the grace. */
void es_server_close(es_server *server, double grace, double spread);

/* Where sequences are given elsewhere, because several processes serve one app. Joins, before anything is published, at
 * a sequence up to which all counts as gone. What has come of the others is appended by es_channel_deliver, in order;
 * where a number has no frame (for nobody here, or not kept), passes it; and where its frame is lost, tells so, to all
 * subscribers of all channels, and to whoever comes back with an older id; to them alone, bounds their ids. */
void es_server_join(es_server *server, uint64_t epoch, uint64_t sequence);
void es_server_pass(es_server *server, uint64_t sequence);
void es_server_lose(es_server *server, uint64_t sequence);
void es_server_bound(es_server *server, uint64_t sequence);

/* For connection.c and listener.c: the last of them may have gone. */
void es_server_check_closed(es_server *server);

#endif
