/* connection: one client's socket.
 *
 * Belongs to its server, and frees itself when its socket is closed. Owns its parser (only while it reads a request),
 * the queue of its own bytes to send, its subscriptions, and one reference to the exchange under way. Nothing writes to
 * the socket but es_connection_flush, which is called at the end of a turn and by the passes of the fan-out. */
#ifndef ES_NET_CONNECTION_H
#define ES_NET_CONNECTION_H

#include "core/parser.h"
#include "core/queue.h"
#include "net/due.h"
#include "net/exchange.h"
#include "net/loop.h"

#include <sys/socket.h>

typedef enum es_connection_state {
  ES_READING,   /* a request is awaited, or comes in */
  ES_ANSWERING, /* an exchange is under way */
  ES_CLOSING,   /* no more is read; what is queued goes out */
  ES_LINGERING, /* our side is shut; until the client has read it all and shuts its own (RFC 9112, 9.6) */
  ES_CLOSED
} es_connection_state;

/* What stands in for the socket of a connection that another server hosts (hosted.h). */
typedef struct es_hosted {
  void *holder; /* the layer above's */
  /* private */
  es_loop *loop;
  struct es_connection *next; /* of those whose holders are called */
  uint8_t calls;              /* what for; 0: it is not among them */
  bool awaited;               /* the holder has been offered bytes, and has not come yet */
  bool coming;                /* it was called for bytes, and takes until nothing is due: no need to call it again */
  bool ended;                 /* all was taken, and the end was in order */
} es_hosted;

/* What an event touches stands first, so that thousands of streams touch few lines of memory each. */
typedef struct es_connection {
  /* read-only */
  struct es_server *server;
  es_exchange *exchange;          /* under way, or NULL */
  es_exchange *unsent;            /* kept by exchange.c: the first answer that is over when it is sent */
  es_queue out;                   /* appended to by exchange.c, which then calls es_connection_dirty */
  es_subscription *subscriptions; /* kept by subscription.c and group.c */
  es_mark *marks;                 /* the last of a ring; kept by marks.c, as the next two */
  size_t held_bytes;
  es_rest rest;
  struct es_connection *next_dirty; /* the loop's */
  /* private */
  uint64_t since; /* when the state began, or bytes last moved: milliseconds */
  int fd;
  uint8_t state;
  bool dirty, gone, last, shed, streamed;
  bool writing; /* bytes wait for the socket's word that there is room */
  bool full;    /* because it refused them, and not only because the connection's share of a turn was used up */
  bool chunked; /* its stream is */
  bool grouped; /* its first group of subscriptions is complete */
  bool is_hosted;
  bool spare;         /* its descriptor is a spare one */
  uint16_t groups;    /* how many there were */
  uint16_t pipelined; /* requests that were begun since bytes were read */
  uint32_t serial;    /* its stream's number in the app */
  uint32_t mark_count;
  float patience; /* the kernel's, in seconds */
  struct es_group *group;
  es_deadline deadline;
  es_parser *parser;
  struct es_held *held; /* bytes behind a request that is being answered */
  uint64_t expires;     /* when the stream ends: milliseconds; ES_NEVER */
  union {
    uv_poll_t poll;
    es_hosted hosted;
  };
  /* read-only */
  es_peer peer;
  /* private */
  bool excepted;    /* some event was not for it */
  bool proxied;     /* a proxy's header comes first, by which it names its client */
  bool counted : 1; /* among its address's */
  bool kept : 1;    /* a request of it was answered */
  bool crowded : 1; /* its address has too many */
  bool unnamed : 1; /* its proxy's header names no client, so what its requests say of one is anybody's word */
  /* read-only */
  struct es_connection *prev, *next; /* the server's */
} es_connection;

/* What a listener knows of a client that it accepted. */
typedef struct es_accepted {
  es_peer peer;
  bool proxied; /* a proxy's header comes first */
  bool shed;    /* it is one too many, and is only told to come back */
  bool spare;   /* its descriptor is one of the loop's spare ones */
} es_accepted;

/* Takes over the descriptor, also when memory is out. */
void es_connection_new(struct es_server *server, int fd, const es_accepted *accepted);

/* The same for hosted.c, without a socket; NULL when memory is out. */
es_connection *es_connection_new_hosted(struct es_server *server, const es_peer *peer, bool shed);

/* Has bytes to flush at the turn's end. */
void es_connection_dirty(es_connection *connection);

/* Hands what is queued to the kernel, as much as it takes. */
void es_connection_flush(es_connection *connection);

/* The same ahead of the turn's end, unless the kernel is known to be full. */
void es_connection_flush_now(es_connection *connection);

/* Gives a reader that does not read so many seconds, and some, before the kernel cuts it. */
void es_connection_be_patient(es_connection *connection, double seconds);

/* For intake.c. Enters a state; watches what the state reads for; sets what falls due so many seconds after `since`. */
void es_connection_enter(es_connection *connection, es_connection_state state);
void es_connection_watch(es_connection *connection);
void es_connection_set_due(es_connection *connection, double seconds);

/* For intake.c. The peer is known: counts the connection among its address's, and sheds it where it is one too many;
 * false: it is to be cut. */
bool es_connection_count(es_connection *connection);

/* For hosted.c. So many bytes have gone; writing: there may be more to come. */
void es_connection_wrote(es_connection *connection, size_t bytes, bool writing);

/* For exchange.c. The exchange has become a stream; its head is queued; it is over (keep: the client may send another
 * request, as far as the exchange is concerned). */
void es_connection_streams(es_connection *connection);
void es_connection_opened(es_connection *connection);
void es_connection_done(es_connection *connection, bool keep);

/* Cuts it at once; its exchange, if any, ends for the reason. */
void es_connection_close(es_connection *connection, es_reason reason);

/* The stream ends so many seconds from now, unless it was to end sooner. */
void es_connection_expire(es_connection *connection, double seconds);

/* Lets the request under way be its last; closes it if there is none. */
void es_connection_retire(es_connection *connection);

/* Whether it only waits for a next request. */
bool es_connection_is_idle(const es_connection *connection);

#endif
