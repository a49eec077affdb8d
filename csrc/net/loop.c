#include "net/loop.h"

#include "net/connection.h"
#include "net/hosted.h"
#include "net/platform.h"
#include "net/server.h"
#include "net/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SOURCES_MS 20 /* a driver that only ticks looks this often at the sockets of sources */
#define LAG_MS 5000   /* the worst lag is told of this long at least, and of twice as long at most */

static void on_async(uv_async_t *async) {
  (void)async; /* being woken is all: the turn's end does the work */
}

static void on_clock(uv_timer_t *clock);

/* Puts the clock at the first deadline. */
static void set_clock(es_loop *loop) {
  uint64_t due = es_deadlines_next(&loop->deadlines), now = es_loop_time(loop);
  if (due < loop->rest_until && loop->hasty == 0)
    due = loop->rest_until;
  if (due == ES_NEVER)
    uv_timer_stop(&loop->clock);
  else
    uv_timer_start(&loop->clock, on_clock, due > now ? due - now : 0, 0);
}

static void note_lag(es_loop *loop, uint64_t now, uint64_t lag) {
  if (now - loop->lag.since >= LAG_MS) {
    loop->lag.before = now - loop->lag.since < 2 * (uint64_t)LAG_MS ? loop->lag.worst : 0;
    loop->lag.worst = 0;
    loop->lag.since = now;
  }
  if (lag > loop->lag.worst)
    loop->lag.worst = lag;
}

double es_loop_lag(es_loop *loop) {
  note_lag(loop, es_loop_now(loop), 0);
  uint64_t lag = loop->lag.worst > loop->lag.before ? loop->lag.worst : loop->lag.before;
  return (double)lag / 1000;
}

static void on_clock(uv_timer_t *clock) {
  es_loop *loop = clock->data;
  uint64_t now = es_loop_time(loop), first_due = es_deadlines_next(&loop->deadlines);
  size_t met = 0;
  if (first_due < loop->rest_until)
    first_due = loop->rest_until; /* it was to wait for the others */
  if (first_due < now)
    note_lag(loop, now, now - first_due);
  loop->clock_runs = true;
  /* as many as there are now: what they set anew for at once waits for the next turn */
  for (size_t count = loop->deadlines.count; count > 0 && es_deadlines_next(&loop->deadlines) <= now; count--) {
    es_deadline *first = es_deadlines_first(&loop->deadlines);
    uint64_t due = es_deadlines_next(&loop->deadlines);
    first->on_due(first);
    met++;
    /* it stayed in the heap meanwhile, because moving it is cheaper than taking it out and in */
    if (es_deadlines_first(&loop->deadlines) == first && es_deadlines_next(&loop->deadlines) == due)
      es_deadlines_remove(&loop->deadlines, first);
    es_loop_settle(loop);
  }
  loop->clock_runs = false;
  loop->rest_until = met >= ES_CROWD ? now + ES_CROWD_REST_MS : 0;
  set_clock(loop);
  es_loop_wake(loop);
}

int es_loop_set_deadline(es_loop *loop, es_deadline *deadline, uint64_t due) {
  if (es_deadlines_set(&loop->deadlines, deadline, due) != 0)
    return -1;
  if (!loop->clock_runs && es_deadlines_first(&loop->deadlines) == deadline) {
    set_clock(loop);
    es_loop_wake(loop);
  }
  return 0;
}

void es_loop_remove_deadline(es_loop *loop, es_deadline *deadline) {
  es_deadlines_remove(&loop->deadlines, deadline); /* a clock that then rings early finds nothing due */
}

void es_loop_hold(es_loop *loop) {
  if (loop->holds++ == 0)
    uv_ref((uv_handle_t *)&loop->async);
  es_loop_wake(loop);
}

void es_loop_release(es_loop *loop) {
  if (--loop->holds == 0)
    uv_unref((uv_handle_t *)&loop->async);
  es_loop_wake(loop); /* the driver may be held by it */
}

