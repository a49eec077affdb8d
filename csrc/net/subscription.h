/* subscription: a stream's cursor in a channel.
 *
 * Belongs to its connection, where it stays until what was published before its end is delivered; a subscription that
 * is over is handed to its exchange, so that the layer above can be told (es_exchange_gone). A cursor is a sequence:
 * the reader has everything of the channel up to it. */
#ifndef ES_NET_SUBSCRIPTION_H
#define ES_NET_SUBSCRIPTION_H

#include "net/channel.h"

struct es_connection;
struct es_exchange;

typedef struct es_subscription {
  es_channel *channel;
  struct es_connection *connection;
  uint64_t cursor;
  struct es_subscription *sibling;     /* the connection's */
  struct es_subscription *next, *prev; /* the channel's walk */
  uint32_t joined;                     /* the low half of the sequence at which it began */
  uint16_t group;
  bool parity : 1;
  bool ended : 1;    /* gets what was published before its end, and nothing after */
  bool pending : 1;  /* its group has not been reached */
  bool gap : 1;      /* a gap event of it is due or under way */
  bool replays : 1;  /* below `joined`: gets no frame without an id */
  bool catches : 1;  /* began in the past, and is not slow for that */
  bool excepted : 1; /* some frame ahead of its cursor is not for it */
  bool told : 1;     /* the layer above is to be told of its end */
} es_subscription;

/* The sequence at which it began, while its cursor is not above that. */
static inline uint64_t es_subscription_joined(const es_subscription *s) {
  return s->cursor + (uint32_t)(s->joined - (uint32_t)s->cursor);
}

/* Where a subscription starts. */
typedef struct es_start {
  es_slice id;     /* what the client had last; ptr NULL: nothing */
  bool since;      /* the script said so: holds in any group */
  bool live;       /* at the head, whatever the id */
  bool gap_live;   /* after a gap: at the head, and not at the oldest kept frame */
  size_t newcomer; /* a client without an id gets so many of the newest frames */
} es_start;

typedef enum es_subscribed {
  ES_SUBSCRIBED_LIVE,
  ES_SUBSCRIBED_RESUMED,
  ES_SUBSCRIBED_GAP,
  ES_SUBSCRIBED_ALREADY, /* nothing was changed */
  ES_SUBSCRIBED_CLOSED,  /* the stream or the channel is */
  ES_SUBSCRIBED_NO_MEMORY
} es_subscribed;

/* The stream's head must be sent. */
es_subscribed es_subscribe(struct es_exchange *exchange, es_channel *channel, const es_start *start);

/* Nothing more of the channel is written, but for the rest of a frame. Tells whether there was a subscription. */
bool es_unsubscribe(struct es_exchange *exchange, es_channel *channel);

es_subscription *es_subscription_of(const struct es_connection *connection, const es_channel *channel);

/* For exchange.c and connection.c. The stream ends; deliver: what was published before still goes out. Tells whether there is such. */
bool es_subscriptions_end(struct es_connection *connection, bool deliver);

/* The connection has no use for them any more. */
void es_subscriptions_drop(struct es_connection *connection);

/* What could not be evicted for their sake may go now. */
void es_subscriptions_release(struct es_connection *connection);

/* Lets those go whose channel is closed and that have got all of it. */
void es_subscriptions_sweep(struct es_connection *connection);

/* For server.c: frames are gone that they should have got, behind all that were published so far. Where there is no memory
 * to tell so, the connection is cut. */
void es_subscriptions_tell_gap(struct es_connection *connection);

/* For handover.c: the same for all of one channel's. */
void es_channel_tell_gap(struct es_channel *channel);

/* For channel.c: the channel is being closed. */
void es_subscription_close(es_subscription *subscription);

#endif
