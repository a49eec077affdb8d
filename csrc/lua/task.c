/* task: a handler's coroutine, from its start to its return, and what it waits for.
 *
 * Anchored in the registry while it lives; resumed only from the loop (a timer, a job, a stream's end), never from
 * inside another callback, and exactly once for each wait. */
#include "lua/binding.h"

#include <stdlib.h>
#include <string.h>

enum { WAITS_NOT, WAITS_SLEEP, WAITS_AWAIT, WAITS_SEND, WAITS_NO_MORE };

/* Joins an await with the resume function that was given out. Lua's; the task clears its pointer when it stops waiting,
 * so that a late or second resume finds nobody. */
typedef struct token {
  es_task *task;
  bool calling; /* the function given to await is still running */
  bool fired;   /* resumed meanwhile: the values are at ref */
  int ref, count;
} token;

struct es_task {
  es_stream *stream; /* counted */
  es_state *state;
  lua_State *co;
  int co_ref;
  uint8_t waits;
  bool told;    /* it was told of the stream's end: the next wait ends it */
  bool closing; /* its <close> variables are being closed: it cannot wait any more */
  token *token; /* of the await under way, anchored by token_ref */
  int token_ref;
  int arguments; /* on co's stack, for the ready job */
  char *frame;   /* that the handler waits to send */
  size_t frame_len;
  es_job ready_job;
  es_timer timer;
};

static const char dead_key; /* its address is the error that ends a dead handler */

/* Forgets what the task waited for. */
static void stop_waiting(es_task *task) {
  es_timer_stop(&task->timer);
  if (task->token != NULL)
    task->token->task = NULL;
  task->token = NULL;
  es_unref(task->state->L, &task->token_ref);
  free(task->frame);
  task->frame = NULL;
}

/* Ends the task's life; the stream's reference goes with it. */
static void free_task(es_task *task) {
  lua_State *L = task->state->L;
  es_stream *stream = task->stream;
  if (task->ready_job.posted)
    es_loop_unpost(&task->state->loop, &task->ready_job);
  stop_waiting(task);
  es_unref(L, &task->co_ref);
  stream->task = NULL;
  es_stream_unref(stream);
  free(task);
}

/* An ordinary handler's results: a status, a block of header lines, and a body, made ready on the Lua side. */
static void answer(es_task *task, int results) {
  lua_State *co = task->co;
  if (results >= 3)
    es_stream_answer(co, lua_gettop(co) - 2, task->stream);
}

static void run_report(void *argument) {
  es_task *task = argument;
  es_state *state = task->state;
  lua_State *L = state->L, *co = task->co;
  if (lua_gettop(co) > 0)
    lua_xmove(co, L, 1);
  else
    lua_pushliteral(L, "the handler yielded, but nobody would resume it: wait with eventstream.await");
  es_error_text(L);
  es_traceback(L, co, 0);
  es_report(state, task->stream->app, task->stream);
}

/* Reports what ended the coroutine: the error object is on its top, and there is none where it only yielded. Where there
 * is no memory for that, nobody can be told. */
static void report(es_task *task) {
  es_protect(task->state, run_report, task);
}

static void resume(es_task *task, int arguments) {
  es_state *state = task->state;
  lua_State *co = task->co;
  es_stream *stream = task->stream;
  int results = 0;
  task->waits = WAITS_NOT;
  state->running = task;
  state->calls++;
  es_watched outer;
  es_watch_begin(state, co, stream, &outer);
  int status = es_resume(co, state->L, arguments, &results);
  es_watch_end(state, &outer);
  state->running = NULL;
  bool dead =
      status == LUA_YIELD ? task->waits == WAITS_NO_MORE : status != LUA_OK && lua_touserdata(co, -1) == &dead_key;
  if (status == LUA_YIELD && !dead && task->waits != WAITS_NOT) {
    lua_settop(co, 0); /* what a wait yields is nothing */
    return;
  }
  if (status == LUA_YIELD && !dead) {
    lua_settop(co, 0);
    status = LUA_ERRRUN;
  }
  bool failed = status != LUA_OK && !dead;
  if (failed)
    report(task);
  else if (status == LUA_OK && !stream->is_stream)
    answer(task, results);
  task->closing = true;
  if (es_close_thread(co, state->L) != LUA_OK && dead && lua_touserdata(co, -1) != &dead_key)
    report(task); /* a <close> variable of a dead handler failed */
  stream->refs++;
  free_task(task);
  if (failed)
    es_stream_failed(stream);
  else
    es_stream_handler_done(stream);
  es_stream_unref(stream);
}

static void run_ready(es_job *job) {
  es_task *task = (es_task *)((char *)job - offsetof(es_task, ready_job));
  resume(task, task->arguments);
}

static void on_timer(es_timer *timer) {
  es_task *task = (es_task *)((char *)timer - offsetof(es_task, timer));
  lua_pushboolean(task->co, 1);
  resume(task, 1);
}

void es_task_start(es_stream *stream, int arguments) {
  es_state *state = stream->app->state;
  lua_State *L = state->L;
  es_task *task = calloc(1, sizeof *task);
  if (task == NULL) {
    luaL_error(L, "out of memory");
    return;
  }
  task->state = state;
  task->stream = stream;
  task->co_ref = task->token_ref = LUA_NOREF;
  task->ready_job.run = run_ready;
  es_timer_init(&state->loop, &task->timer, on_timer);
  stream->refs++;
  stream->task = task;
  task->co = lua_newthread(L);
  task->co_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_xmove(L, task->co, arguments + 1);
  resume(task, arguments);
}

