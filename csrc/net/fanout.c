#include "net/fanout.h"

#include "net/channel.h"
#include "net/connection.h"
#include "net/group.h"
#include "net/server.h"
#include "net/slow.h"

#define BUDGET_NS 4000000 /* of a turn: what else is due waits no longer */
#define GLANCES 4         /* visits between two looks at the clock */
#define AWAIT_NS 50000000 /* a holder that does not come for so long keeps nobody waiting */

/* --- Lists --- */

static void append(es_channel_list *list, es_channel *ch) {
  ch->next = NULL;
  ch->prev = list->last;
  if (list->last != NULL)
    list->last->next = ch;
  else
    list->first = ch;
  list->last = ch;
}

static void take(es_channel_list *list, es_channel *ch) {
  if (ch->prev != NULL)
    ch->prev->next = ch->next;
  else
    list->first = ch->next;
  if (ch->next != NULL)
    ch->next->prev = ch->prev;
  else
    list->last = ch->prev;
  ch->next = ch->prev = NULL;
}

static bool is_auto(const es_channel *ch) {
  return ch->options.flush < 0;
}

static void make_ready(es_fanout *f, es_channel *ch) {
  ch->state = ES_FAN_READY;
  append(&f->ready, ch);
  if ((ch->counted = is_auto(ch)))
    f->autos++;
}

/* Nanoseconds, of the loop that it belongs to. */
static uint64_t clock_of(const es_fanout *f) {
  return es_loop_ns((const es_loop *)((const char *)f - offsetof(es_loop, fanout)));
}

/* A channel of the round is through: the last one starts the rest. */
static void leave_round(es_fanout *f, es_channel *ch) {
  if (!ch->counted)
    return;
  ch->counted = false;
  if (--f->autos == 0) {
    f->rest_until = clock_of(f) + f->took;
    f->took = 0;
  }
}

void es_fanout_add(es_channel *ch) {
  es_loop *loop = ch->server->loop;
  es_fanout *f = &loop->fanout;
  if (ch->state != ES_FAN_IDLE) {
    ch->again = ch->passing; /* those visited already have not been offered it */
    return;
  }
  if (is_auto(ch)) {
    ch->state = ES_FAN_RESTING;
    append(&f->resting, ch);
  } else {
    bool paced = ch->options.flush > 0 && ch->started > 0; /* the first pass waits for nothing */
    uint64_t due = ch->started + (uint64_t)(ch->options.flush * 1e9);
    if (paced && due > clock_of(f) && es_deadlines_set(&f->timed, &ch->due, due) == 0)
      ch->state = ES_FAN_TIMED;
    else
      make_ready(f, ch);
  }
  es_loop_wake(loop);
}

void es_fanout_remove(es_channel *ch) {
  es_fanout *f = &ch->server->loop->fanout;
  if (ch->state == ES_FAN_RESTING)
    take(&f->resting, ch);
  else if (ch->state == ES_FAN_TIMED)
    es_deadlines_remove(&f->timed, &ch->due);
  else if (ch->state == ES_FAN_READY) {
    take(&f->ready, ch);
    leave_round(f, ch);
  }
  ch->state = ES_FAN_IDLE;
  ch->again = false;
  if (f->stretch.channel == ch)
    f->stretch.channel = NULL;
}

void es_fanout_pace(es_channel *ch) {
  if (ch->state != ES_FAN_RESTING && ch->state != ES_FAN_TIMED)
    return;
  es_fanout_remove(ch);
  es_fanout_add(ch);
}

/* --- The walk --- */

void es_fanout_join(es_channel *ch, es_subscription *s) {
  s->parity = ch->parity; /* as if visited: its own connection's flush comes first */
  if (ch->at == NULL) {
    s->next = s->prev = ch->at = s;
    return;
  }
  s->next = ch->at;
  s->prev = ch->at->prev;
  s->prev->next = s;
  s->next->prev = s;
}

/* Nobody is left to whom anything could be offered. */
static void offered_to_all(es_channel *ch) {
  if (ch->server != NULL)
    ch->offered = ch->passed = ch->server->sequence;
  ch->waiting = 0;
}

void es_fanout_leave(es_subscription *s) {
  es_channel *ch = s->channel;
  if (ch->visited == s)
    ch->visited = NULL;
  if (s->next == s) {
    ch->at = NULL;
    if (!ch->passing)
      offered_to_all(ch);
  } else {
    s->prev->next = s->next;
    s->next->prev = s->prev;
    if (ch->at == s)
      ch->at = s->next;
  }
  s->next = s->prev = NULL;
}

static void visit(es_channel *ch, es_subscription *s) {
  es_connection *c = s->connection;
  ch->visited = s;
  if ((!c->writing || !c->full) && es_due_behind(s))
    es_connection_flush(c); /* which may end it */
  if (ch->visited != s)
    return;
  /* by a group that is still being made, or a holder that has not come for it: it has not been offered what lies ahead */
  bool held = c->writing ? es_group_has(s) : es_due_behind(s);
  bool awaited = c->is_hosted && c->hosted.awaited && ch->log.bytes <= ch->log.max_bytes + ES_BURST_BYTES;
  if ((held || awaited) && s->cursor < ch->pass_offers)
    ch->pass_offers = s->cursor;
  if (!held && c->writing) {
    ch->behind++;
    if (c->full)
      es_slow_check(s);
  }
}

