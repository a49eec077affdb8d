/* timer: calls back once, or every period without drifting.
 *
 * Embedded in its owner's memory, which may be freed as soon as the timer is stopped, also inside its own on_tick. A
 * running timer keeps the loop alive. */
#ifndef ES_NET_TIMER_H
#define ES_NET_TIMER_H

#include "net/loop.h"

typedef struct es_timer {
  /* private */
  es_deadline deadline;
  double due, period; /* milliseconds; the period of one that does not repeat is 0 */
  es_loop *loop;
  void (*on_tick)(struct es_timer *timer);
  bool running, hasty;
} es_timer;

void es_timer_init(es_loop *loop, es_timer *timer, void (*on_tick)(es_timer *));

/* Ticks once after seconds, or first then and every seconds after if repeats. A tick that comes late skips those that
 * it missed: the times stay start + n * seconds. Where thousands run, it may be ES_CROWD_REST_MS late. 0, or -1 when memory
 * is out. */
int es_timer_start(es_timer *timer, double seconds, bool repeats);

/* Idempotent. */
void es_timer_stop(es_timer *timer);

#endif