bool es_task_is(const es_task *task, const lua_State *L) {
  return task != NULL && task->co == L;
}

int es_task_dead(es_task *task, lua_State *L) {
  if (task->told && !task->closing &&
      es_is_yieldable(L)) { /* it is never resumed: no pcall of the script's can catch that */
    task->waits = WAITS_NO_MORE;
    return lua_yield(L, 0);
  }
  if (task->told && !task->closing) {
    lua_pushlightuserdata(L, (void *)(uintptr_t)&dead_key);
    return lua_error(L);
  }
  task->told = true;
  lua_pushnil(L);
  lua_pushliteral(L, "closed");
  return 2;
}

/* Before a wait begins: raises where it could not yield, so that no wait is left behind. Where Lua cannot tell, a wait
 * that could not yield is still there, and is forgotten. */
static void begin_wait(es_task *task, lua_State *L, const char *who) {
  if (!es_is_yieldable(L))
    luaL_error(L, "%s: the handler cannot wait inside a function that C calls (a sort's, a gsub's)", who);
  stop_waiting(task);
}

int es_task_sleep(es_task *task, lua_State *L, double seconds) {
  begin_wait(task, L, "sleep");
  if (es_timer_start(&task->timer, seconds, false) != 0)
    return luaL_error(L, "sleep: out of memory");
  task->waits = WAITS_SLEEP;
  return lua_yield(L, 0);
}

int es_task_send(es_task *task, lua_State *L, const es_event *event) {
  begin_wait(task, L, "send");
  task->frame_len = es_frame_size(event);
  task->frame = malloc(task->frame_len);
  if (task->frame == NULL)
    return luaL_error(L, "send: out of memory");
  es_frame_write(task->frame, event);
  task->waits = WAITS_SEND;
  return lua_yield(L, 0);
}

void es_task_room(es_task *task) {
  if (task->waits != WAITS_SEND)
    return;
  int err = es_exchange_send_frame(task->stream->exchange, (es_slice){task->frame, task->frame_len});
  if (err == UV_ENOBUFS)
    return; /* not enough yet: on_room comes again */
  free(task->frame);
  task->frame = NULL;
  if (err != 0) { /* it is over, and its end, which is queued, resumes the handler */
    es_exchange_end(task->stream->exchange, ES_END_ERROR);
    return;
  }
  lua_pushboolean(task->co, 1);
  resume(task, 1);
}

void es_task_stream_ended(es_task *task) {
  if (task->waits == WAITS_NOT)
    return;
  if (task->ready_job.posted) { /* its values came before the end */
    es_loop_unpost(&task->state->loop, &task->ready_job);
    resume(task, task->arguments);
    return;
  }
  stop_waiting(task);
  task->told = true;
  lua_pushnil(task->co);
  lua_rawgeti(task->co, LUA_REGISTRYINDEX, task->state->closed_ref);
  resume(task, 2);
}

void es_task_drop(es_task *task) {
  free_task(task);
}

/* --- eventstream.await --- */

static int l_resume(lua_State *L) {
  token *t = lua_touserdata(L, lua_upvalueindex(1));
  es_task *task = t->task;
  int count = lua_gettop(L);
  if (task == NULL || t->fired)
    return 0;
  if (t->calling) {
    lua_createtable(L, count, 0);
    lua_insert(L, 1);
    for (int i = count; i >= 1; i--)
      lua_rawseti(L, 1, i);
    t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    t->count = count;
    t->fired = true;
    return 0;
  }
  if (!lua_checkstack(task->co, count + 4))
    return luaL_error(L, "resume: too many values");
  t->task = NULL;
  task->token = NULL;
  es_unref(L, &task->token_ref);
  lua_xmove(L, task->co, count);
  task->arguments = count;
  es_loop_post(&task->state->loop, &task->ready_job);
  return 0;
}

int l_await(lua_State *L) {
  es_task *task = es_state_of(L)->running;
  if (lua_type(L, 1) != LUA_TFUNCTION)
    return luaL_error(L, "await: function expected, got %s", luaL_typename(L, 1));
  if (!es_task_is(task, L))
    return luaL_error(L, "await: only a handler can wait (this is no handler's own coroutine)");
  if (task->stream->exchange->reason != ES_OPEN)
    return es_task_dead(task, L);
  begin_wait(task, L, "await");
  lua_settop(L, 1);
  token *t = lua_newuserdata(L, sizeof *t);
  *t = (token){.calling = true, .ref = LUA_NOREF};
  lua_insert(L, 1); /* token, function */
  lua_pushvalue(L, 1);
  task->token_ref =
      luaL_ref(L, LUA_REGISTRYINDEX); /* now, when nobody has a resume that a lack of memory could orphan */
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, l_resume, 1);
  t->task = task;
  int status = lua_pcall(L, 1, 0, 0);
  t->calling = false;
  if (status != LUA_OK || t->fired) {
    t->task = NULL;
    es_unref(L, &task->token_ref);
  }
  if (status != LUA_OK) {
    es_unref(L, &t->ref);
    return lua_error(L);
  }
  if (t->fired) {
    luaL_checkstack(L, t->count + 4, "await");
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->ref);
    es_unref(L, &t->ref);
    for (int i = 1; i <= t->count; i++)
      lua_rawgeti(L, 2, i);
    return t->count;
  }
  task->token = t;
  task->waits = WAITS_AWAIT;
  return lua_yield(L, 0);
}
