/* exchange: one request of a connection with its answer, which may be a stream.
 *
 * Reference-counted, because scripts may hold it longer than the socket lives; after its end it is an empty shell that
 * knows its request, its peer and why it ended. The connection holds one reference while the exchange is under way,
 * and the queued end another. Nothing here calls the layer above but from jobs, so ending is safe anywhere. */
#ifndef ES_NET_EXCHANGE_H
#define ES_NET_EXCHANGE_H

#include "core/address.h"
#include "net/loop.h"

struct es_server;
struct es_connection;

typedef enum es_reason {
  ES_OPEN = 0,
  ES_END_DONE,    /* an ordinary answer was given */
  ES_END_CLIENT,  /* the client left */
  ES_END_SERVER,  /* the script or the app's end closed it */
  ES_END_SLOW,    /* the client did not read what was sent */
  ES_END_TIMEOUT, /* the peer is gone without a word */
  ES_END_EXPIRED, /* the stream reached its age, or es_connection_expire */
  ES_END_ERROR    /* the script failed */
} es_reason;

/* What an access log tells. */
typedef struct es_account {
  uint64_t began; /* nanoseconds, of uv_hrtime */
  uint64_t bytes; /* handed to the socket: of a stream; of another answer's body */
  /* private; of an answer that is no stream */
  uint64_t unsent;          /* bytes of its connection up to its last one */
  struct es_exchange *next; /* the connection's next answer that is not sent yet */
} es_account;

typedef struct es_exchange {
  /* read-only; what an event touches stands first */
  struct es_server *server;         /* NULL after on_end */
  struct es_connection *connection; /* NULL once over */
  void *user;                       /* the layer above */
  uint8_t reason;                   /* an es_reason: ES_OPEN while it runs */
  bool head_sent;                   /* the answer has begun */
  bool streaming;                   /* it is a stream */
  /* private */
  bool chunked, wants_room, has_room;
  bool counted; /* among its client's address's, which a proxy named */
  uint16_t refs;
  /* read-only */
  uint16_t status; /* of its answer, 0 before */
  /* read-only */
  uint32_t subscribed; /* its subscriptions */
  es_peer peer;
  es_request *request;
  /* private */
  struct es_subscription *gone; /* subscriptions that are over */
  es_job end_job, note_job;
  /* read-only */
  es_account *account; /* NULL unless es_exchange_keep_account */
} es_exchange;

/* For connection.c: an exchange with one reference, or NULL when memory is out; takes the request over. */
es_exchange *es_exchange_new(struct es_connection *connection, es_request *request);

/* For connection.c, of answers that are over when they are sent: so many bytes were; none will be any more, as it was
 * closed for that reason. */
void es_exchange_sent(struct es_connection *connection, size_t size);
void es_exchange_unsent(struct es_connection *connection, es_reason reason);

/* For server.c, which goes away: its exchanges whose end is still queued then end silently. */
void es_exchange_forget_server(struct es_server *server);

/* From now on it counts what its account says, and an answer that is no stream is over (on_end) when it was sent, or could
 * not be; 0, or UV_ENOMEM. */
int es_exchange_keep_account(es_exchange *exchange);

es_exchange *es_exchange_ref(es_exchange *exchange);
void es_exchange_unref(es_exchange *exchange); /* NULL is allowed */

/* Says that this will be a stream, before its head is sent: from now on the client's FIN ends it. */
void es_exchange_stream(es_exchange *exchange);

/* Starts the stream: head and first byte. extra is a block of header lines, each ended by CRLF and checked already;
 * where it names Cache-Control, Connection or X-Accel-Buffering it replaces ours. 0, or UV_ENOMEM. A HEAD request is
 * done with it. */
int es_exchange_open(es_exchange *exchange, es_slice extra);

/* Queues a checked event on an open stream: 0, UV_ENOBUFS when the backlog is full (on_room will tell), UV_ECANCELED
 * when the stream ended instead, UV_ENOMEM. What waits is offered to the kernel before anything is refused. An event
 * larger than the backlog is taken when nothing waits. */
int es_exchange_send(es_exchange *exchange, const es_event *event);

/* The same for a frame that is written already. */
int es_exchange_send_frame(es_exchange *exchange, es_slice frame);

/* Whether an event of so many bytes would be taken now; if not, on_room will tell when to ask again. May find the stream
 * broken, and end it. */
bool es_exchange_has_room(es_exchange *exchange, size_t size);

/* A whole ordinary answer; the exchange ends with it. 0, or UV_ENOMEM (then the connection is cut). */
int es_exchange_answer(es_exchange *exchange, int status, es_slice extra, es_slice body);

/* The same with bytes of a file as its body, which are read as the client takes them; takes the descriptor over. */
int es_exchange_answer_file(es_exchange *exchange, int status, es_slice extra, int fd, int64_t offset, uint64_t size);

/* The same as es_exchange_answer for what went wrong: it ends with ES_END_ERROR. */
void es_exchange_fail(es_exchange *exchange, int status, es_slice extra, es_slice body);

/* Answers 503, and that it may be tried again, and ends for the reason. */
int es_exchange_answer_later(es_exchange *exchange, es_reason reason);

/* Answers 200 with a jittered retry and ends for the reason: a browser's EventSource comes back, where any other status
 * would end it for good. What is no GET or HEAD comes from no EventSource: it is answered later. */
int es_exchange_come_back(es_exchange *exchange, es_reason reason);

/* The same for a stream that may have begun; its reason is ES_END_SERVER. */
void es_exchange_send_away(es_exchange *exchange);

/* Ends it: what was sent before is still delivered, then a stream's last chunk. Idempotent. */
void es_exchange_end(es_exchange *exchange, es_reason reason);

/* A stream is to end with ES_END_EXPIRED so many seconds from now, unless it was to end sooner; one that has not begun by
 * then is told to come back. */
void es_exchange_expire(es_exchange *exchange, double seconds);

/* Hands what is queued to the kernel now instead of at the turn's end. */
void es_exchange_flush(es_exchange *exchange);

/* Bytes that wait for the client's socket. */
size_t es_exchange_backlog(const es_exchange *exchange);

/* A channel of whose subscription the end has not been told yet, or NULL. The caller takes a reference over. */
struct es_channel *es_exchange_gone(es_exchange *exchange);

/* For connection.c and subscription.c: there is something to do or to tell when the callback has returned. */
void es_exchange_note(es_exchange *exchange);

/* Queues bytes of a stream behind all that was published before: 0, or UV_ENOMEM. */
int es_exchange_queue(es_exchange *exchange, const es_event *event);

/* "client", "server", ... */
const char *es_reason_name(es_reason reason);

#endif
