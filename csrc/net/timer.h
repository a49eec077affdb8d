/* timer: calls back once, or every period without drifting.
 *
 * Embedded in its owner's memory. es_timer_free stops it and gives the memory back through on_free, a turn later
 * (libuv's rule for closing handles); until then the owner must not free it. */
#ifndef ES_NET_TIMER_H
#define ES_NET_TIMER_H

#include "net/loop.h"

typedef struct es_timer {
  /* the owner's */
  void (*on_tick)(struct es_timer *timer);
  void (*on_free)(struct es_timer *timer); /* the memory is the owner's again */
  /* private */
  uv_timer_t uv;
  es_loop *loop;
  struct es_timer *prev, *next;
  double due, period; /* milliseconds */
} es_timer;

void es_timer_init(es_loop *loop, es_timer *timer, void (*on_tick)(es_timer *), void (*on_free)(es_timer *));

/* Ticks once after seconds, or first then and every seconds after if repeats. A tick that comes late skips those that
 * it missed: the times stay first + n * seconds. */
void es_timer_start(es_timer *timer, double seconds, bool repeats);

void es_timer_stop(es_timer *timer);
void es_timer_free(es_timer *timer);

#endif
