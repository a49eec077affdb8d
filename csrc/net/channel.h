/* channel: a named log and its subscribers.
 *
 * Belongs to its server, which finds it by name. It goes away by itself as soon as nobody needs it: no handle (es_channel_ref),
 * no subscriber, no frame kept. What then comes back under its name counts everything up to the app's highest
 * sequence of such a channel as gone. After es_channel_close, or the server's end, a handle is an empty shell. */
#ifndef ES_NET_CHANNEL_H
#define ES_NET_CHANNEL_H

#include "core/ids.h"
#include "core/log.h"
#include "net/fanout.h"
#include "net/loop.h"

struct es_server;
struct es_exchange;

#define ES_FLUSH_AUTO (-1.0)

typedef struct es_channel_options {
  size_t history;         /* frames that are kept */
  size_t history_bytes;   /* of theirs, on the wire */
  double history_seconds; /* 0: no bound */
  double flush;           /* seconds between two passes; 0: at each turn's end; or ES_FLUSH_AUTO */
  bool skip;              /* a slow reader goes on at the newest frame; else it is disconnected */
} es_channel_options;

typedef struct es_channel {
  /* read-only */
  struct es_server *server; /* NULL once closed */
  es_node node;             /* its name, in server->channels */
  es_channel_options options;
  es_log log; /* the history */
  uint64_t epoch;
  es_log *live;       /* frames without an id, for live readers only; NULL until there is one */
  size_t subscribers; /* those that get what is published now */
  uint64_t published;
  /* private */
  struct es_subscription *at; /* the walk: a ring of all subscriptions, where the next visit is */
  struct es_subscription *visited;
  uint32_t refs;
  uint8_t state; /* es_fanout_state */
  bool parity;   /* of the subscriptions that this pass has visited */
  bool passing, again;
  bool gives;                   /* it was given ids */
  bool counted;                 /* among the fan-out's autos */
  size_t behind;                /* of the last pass: readers whose sockets refused bytes */
  uint64_t offered;             /* everything up to this sequence was offered to every subscriber */
  uint64_t pass_offers;         /* what this pass offers */
  uint64_t passed;              /* what the last pass had offered, whoever has come since */
  size_t waiting, pass_waiting; /* bytes above `offered`; those of them that the pass under way offers */
  uint64_t started, took;       /* nanoseconds */
  uint64_t fresh;               /* what is above this sequence was published since a turn's first pass */
  uint64_t settled;             /* that turn */
  size_t fresh_count, fresh_bytes;
  uint64_t turn, turn_start; /* the turn of the newest publish, and the sequence before that turn's first */
  size_t turn_count, turn_bytes;
  uint64_t burst, burst_until; /* the last burst's highest sequence; when its readers' time is over */
  es_deadline due, expiry;
  struct es_channel *next, *prev; /* in a list of the fan-out's */
} es_channel;

/* A burst, more than half of the history between two turns' ends, cuts nobody: a reader has so long to take it, and
 * meanwhile nothing is evicted before those that refused bytes, up to so many above the history's. */
#define ES_BURST_MS 5000
#define ES_BURST_BYTES 8388608

/* Finds the channel, or NULL. */
es_channel *es_channel_find(const struct es_server *server, es_slice name);

/* Makes one; NULL when memory is out. The name is copied. */
es_channel *es_channel_new(struct es_server *server, es_slice name, const es_channel_options *options);
void es_channel_set(es_channel *channel, const es_channel_options *options);

/* A handle. Letting the last one go closes nothing. */
es_channel *es_channel_ref(es_channel *channel);
void es_channel_unref(es_channel *channel);

/* What is published: an id of the channel's own, the script's (event.id), or none. */
typedef enum es_id_kind { ES_ID_OWN, ES_ID_GIVEN, ES_ID_NONE } es_id_kind;

/* Appends a checked event, whose id is set here for ES_ID_OWN (text has ES_ID_TEXT bytes). Not for `except`, which may
 * be NULL. 0, UV_ENOMEM, or UV_ECANCELED when the channel is closed. May run a pass, and so end streams. */
int es_channel_publish(es_channel *channel, es_event *event, es_id_kind kind, const struct es_exchange *except,
                       char *text);

/* The same for an event that has its sequence from elsewhere, above all that were before, and is so many milliseconds old
 * (server.h, es_server_join). An id of the channel's own is written here, too. */
int es_channel_deliver(es_channel *channel, const es_event *event, es_id_kind kind, const struct es_exchange *except,
                       uint64_t sequence, uint64_t age);

/* Ends all subscriptions, which still get what was published before; drops the history; frees the name. Idempotent. */
void es_channel_close(es_channel *channel);

/* The id that stands for its newest frame, to go on from. */
es_slice es_channel_id(const es_channel *channel, char *text);

/* For fanout.c and subscription.c. The frames above `after`, up to `upto`, tell how far a reader is behind. */
void es_channel_judge(const es_channel *channel, uint64_t cursor, uint64_t *after, uint64_t *upto);
void es_channel_settle(es_channel *channel);      /* a turn's first pass begins */
void es_channel_settle_turn(es_channel *channel); /* a pass in a callback begins: its own burst stays fresh */
void es_channel_evict(es_channel *channel);
void es_channel_rest(es_channel *channel); /* may free it */

/* The event that tells a subscriber of a gap. */
es_event es_channel_gap(const es_channel *channel);

/* For server.c, whose sequences come from elsewhere: all up to there counts as gone. */
void es_channel_join(es_channel *channel);

/* For server.c, which goes away: closes all channels without a word. */
void es_channels_free(struct es_server *server);

#endif