static void seed(es_loop *loop) {
  if (uv_random(NULL, NULL, &loop->random, sizeof loop->random, 0, NULL) != 0)
    loop->random = uv_hrtime();
}

int es_loop_init(es_loop *loop) {
  *loop = (es_loop){.hangups = {.set = -1}, .post = es_loop_post};
  loop->read_buffer = malloc(ES_READ_BYTES);
  if (loop->read_buffer == NULL)
    return UV_ENOMEM;
  int err = uv_loop_init(&loop->uv);
  if (err != 0) {
    free(loop->read_buffer);
    return err;
  }
  loop->uv.data = loop;
  err = uv_async_init(&loop->uv, &loop->async, on_async);
  if (err != 0) {
    uv_loop_close(&loop->uv);
    free(loop->read_buffer);
    return err;
  }
  uv_unref((uv_handle_t *)&loop->async);
  uv_timer_init(&loop->uv, &loop->clock);
  uv_unref((uv_handle_t *)&loop->clock);
  loop->clock.data = loop;
  es_fanout_init(loop);
  seed(loop);
  return 0;
}

void es_loop_forked(es_loop *loop) {
  uv_loop_fork(&loop->uv); /* where that fails, no source can be read: there is nobody to tell */
  seed(loop);
}

void es_loop_free(es_loop *loop) {
  loop->turning = true;   /* nothing wakes a loop that ends */
  loop->settling = false; /* it may end inside a job, or a waiting turn: a script that exits in a callback */
  loop->waits = false;
  while (loop->servers != NULL)
    es_server_free(loop->servers);
  while (loop->sources != NULL)
    es_source_stop(loop->sources);
  for (es_guest *guest; (guest = loop->guests) != NULL;) {
    es_loop_leave(loop, guest);
    guest->close(guest);
  }
  while (loop->first_job != NULL)
    es_loop_settle(loop); /* only references are left to be given back */
  es_hosted_forget(loop);
  uv_close((uv_handle_t *)&loop->async, NULL);
  uv_close((uv_handle_t *)&loop->clock, NULL);
  uv_close((uv_handle_t *)&loop->fanout.clock, NULL);
  uv_run(&loop->uv, UV_RUN_NOWAIT);  /* takes back that this turn was to be stopped */
  uv_run(&loop->uv, UV_RUN_DEFAULT); /* the close callbacks, which free */
  uv_loop_close(&loop->uv);
  while (es_loop_spend(loop))
    ;
  es_deadlines_free(&loop->deadlines);
  es_deadlines_free(&loop->fanout.timed);
  free(loop->read_buffer);
}

int es_loop_fd(const es_loop *loop) {
  return uv_backend_fd(&loop->uv);
}

bool es_loop_alive(const es_loop *loop) {
  return loop->holds > 0 || uv_loop_alive(&loop->uv) || loop->first_job != NULL || loop->dirty != NULL;
}

/* Whether a turn has work that no event will announce. */
static bool has_work(const es_loop *loop) {
  return loop->first_job != NULL || loop->dirty != NULL || es_fanout_is_due(loop);
}

int es_loop_timeout(es_loop *loop) {
  if (has_work(loop))
    return 0;
  if (!uv_loop_alive(&loop->uv))
    return -1; /* libuv says 0 of a loop with nothing to do, and a driver would spin */
  if (!loop->turning)
    uv_update_time(&loop->uv);
  return uv_backend_timeout(&loop->uv);
}

int es_loop_due(es_loop *loop) {
  if (has_work(loop))
    return 0;
  uint64_t due = es_deadlines_next(&loop->deadlines), now = es_loop_now(loop), pass = es_fanout_next(loop);
  if (due < loop->rest_until && loop->hasty == 0)
    due = loop->rest_until;
  if (pass != ES_NEVER) {
    uint64_t time = es_loop_ns(loop), at = pass > time ? now + (pass - time + 999999) / 1000000 : now;
    due = at < due ? at : due;
  }
  if (due == ES_NEVER && loop->sources == NULL)
    return -1;
  due = due > now ? due - now : 0;
  if (loop->sources != NULL && due > SOURCES_MS)
    due = SOURCES_MS;
  return due < 86400000 ? (int)due : 86400000;
}

