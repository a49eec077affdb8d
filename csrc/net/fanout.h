/* fanout: hands what was published to all subscribers, in passes.
 *
 * One for the loop. A pass walks over a channel's subscribers and flushes each that is behind. It has a budget of time in
 * each turn and goes on in the next, so that accepts, reads and timers never starve; it starts at another subscriber
 * each time. With flush = "auto", no pass starts sooner after the last ones than those took. No Lua runs inside.
 *
 * Borrows the channels that have something to hand out; each is taken out before it is freed. */
#ifndef ES_NET_FANOUT_H
#define ES_NET_FANOUT_H

#include "core/deadlines.h"
#include "core/log.h"

#include <stdbool.h>
#include <sys/uio.h>
#include <uv.h>

struct es_loop;
struct es_channel;
struct es_subscription;

typedef enum es_fanout_state {
  ES_FAN_IDLE,
  ES_FAN_RESTING, /* "auto", until the rest is over */
  ES_FAN_TIMED,   /* until its own time has come */
  ES_FAN_READY    /* a pass may start, or is under way */
} es_fanout_state;

typedef struct es_channel_list {
  struct es_channel *first, *last;
} es_channel_list;

#define ES_STRETCH_SLICES 8

/* What all subscribers that were at the head have to get: prepared once, shared by all. */
typedef struct es_stretch {
  const struct es_channel *channel; /* NULL: none is prepared */
  uint64_t from, to;                /* sequences */
  uint64_t place, end;
  size_t count, bytes;
  struct iovec slices[ES_STRETCH_SLICES];
} es_stretch;

typedef struct es_fanout {
  /* private */
  es_channel_list ready, resting;
  es_deadlines timed; /* nanoseconds */
  size_t autos;       /* of the ready ones */
  uint64_t took;      /* nanoseconds, by the passes of this round */
  uint64_t rest_until;
  size_t awaited; /* holders of hosted connections */
  uint64_t awaited_since;
  uv_timer_t clock;
  es_stretch stretch;
} es_fanout;

/* The clock is closed by es_loop_free. */
void es_fanout_init(struct es_loop *loop);

/* There is something to hand out. */
void es_fanout_add(struct es_channel *channel);

/* The channel goes away, or has nothing to hand out any more. */
void es_fanout_remove(struct es_channel *channel);

/* Its flush option has changed: what waits for its time waits by the new one. */
void es_fanout_pace(struct es_channel *channel);

/* Runs a whole pass at once. */
void es_fanout_pass(struct es_channel *channel);

/* For hosted.c: a holder is awaited, which will bring what it was offered to a client; it has come, or comes no more.
 * With flush = "auto" no pass starts while any is awaited, and none before a rest as long as all of them took. */
void es_fanout_await(struct es_loop *loop);
void es_fanout_came(struct es_loop *loop);

/* When the next pass is due: nanoseconds, or ES_NEVER. */
uint64_t es_fanout_next(const struct es_loop *loop);

/* For the loop, at a turn's end: runs what is due, within the budget. Then, behind the last callback: sets the clock for
 * what waits, and tells whether more is due already. */
void es_fanout_run(struct es_loop *loop);
void es_fanout_wind(struct es_loop *loop);
bool es_fanout_is_due(const struct es_loop *loop);

/* For subscription.c: joins and leaves the walk. */
void es_fanout_join(struct es_channel *channel, struct es_subscription *subscription);
void es_fanout_leave(struct es_subscription *subscription);

#endif
