#include "net/timer.h"

#include <math.h>

static void on_timeout(uv_timer_t *uv);

static void arm(es_timer *timer) {
  double left = ceil(timer->due - (double)es_loop_now(timer->loop));
  uv_timer_start(&timer->uv, on_timeout, left > 0 ? (uint64_t)left : 0, 0);
  es_loop_wake(timer->loop);
}

static void on_timeout(uv_timer_t *uv) {
  es_timer *timer = uv->data;
  es_loop *loop = timer->loop;
  if (timer->period > 0) {
    double late = (double)uv_now(&loop->uv) - timer->due;
    timer->due += timer->period;
    if (late >= timer->period)
      timer->due += floor(late / timer->period) * timer->period;
    arm(timer);
  }
  timer->on_tick(timer);
  es_loop_settle(loop);
}

void es_timer_init(es_loop *loop, es_timer *timer, void (*on_tick)(es_timer *), void (*on_free)(es_timer *)) {
  *timer = (es_timer){.on_tick = on_tick, .on_free = on_free, .loop = loop, .next = loop->timers};
  if (loop->timers != NULL)
    loop->timers->prev = timer;
  loop->timers = timer;
  uv_timer_init(&loop->uv, &timer->uv);
  timer->uv.data = timer;
}

void es_timer_start(es_timer *timer, double seconds, bool repeats) {
  double ms = seconds * 1000;
  timer->period = repeats ? (ms > 1 ? ms : 1) : 0; /* the clock's grain: a shorter period would be always late */
  timer->due = (double)es_loop_now(timer->loop) + (repeats ? timer->period : ms);
  arm(timer);
}

void es_timer_stop(es_timer *timer) {
  timer->period = 0;
  uv_timer_stop(&timer->uv);
}

static void on_close(uv_handle_t *handle) {
  es_timer *timer = handle->data;
  timer->on_free(timer);
}

void es_timer_free(es_timer *timer) {
  if (uv_is_closing((uv_handle_t *)&timer->uv))
    return;
  if (timer->prev != NULL)
    timer->prev->next = timer->next;
  else
    timer->loop->timers = timer->next;
  if (timer->next != NULL)
    timer->next->prev = timer->prev;
  uv_close((uv_handle_t *)&timer->uv, on_close);
  es_loop_wake(timer->loop);
}