/* What became readable meanwhile has waited for as long as the turn took, though no deadline was missed. */
static void note_turn(es_loop *loop) {
  uint64_t began = uv_now(&loop->uv);
  uv_update_time(&loop->uv);
  uint64_t took = uv_now(&loop->uv) - began;
  if (took > 0 && !loop->held.on)
    note_lag(loop, es_loop_time(loop), took);
}

/* What follows the callbacks of a turn. */
static void end_turn(es_loop *loop) {
  es_loop_settle(loop);
  while (loop->dirty != NULL) {
    es_connection *c = loop->dirty;
    loop->dirty = c->next_dirty;
    c->dirty = false;
    if (!c->writing)
      es_connection_flush(c);
  }
  es_fanout_run(loop);
  es_loop_settle(loop); /* a flush may have ended streams or made room */
  es_fanout_wind(loop);
  note_turn(loop);
  loop->turning = false;
  if (has_work(loop))
    es_loop_wake(loop);
}

void es_loop_turn(es_loop *loop, bool wait) {
  if (loop->turning)
    return;
  loop->turning = true;
  loop->turns++;
  loop->woken = false;
  bool work = has_work(loop);
  loop->waits = wait && !work;
  uv_run(&loop->uv, loop->waits ? UV_RUN_ONCE : UV_RUN_NOWAIT);
  loop->waits = false;
  end_turn(loop);
}

void es_loop_tick(es_loop *loop) {
  if (loop->turning)
    return;
  if (loop->sources != NULL && loop->on_wake != NULL) { /* nobody else looks at their sockets */
    es_loop_turn(loop, false);
    return;
  }
  loop->turning = true;
  loop->turns++;
  loop->woken = loop->woken && loop->on_wake == NULL; /* the descriptor stays readable until a turn */
  uv_update_time(&loop->uv);
  if (es_deadlines_next(&loop->deadlines) <= es_loop_time(loop) &&
      (loop->hasty > 0 || loop->rest_until <= es_loop_time(loop)))
    on_clock(&loop->clock);
  end_turn(loop);
}

void es_loop_wake(es_loop *loop) {
  if (loop->waits)
    uv_stop(&loop->uv); /* libuv before 1.45 runs timers and then waits, though they may have made work */
  if (loop->turning || loop->woken)
    return;
  loop->woken = true;
  if (loop->on_wake != NULL)
    loop->on_wake(loop);
  else
    uv_async_send(&loop->async);
}

uint64_t es_loop_now(es_loop *loop) {
  if (!loop->turning)
    uv_update_time(&loop->uv);
  return es_loop_time(loop);
}

uint64_t es_loop_ns(const es_loop *loop) {
  if (loop->held.on)
    return loop->held.from_ns + (loop->held.now - loop->held.from) * 1000000;
  return uv_hrtime() + loop->held.ahead_ns;
}

void es_loop_hold_time(es_loop *loop, bool hold) {
  if (hold && !loop->held.on) {
    loop->held.now = loop->held.from = es_loop_now(loop);
    loop->held.from_ns = es_loop_ns(loop);
  } else if (!hold && loop->held.on) {
    uint64_t now = loop->held.now, ns = es_loop_ns(loop), real_ns = uv_hrtime();
    uv_update_time(&loop->uv);
    loop->held.ahead = now > uv_now(&loop->uv) ? now - uv_now(&loop->uv) : 0;
    loop->held.ahead_ns = ns > real_ns ? ns - real_ns : 0;
  }
  loop->held.on = hold;
  loop->fanout.rest_until = 0; /* it was measured by the other clock */
  set_clock(loop);
  es_fanout_wind(loop);
  es_loop_wake(loop);
}

void es_loop_move_time(es_loop *loop, uint64_t milliseconds) {
  loop->held.now += milliseconds;
  loop->rest_until = 0;
  set_clock(loop);
  es_loop_wake(loop);
}

