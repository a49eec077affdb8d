#include "lua/binding.h"

#include <string.h>

#include <stdio.h>

#define SECONDS_MAX 315360000.0 /* 10 years */

static const char state_key, objects_key, traceback_key, module_key;

es_state *es_state_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  es_state *state = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return state;
}

void es_push_objects(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &objects_key);
}

void es_unref(lua_State *L, int *ref) {
  luaL_unref(L, LUA_REGISTRYINDEX, *ref);
  *ref = LUA_NOREF;
}

int es_fail(lua_State *L, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  return lua_error(L);
}

void *es_check_self(lua_State *L, int index, const char *class, const char *noun) {
  void *box = luaL_testudata(L, index, class);
  lua_Debug call;
  if (box != NULL)
    return box;
  if (index == 1 && lua_getstack(L, 0, &call) && lua_getinfo(L, "n", &call) && call.name != NULL &&
      call.name[0] != '?' && (strcmp(call.namewhat, "field") == 0 || strcmp(call.namewhat, "method") == 0))
    luaL_error(L, "%s: call it with a colon: %s:%s(...)", call.name, noun, call.name);
  return luaL_checkudata(L, index, class);
}

void es_push_hook(lua_State *L, es_app *app, const char *name) {
  if (app == NULL) {
    es_push_state_hook(L, es_state_of(L), name);
    return;
  }
  if (app->self_ref == LUA_NOREF) { /* the app is closed: nobody is left to ask */
    lua_pushnil(L);
    return;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, app->self_ref);
  es_get_user_table(L, -1);
  lua_getfield(L, -1, name);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

void es_push_state_hook(lua_State *L, es_state *state, const char *name) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->hooks_ref);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
}

double es_check_seconds(lua_State *L, int index, const char *who, bool positive) {
  if (lua_type(L, index) != LUA_TNUMBER)
    luaL_error(L, "%s: seconds must be a number, not %s", who, luaL_typename(L, index));
  double seconds = lua_tonumber(L, index);
  if (!(seconds >= 0 && seconds <= SECONDS_MAX) || (positive && seconds == 0))
    luaL_error(L, "%s: seconds must be %s and at most ten years", who, positive ? "above 0" : "at least 0");
  return seconds;
}

static int l_text(lua_State *L) {
#if LUA_VERSION_NUM >= 502
  luaL_tolstring(L, 1, NULL);
#else
  lua_getglobal(L, "tostring");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
#endif
  return 1;
}

void es_error_text(lua_State *L) {
  if (lua_type(L, -1) == LUA_TSTRING)
    return;
  lua_pushcfunction(L, l_text);
  lua_pushvalue(L, -2);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK || lua_type(L, -1) != LUA_TSTRING) {
    lua_pop(L, 1);
    lua_pushfstring(L, "(error object is a %s)", luaL_typename(L, -1));
  }
  lua_replace(L, -2);
}

/* Makes any error a string, and keeps the traceback where es_call finds it. */
static int l_on_error(lua_State *L) {
  lua_settop(L, 1);
  es_error_text(L);
  es_traceback(L, L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
  return 1;
}

void es_report(es_state *state, es_app *app, es_stream *stream) {
  lua_State *L = state->L;
  int message = lua_gettop(L) - 1;
  es_push_hook(L, app, "report");
  lua_pushvalue(L, message);
  lua_pushvalue(L, message + 1);
  if (stream != NULL && stream->is_stream)
    es_push_stream(L, stream);
  else
    lua_pushnil(L);
  state->calls++;
  if (lua_pcall(L, 3, 0, 0) != 0) {
    /* the last resort: the app is closed, or memory is out */
    const char *text = lua_tostring(L, message), *trace = lua_tostring(L, message + 1);
    fprintf(stderr, "eventstream: %s\n%s\n", text != NULL ? text : "error", trace != NULL ? trace : "");
  }
  lua_settop(L, message - 1);
}

typedef struct attempt {
  void (*run)(void *argument);
  void *argument;
} attempt;

static int l_protected(lua_State *L) {
  const attempt *a = lua_touserdata(L, 1);
  lua_settop(L, 0);
  a->run(a->argument);
  return 0;
}

bool es_protect(es_state *state, void (*run)(void *argument), void *argument) {
  lua_State *L = state->L;
  attempt a = {run, argument};
  es_task *running = state->running;
  if (!lua_checkstack(L, 4))
    return false;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->protect_ref);
  lua_pushlightuserdata(L, &a);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK)
    return true;
  lua_pop(L, 1);
  state->running = running;
  return false;
}

