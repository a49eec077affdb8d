/* stream: the life of a request on the Lua side, from its handler's start to its last on_close. What scripts see of it
 * is in stream_class.c. */
#include "lua/binding.h"

#include <stdlib.h>
#include <string.h>

/* Looks at the end of the callback whether something is left that feeds the stream; on_close functions that came after
 * the end are called here, too. */
static void run_late(es_job *job);

static void link_stream(es_stream *s) {
  s->next = s->app->streams;
  if (s->next != NULL)
    s->next->prev = s;
  s->app->streams = s;
}

es_stream *es_stream_new(es_app *app, es_exchange *exchange) {
  es_stream *s = calloc(1, sizeof *s);
  if (s == NULL)
    return NULL;
  s->app = app;
  app->refs++;
  s->exchange = es_exchange_ref(exchange);
  exchange->user = s;
  s->refs = 1;
  s->late_job.run = run_late;
  s->on_close_ref = s->data_ref = s->request_ref = s->lines_ref = LUA_NOREF;
  link_stream(s);
  if (app->logs)
    (void)es_exchange_keep_account(exchange); /* without memory it is not told of */
  return s;
}

void es_stream_unref(es_stream *s) {
  if (--s->refs > 0)
    return;
  es_exchange_unref(s->exchange);
  es_app_unref(s->app);
  free(s);
}

static bool is_open(const es_stream *s) {
  return s->exchange->reason == ES_OPEN;
}

bool es_stream_open(es_stream *s) {
  lua_State *L = s->app->state->L;
  if (s->exchange->head_sent)
    return true;
  es_slice lines = {NULL, 0};
  if (s->lines_ref != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->lines_ref);
    lines.ptr = lua_tolstring(L, -1, &lines.len);
    lua_pop(L, 1); /* the registry keeps it */
  }
  int err = es_exchange_open(s->exchange, lines);
  es_unref(L, &s->lines_ref);
  if (err != 0)
    es_exchange_end(s->exchange, ES_END_ERROR);
  return err == 0;
}

/* --- Life --- */

static bool is_fed(const es_stream *s) {
  return s->task != NULL || s->running || s->held || s->intervals != NULL || s->exchange->subscribed > 0;
}

static void run_hint(void *argument) {
  es_stream *s = argument;
  es_push_hook(s->app->state->L, s->app, "hint");
  es_push_request(s->app->state->L, s);
  es_call(s->app->state, s->app, s, 1, 0);
}

void es_stream_handler_done(es_stream *s) {
  if (!is_open(s) || !s->is_stream)
    return;
  if (!es_stream_open(s) || is_fed(s) || !is_open(s))
    return;
  if (!s->used)
    es_protect(s->app->state, run_hint, s);
  es_exchange_end(s->exchange, ES_END_SERVER);
}

void es_stream_failed(es_stream *s) {
  es_exchange *x = s->exchange;
  if (!is_open(s))
    return;
  static const char lines[] = "Content-Type: text/plain; charset=utf-8\r\n";
  static const char text[] = "internal server error\n";
  es_slice method = x->request->method;
  if (x->head_sent)
    es_exchange_end(x, ES_END_ERROR);
  else if (s->is_stream && method.len == 3 && memcmp(method.ptr, "GET", 3) == 0)
    es_exchange_come_back(x, ES_END_ERROR);
  else
    es_exchange_fail(x, 500, (es_slice){lines, sizeof lines - 1}, (es_slice){text, sizeof text - 1});
}

void es_push_reason(lua_State *L, const es_stream *s) {
  es_reason reason = s->exchange->reason;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->app->state->reasons_ref);
  lua_rawgeti(L, -1, reason == ES_END_DONE && s->is_stream ? ES_END_SERVER : reason);
  lua_remove(L, -2);
}

typedef struct closing {
  es_stream *stream;
  int next; /* in the list of its functions, which one of them may make longer */
} closing;

static void run_on_close(void *argument) {
  closing *c = argument;
  es_stream *s = c->stream;
  lua_State *L = s->app->state->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->on_close_ref);
  for (;;) {
    lua_rawgeti(L, 1, c->next++);
    if (lua_isnil(L, -1))
      return;
    es_push_reason(L, s);
    es_call(s->app->state, s->app, s, 1, 0);
  }
}