/* Runs a pass, or goes on with it, until the time; tells whether it is through. */
static bool pass(es_channel *ch, uint64_t until) {
  es_server *server = ch->server;
  uint64_t start = es_loop_ns(server->loop), now = start;
  if (!ch->passing) {
    ch->passing = true;
    ch->again = false;
    ch->parity = !ch->parity;
    ch->started = start;
    ch->took = 0;
    ch->behind = 0;
    ch->pass_offers = server->sequence;
    ch->pass_waiting = ch->waiting;
  }
  for (unsigned visits = 1; ch->at != NULL && ch->at->parity != ch->parity; visits++) {
    es_subscription *s = ch->at;
    ch->at = s->next;
    s->parity = ch->parity;
    __builtin_prefetch(ch->at->connection);
    visit(ch, s);
    if (visits % GLANCES == 0 && (now = es_loop_ns(server->loop)) >= until) {
      ch->took += now - start;
      return false;
    }
  }
  ch->passing = false;
  ch->took += es_loop_ns(server->loop) - start;
  if (ch->at == NULL) {
    offered_to_all(ch);
    return true;
  }
  ch->offered = ch->passed = ch->pass_offers;
  ch->waiting -= ch->pass_waiting;
  ch->at = ch->at->next; /* another one comes first next time */
  return true;
}

void es_fanout_pass(es_channel *ch) {
  es_fanout *f = &ch->server->loop->fanout;
  es_channel_ref(ch); /* its last subscribers may end */
  if (ch->settled != ch->server->loop->turns)
    es_channel_settle_turn(ch);
  if (ch->passing && pass(ch, UINT64_MAX))
    f->took += is_auto(ch) ? ch->took : 0;
  pass(ch, UINT64_MAX);
  if (is_auto(ch))
    f->took += ch->took;
  if (is_auto(ch) && f->autos == 0) {
    f->rest_until = clock_of(f) + f->took;
    f->took = 0;
  }
  es_fanout_remove(ch);
  es_channel_evict(ch);
  es_channel_unref(ch);
}

/* --- Turns --- */

static es_channel *of_due(es_deadline *deadline) {
  return (es_channel *)((char *)deadline - offsetof(es_channel, due));
}

static void on_clock(uv_timer_t *clock) {
  es_loop_wake(clock->loop->data); /* the turn's end does the work */
}

void es_fanout_init(es_loop *loop) {
  uv_timer_init(&loop->uv, &loop->fanout.clock);
  uv_unref((uv_handle_t *)&loop->fanout.clock);
}

bool es_fanout_is_due(const es_loop *loop) {
  return loop->fanout.ready.first != NULL;
}

void es_fanout_await(es_loop *loop) {
  es_fanout *f = &loop->fanout;
  if (f->awaited++ == 0)
    f->awaited_since = clock_of(f);
}

void es_fanout_came(es_loop *loop) {
  es_fanout *f = &loop->fanout;
  if (--f->awaited > 0)
    return;
  uint64_t now = clock_of(f), took = now - f->awaited_since;
  uint64_t until = now + (took < AWAIT_NS ? took : AWAIT_NS);
  if (until > f->rest_until)
    f->rest_until = until;
  es_loop_wake(loop); /* time has passed meanwhile, and something may wait for it */
}

/* When the rest of "auto" is over. */
static uint64_t rest_over(const es_fanout *f) {
  uint64_t until = f->rest_until, late = f->awaited_since + AWAIT_NS;
  return f->awaited > 0 && until < late ? late : until;
}

uint64_t es_fanout_next(const es_loop *loop) {
  const es_fanout *f = &loop->fanout;
  uint64_t due = es_deadlines_next(&f->timed);
  if (f->resting.first != NULL && f->autos == 0 && rest_over(f) < due)
    due = rest_over(f);
  return due;
}

/* Makes ready what waited for its time. */
static void promote(es_fanout *f, uint64_t now) {
  while (es_deadlines_next(&f->timed) <= now) {
    es_deadline *due = es_deadlines_first(&f->timed);
    es_deadlines_remove(&f->timed, due);
    make_ready(f, of_due(due));
  }
  while (f->autos == 0 && rest_over(f) <= now && f->resting.first != NULL) {
    for (es_channel *ch; (ch = f->resting.first) != NULL;) {
      take(&f->resting, ch);
      make_ready(f, ch);
    }
  }
}

void es_fanout_wind(es_loop *loop) {
  es_fanout *f = &loop->fanout;
  uint64_t due = es_fanout_next(loop);
  if (due == ES_NEVER) {
    if (uv_is_active((uv_handle_t *)&f->clock))
      uv_timer_stop(&f->clock);
    return;
  }
  uint64_t now = clock_of(f);
  uv_timer_start(&f->clock, on_clock, due > now ? (due - now + 999999) / 1000000 : 0, 0);
}

void es_fanout_run(es_loop *loop) {
  es_fanout *f = &loop->fanout;
  if (f->ready.first == NULL && f->resting.first == NULL && es_deadlines_next(&f->timed) == ES_NEVER)
    return;
  uint64_t now = clock_of(f), until = now + BUDGET_NS;
  promote(f, now);
  for (es_channel *ch; (ch = f->ready.first) != NULL;) {
    es_channel_ref(ch); /* its last subscribers may end */
    if (!ch->passing)
      es_channel_settle(ch);
    bool through = pass(ch, until);
    if (!through) {
      es_channel_unref(ch);
      break;
    }
    if (ch->counted)
      f->took += ch->took;
    take(&f->ready, ch);
    ch->state = ES_FAN_IDLE;
    leave_round(f, ch);
    if (ch->again)
      es_fanout_add(ch);
    es_channel_evict(ch);
    es_channel_unref(ch);
    if (clock_of(f) >= until)
      break;
  }
}
