#include "lua/binding.h"

#include <stdlib.h>

#define CLASS "eventstream.interval"

struct es_interval {
  es_timer timer;    /* first: the one is the other */
  es_stream *stream; /* NULL: the app's own */
  int function_ref;
  int stream_ref; /* the stream's userdata, which the function is called with */
  bool repeats;
  bool rung; /* hosted: its time has come */
  es_app *app;
  es_interval **box; /* the userdata's pointer to us, while there is one */
  es_interval *prev, *next;
};

void es_interval_free(es_interval *i) {
  es_interval **list = i->stream != NULL ? &i->stream->intervals : &i->app->intervals;
  if (i->prev != NULL)
    i->prev->next = i->next;
  else
    *list = i->next;
  if (i->next != NULL)
    i->next->prev = i->prev;
  if (i->box != NULL)
    *i->box = NULL;
  es_unref(i->app->state->L, &i->function_ref);
  es_unref(i->app->state->L, &i->stream_ref);
  es_timer_stop(&i->timer);
  es_stream *stream = i->stream;
  free(i);
  if (stream != NULL)
    es_stream_check_fed(stream);
}

void es_interval_free_all(es_app *app, bool repeating) {
  for (es_interval *i = app->intervals, *next; i != NULL; i = next) {
    next = i->next;
    if (i->repeats || !repeating)
      es_interval_free(i);
  }
}

typedef struct tick {
  es_interval *interval;
  es_app *app;
  es_stream *stream;
  bool begun, fine;
} tick;

/* Calls the function. It may be the interval's end, which is not looked at again. */
static void run_tick(void *argument) {
  tick *t = argument;
  es_interval *i = t->interval;
  lua_State *L = t->app->state->L;
  bool elected = t->stream == NULL && t->app->state->loop.on_wake != NULL;
  if (elected)
    es_push_hook(L, t->app, "tick");
  lua_rawgeti(L, LUA_REGISTRYINDEX, i->function_ref);
  if (t->stream != NULL)
    lua_rawgeti(L, LUA_REGISTRYINDEX, i->stream_ref);
  t->begun = true;
  if (!i->repeats)
    es_interval_free(i);
  t->fine = es_call(t->app->state, t->app, t->stream, elected || t->stream != NULL, 0);
}

static void on_tick(es_timer *timer) {
  tick t = {.interval = (es_interval *)timer};
  es_app *app = t.app = t.interval->app;
  es_stream *stream = t.stream = t.interval->stream;
  if (stream != NULL && stream->hosted != NULL) { /* its holder asks for it, and calls where a script may wait */
    t.interval->rung = stream->rung = true;
    es_hosted_call(stream->hosted, ES_CALL_BYTES);
    return;
  }
  app->refs++;
  if (stream != NULL)
    stream->refs++;
  es_protect(app->state, run_tick, &t);
  if (!t.begun && !t.interval->repeats)
    es_interval_free(t.interval);
  if (stream != NULL && !t.fine)
    es_stream_failed(stream);
  if (stream != NULL)
    es_stream_unref(stream);
  else
    es_app_rest(app);
  es_app_unref(app);
}

bool es_interval_push_rung(lua_State *L, es_stream *stream) {
  es_interval *i = stream->intervals;
  while (i != NULL && !i->rung)
    i = i->next;
  stream->rung = i != NULL;
  if (i == NULL)
    return false;
  i->rung = false;
  lua_rawgeti(L, LUA_REGISTRYINDEX, i->function_ref);
  if (!i->repeats)
    es_interval_free(i);
  return true;
}

int es_new_interval(lua_State *L, es_app *app, es_stream *stream, bool repeats, const char *who) {
  double seconds = es_check_seconds(L, 2, who, repeats);
  if (lua_type(L, 3) != LUA_TFUNCTION)
    return luaL_error(L, "%s: function expected, got %s", who, luaL_typename(L, 3));
  es_interval **box = es_new_userdata(L, sizeof *box);
  *box = NULL;
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  es_interval *i = calloc(1, sizeof *i);
  if (i == NULL)
    return luaL_error(L, "%s: out of memory", who);
  *box = i; /* which frees it, should one of the next lines raise */
  i->box = box;
  i->function_ref = i->stream_ref = LUA_NOREF;
  lua_pushvalue(L, 3);
  i->function_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  if (stream != NULL) {
    lua_pushvalue(L, 1);
    i->stream_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  es_interval **list = stream != NULL ? &stream->intervals : &app->intervals;
  i->app = app;
  i->stream = stream;
  i->repeats = repeats;
  i->next = *list;
  if (i->next != NULL)
    i->next->prev = i;
  *list = i;
  if (stream != NULL)
    stream->used = true;
  es_timer_init(&app->state->loop, &i->timer, on_tick);
  if (es_timer_start(&i->timer, seconds, repeats) != 0) {
    es_interval_free(i);
    return luaL_error(L, "%s: out of memory", who);
  }
  return 1;
}

static int l_stop(lua_State *L) {
  es_interval **box = es_check_self(L, 1, CLASS, "interval");
  if (*box != NULL)
    es_interval_free(*box); /* which clears the box */
  return 0;
}

static int l_gc(lua_State *L) {
  es_interval **box = luaL_checkudata(L, 1, CLASS), *i = *box;
  *box = NULL;
  if (i != NULL && i->app == NULL) { /* it never began */
    es_unref(L, &i->function_ref);
    free(i);
  } else if (i != NULL) {
    i->box = NULL; /* it runs on: dropping the reference stops nothing */
  }
  return 0;
}

void es_open_interval_class(lua_State *L) {
  luaL_newmetatable(L, CLASS);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_stop);
  lua_setfield(L, -2, "stop");
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}