bool es_call(es_state *state, es_app *app, es_stream *stream, int arguments, int results) {
  lua_State *L = state->L;
  int handler = lua_gettop(L) - arguments;
  lua_pushcfunction(L, l_on_error);
  lua_insert(L, handler);
  es_task *running = state->running;
  state->running = NULL;
  state->calls++;
  es_watched outer;
  es_watch_begin(state, L, stream, &outer);
  int status = lua_pcall(L, arguments, results, handler);
  es_watch_end(state, &outer);
  state->running = running;
  lua_remove(L, handler);
  if (status == LUA_OK)
    return true;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &traceback_key);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "");
  }
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
  es_report(state, app, stream);
  return false;
}

static int l_state_gc(lua_State *L) {
  es_state *state = lua_touserdata(L, 1);
  if (!state->open)
    return 0;
  state->open = false;
  es_watchdog_stop(state);
  if (state->has_signals) {
    uv_close((uv_handle_t *)&state->signals[0], NULL);
    uv_close((uv_handle_t *)&state->signals[1], NULL);
  }
  es_loop_free(&state->loop);
  return 0;
}

/* Takes the functions that the Lua side provides to all apps. */
static int l_setup(lua_State *L) {
  es_state *state = es_state_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  es_unref(L, &state->hooks_ref);
  lua_pushvalue(L, 1);
  state->hooks_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* A write to a reset peer must not end the process. A script's or host's own choice is left as it is. */
static void ignore_sigpipe(void) {
  struct sigaction action;
  if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
  }
}

static void new_state(lua_State *L) {
  es_state *state = es_new_userdata(L, sizeof *state);
  state->open = state->has_signals = false;
  state->running = NULL;
  state->calls = 0;
  state->watchdog = NULL;
  state->thread_ref = state->hooks_ref = state->on_signal_ref = state->on_wake_ref = LUA_NOREF;
  lua_pushcfunction(L, l_protected);
  state->protect_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushliteral(L, "closed");
  state->closed_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_newtable(L);
  for (int reason = ES_OPEN; reason <= ES_END_ERROR; reason++) {
    lua_pushstring(L, es_reason_name((es_reason)reason));
    lua_rawseti(L, -2, reason);
  }
  state->reasons_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_state_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  state->L = lua_newthread(L);
  state->thread_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  es_detach_thread(state->L);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &objects_key);
  int err = es_loop_init(&state->loop);
  if (err != 0)
    luaL_error(L, "eventstream: loop: %s", uv_strerror(err));
  state->open = true;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
}

int luaopen_eventstream_core(lua_State *L);

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int luaopen_eventstream_core(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"encode", l_encode}, {"id_text", l_id_text}, {"await", l_await}, {"setup", l_setup}, {NULL, NULL}};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &module_key);
  if (!lua_isnil(L, -1))
    return 1; /* loaded once more, by one who cleared package.loaded: there is one loop, and so one module */
  ignore_sigpipe();
  new_state(L);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &module_key);
  luaL_setfuncs(L, functions, 0);
  es_open_loop(L);
  es_open_stream_class(L);
  es_open_request_class(L);
  es_open_interval_class(L);
  es_open_listener_class(L);
  es_open_file_class(L);
  es_open_channel_class(L);
  es_open_hosted_class(L);
  es_open_source_class(L);
  es_open_handover(L);
  es_open_pair_class(L);
  es_open_app_class(L);
  return 1;
}