uint64_t es_loop_next_due(es_loop *loop) {
  uint64_t due = es_deadlines_next(&loop->deadlines), pass = es_fanout_next(loop), ns = es_loop_ns(loop);
  if (pass == ES_NEVER)
    return due;
  uint64_t at = es_loop_time(loop) + (pass > ns ? (pass - ns + 999999) / 1000000 : 0);
  return at < due ? at : due;
}

void es_loop_post(es_loop *loop, es_job *job) {
  if (job->posted)
    return;
  job->posted = true;
  job->next = NULL;
  if (loop->last_job != NULL)
    loop->last_job->next = job;
  else
    loop->first_job = job;
  loop->last_job = job;
  es_loop_wake(loop);
}

void es_loop_unpost(es_loop *loop, es_job *job) {
  es_job *before = NULL;
  for (es_job *at = loop->first_job; at != NULL; before = at, at = at->next) {
    if (at != job)
      continue;
    if (before == NULL)
      loop->first_job = job->next;
    else
      before->next = job->next;
    if (loop->last_job == job)
      loop->last_job = before;
    break;
  }
  job->posted = false;
}

void es_loop_settle(es_loop *loop) {
  if (loop->settling)
    return;
  loop->settling = true;
  /* jobs are counted, not compared with the last one, because a job may take that one out */
  size_t count = 0;
  for (es_job *job = loop->first_job; job != NULL; job = job->next)
    count++;
  for (; count > 0 && loop->first_job != NULL; count--) {
    es_job *job = loop->first_job;
    loop->first_job = job->next;
    if (loop->first_job == NULL)
      loop->last_job = NULL;
    job->posted = false;
    job->run(job); /* may free the job */
  }
  loop->settling = false;
}

static void free_handle(uv_handle_t *handle) {
  free(handle);
}

void es_loop_make_room(es_loop *loop, int fd, size_t descriptors) {
  size_t most = es_platform_raise_descriptors();
  if (most > 0 && descriptors > most)
    descriptors = most;
  if (descriptors <= loop->room)
    return;
  int high = es_platform_duplicate(fd, (int)descriptors - 1);
  uv_poll_t *poll = high < 0 ? NULL : malloc(sizeof *poll);
  if (poll == NULL || uv_poll_init_socket(&loop->uv, poll, high) != 0) {
    free(poll);
  } else {
    loop->room = descriptors;
    uv_poll_start(poll, UV_READABLE, NULL);
    uv_close((uv_handle_t *)poll, free_handle);
  }
  if (high >= 0)
    close(high);
}

void es_loop_spare(es_loop *loop) {
  int fd = loop->spare_count < ES_SPARES ? es_platform_spare() : -1;
  if (fd >= 0)
    loop->spares[loop->spare_count++] = fd;
}

bool es_loop_spend(es_loop *loop) {
  if (loop->spare_count == 0)
    return false;
  close(loop->spares[--loop->spare_count]);
  return true;
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016 */
double es_loop_random(es_loop *loop) {
  uint64_t x = loop->random != 0 ? loop->random : 1;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  loop->random = x;
  return (double)((x * 0x2545F4914F6CDD1DULL) >> 11) / 9007199254740992.0;
}

const char *es_loop_date(es_loop *loop) {
  static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  time_t now = time(NULL);
  if ((uint64_t)now != loop->date_second) {
    struct tm t;
    gmtime_r(&now, &t);
    /* strftime would follow the script's locale; the remainders tell the compiler what fits */
    snprintf(loop->date, sizeof loop->date, "%s, %02u %s %04u %02u:%02u:%02u GMT", days[t.tm_wday % 7],
             (unsigned)t.tm_mday % 100, months[t.tm_mon % 12], (unsigned)(t.tm_year + 1900) % 10000,
             (unsigned)t.tm_hour % 100, (unsigned)t.tm_min % 100, (unsigned)t.tm_sec % 100);
    loop->date_second = (uint64_t)now;
  }
  return loop->date;
}