static void call_on_close(es_stream *s) {
  if (s->on_close_ref == LUA_NOREF)
    return;
  closing c = {s, 1};
  int next = 0;
  while (c.next > next) { /* after one that failed and could not even be reported, the others clean up */
    next = c.next;
    if (es_protect(s->app->state, run_on_close, &c))
      break;
  }
  es_unref(s->app->state->L, &s->on_close_ref);
}

static void unlink_stream(es_stream *s) {
  if (s->prev != NULL)
    s->prev->next = s->next;
  else
    s->app->streams = s->next;
  if (s->next != NULL)
    s->next->prev = s->prev;
  s->prev = s->next = NULL;
}

typedef struct gone {
  es_stream *stream;
  es_channel *channel;
  bool told;
} gone;

static void run_gone(void *argument) {
  gone *g = argument;
  es_stream *s = g->stream;
  lua_State *L = s->app->state->L;
  es_push_hook(L, s->app, "unsubscribed");
  if (lua_isnil(L, -1)) {
    g->told = true;
    return;
  }
  es_push_channel(L, g->channel);
  es_push_stream(L, s);
  lua_pushboolean(L, s->app->missed);
  g->told = es_call(s->app->state, s->app, NULL, 3, 0);
}

void es_stream_gone(es_stream *s) {
  gone g = {.stream = s};
  while ((g.channel = es_exchange_gone(s->exchange)) != NULL) {
    g.told = false;
    es_protect(s->app->state, run_gone, &g);
    s->app->missed = !g.told; /* the next one is told that there was one before it */
    es_channel_unref(g.channel);
  }
  es_stream_check_fed(s);
}

void es_stream_over(es_stream *s) {
  lua_State *L = s->app->state->L;
  s->over = true;
  es_unref(L, &s->data_ref);
  es_unref(L, &s->request_ref);
  es_unref(L, &s->lines_ref);
  if (s->late_job.posted)
    return; /* which sees to the rest */
  unlink_stream(s);
  es_stream_unref(s);
}

/* answered(request, status, bytes, seconds, reason) */
static void run_answered(void *argument) {
  es_stream *s = argument;
  lua_State *L = s->app->state->L;
  const es_account *account = s->exchange->account;
  es_push_hook(L, s->app, "answered");
  if (lua_isnil(L, -1))
    return;
  es_push_request(L, s);
  lua_pushinteger(L, s->exchange->status);
  lua_pushinteger(L, (lua_Integer)account->bytes);
  lua_pushnumber(L, (lua_Number)(uv_hrtime() - account->began) / 1e9);
  es_push_reason(L, s);
  es_call(s->app->state, s->app, NULL, 5, 0);
}

void es_stream_ended(es_stream *s) {
  s->ended = true;
  while (s->intervals != NULL)
    es_interval_free(s->intervals);
  if (s->hosted != NULL) {
    es_hosted_call(s->hosted, ES_CALL_NEWS | ES_CALL_ROOM);
    return;
  }
  if (s->task != NULL)
    es_task_stream_ended(s->task);
  call_on_close(s);
  es_stream_gone(s);
  if (s->exchange->account != NULL)
    es_protect(s->app->state, run_answered, s);
  es_stream_over(s);
}

static void run_late(es_job *job) {
  es_stream *s = (es_stream *)((char *)job - offsetof(es_stream, late_job));
  if (!s->over) {
    if (is_open(s) && s->is_stream && s->exchange->head_sent && !is_fed(s))
      es_exchange_end(s->exchange, ES_END_SERVER);
    return;
  }
  unlink_stream(s); /* one that is added now links it again */
  call_on_close(s);
  es_stream_unref(s);
}

void es_stream_check_fed(es_stream *s) {
  if (!is_open(s) || is_fed(s))
    return;
  es_loop_post(&s->app->state->loop, &s->late_job);
}

void es_stream_drop(es_stream *s) {
  es_app *app = s->app;
  while (s->intervals != NULL)
    es_interval_free(s->intervals);
  if (s->task != NULL)
    es_task_drop(s->task);
  if (s->late_job.posted)
    es_loop_unpost(&app->state->loop, &s->late_job);
  unlink_stream(s);
  s->over = true;
  s->app = NULL;
  es_app_unref(app);
  s->exchange->user = NULL;
  es_stream_unref(s);
}

void es_stream_call_late(es_stream *s) {
  if (s->late_job.posted)
    return;
  s->refs++;
  link_stream(s);
  es_loop_post(&s->app->state->loop, &s->late_job);
}
