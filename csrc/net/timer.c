#include "net/timer.h"

#include <math.h>

static es_timer *of_deadline(es_deadline *deadline) {
  return (es_timer *)((char *)deadline - offsetof(es_timer, deadline));
}

static void on_due(es_deadline *deadline) {
  es_timer *timer = of_deadline(deadline);
  if (timer->period > 0) {
    double late = (double)es_loop_time(timer->loop) - timer->due;
    timer->due += timer->period;
    if (late >= timer->period)
      timer->due += floor(late / timer->period) * timer->period;
    es_loop_set_deadline(timer->loop, deadline, (uint64_t)ceil(timer->due)); /* it has its place: needs no memory */
  } else {
    es_timer_stop(timer);
  }
  timer->on_tick(timer); /* may free the timer */
}

void es_timer_init(es_loop *loop, es_timer *timer, void (*on_tick)(es_timer *)) {
  *timer = (es_timer){.on_tick = on_tick, .loop = loop, .deadline = {.on_due = on_due}};
}

int es_timer_start(es_timer *timer, double seconds, bool repeats) {
  double ms = seconds * 1000;
  if (ms < 1)
    ms = 1; /* the clock's grain: a shorter period would be always late, and a chain of them never let go */
  es_timer_stop(timer);
  timer->period = repeats ? ms : 0;
  timer->due = (double)es_loop_now(timer->loop) + ms;
  timer->running = true;
  timer->hasty = ms < ES_HASTY_MS;
  timer->loop->hasty += timer->hasty;
  es_loop_hold(timer->loop);
  if (es_loop_set_deadline(timer->loop, &timer->deadline, (uint64_t)ceil(timer->due)) != 0) {
    es_timer_stop(timer);
    return -1;
  }
  return 0;
}

void es_timer_stop(es_timer *timer) {
  if (!timer->running)
    return;
  timer->running = false;
  timer->loop->hasty -= timer->hasty;
  es_loop_remove_deadline(timer->loop, &timer->deadline);
  es_loop_release(timer->loop);
}
