/* What lua/eventstream/client.lua stands on: core.source(event_bytes, on) is an event stream that is read, and
 * core.reader(event_bytes) the reader alone. */
#include "lua/binding.h"

#include "core/text.h"
#include "net/source.h"

#include <string.h>

#define CLASS "eventstream.source"
#define READER_CLASS "eventstream.reader"
#define EVENT_BYTES_MAX 1073741824.0

/* The userdata, whose table holds the function at 1. While the source is busy it is anchored: dropping the last reference
 * ends nothing. */
typedef struct box {
  es_source *source;
  es_state *state;
  int self_ref;
} box;

typedef struct call {
  const es_source *source;
  const char *what;
  const es_response *response;
  const es_read_event *event;
  const char *why;
  uint32_t milliseconds;
  bool result;
} call;

static void release(box *b) {
  if (!b->source->busy)
    es_unref(b->state->L, &b->self_ref);
}

/* A table of the headers, by names in small letters; several of one name are joined (RFC 9110, 5.3). */
static void push_headers(lua_State *L, const es_response *response) {
  es_slice name, value;
  lua_newtable(L);
  for (size_t i = 0; es_response_header(response, i, &name, &value); i++) {
    luaL_Buffer small;
    luaL_buffinit(L, &small);
    for (size_t at = 0; at < name.len; at++)
      luaL_addchar(&small, es_lower(name.ptr[at]));
    luaL_pushresult(&small);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      lua_pushlstring(L, value.ptr, value.len);
    } else {
      lua_pushliteral(L, ", ");
      lua_pushlstring(L, value.ptr, value.len);
      lua_concat(L, 3);
    }
    lua_rawset(L, -3);
  }
}

static void push_event(lua_State *L, const es_read_event *event) {
  lua_pushlstring(L, event->type.ptr, event->type.len);
  lua_pushlstring(L, event->data.ptr, event->data.len);
  lua_pushlstring(L, event->id.ptr, event->id.len);
}

static void run_call(void *argument) {
  call *c = argument;
  const box *b = c->source->owner;
  lua_State *L = b->state->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, b->self_ref);
  es_get_user_table(L, -1);
  lua_rawgeti(L, -1, 1);
  lua_replace(L, -3);
  lua_pop(L, 1);
  int function = lua_gettop(L);
  lua_pushstring(L, c->what);
  if (c->response != NULL) {
    lua_pushinteger(L, es_response_status(c->response));
    push_headers(L, c->response);
  } else if (c->event != NULL) {
    push_event(L, c->event);
  } else if (c->why != NULL) {
    lua_pushstring(L, c->why);
  } else {
    lua_pushinteger(L, (lua_Integer)c->milliseconds);
  }
  if (!es_call(b->state, NULL, NULL, lua_gettop(L) - function, 1))
    return;
  c->result = lua_toboolean(L, -1) != 0;
  lua_pop(L, 1);
}

/* Where memory is out nobody can be told, and so it is stopped. */
static bool do_call(es_source *source, call *c) {
  c->source = source;
  if (!es_protect(((box *)source->owner)->state, run_call, c))
    es_source_stop(source);
  if (source->owner != NULL) /* else it was stopped, and collected since */
    release(source->owner);
  return c->result;
}

static bool on_head(es_source *source, const es_response *response) {
  return do_call(source, &(call){.what = "head", .response = response});
}

static void on_event(es_source *source, const es_read_event *event) {
  do_call(source, &(call){.what = "event", .event = event});
}

static void on_retry(es_source *source, uint32_t milliseconds) {
  do_call(source, &(call){.what = "retry", .milliseconds = milliseconds});
}

static void on_ended(es_source *source, const char *why) {
  do_call(source, &(call){.what = "end", .why = why != NULL ? why : ""});
}

static void on_due(es_source *source) {
  do_call(source, &(call){.what = "due"});
}

static size_t check_event_bytes(lua_State *L, int index) {
  lua_Number bytes = luaL_checknumber(L, index);
  luaL_argcheck(L, bytes >= 1 && bytes <= EVENT_BYTES_MAX, index, "event_bytes");
  return (size_t)bytes;
}

static int l_source(lua_State *L) {
  static const es_source_hooks hooks = {on_head, on_event, on_retry, on_ended, on_due};
  es_state *state = es_state_of(L);
  size_t event_bytes = check_event_bytes(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  box *b = es_new_userdata(L, sizeof *b);
  *b = (box){.state = state, .self_ref = LUA_NOREF};
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  lua_createtable(L, 1, 0);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, 1);
  es_set_user_table(L, -2);
  b->source = es_source_new(&state->loop, event_bytes, &hooks);
  if (b->source == NULL)
    return luaL_error(L, "out of memory");
  b->source->owner = b;
  return 1;
}

static box *check_box(lua_State *L) {
  box *b = luaL_checkudata(L, 1, CLASS);
  if (b->source == NULL || !b->state->open)
    luaL_error(L, "the source is gone: Lua is closing");
  return b;
}

static void anchor(lua_State *L, box *b) {
  if (b->self_ref != LUA_NOREF)
    return;
  lua_pushvalue(L, 1);
  b->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* source:open(host, port, tls, text, head_seconds, idle_seconds): true, or nil and why. tls is a context of
 * eventstream.tls, or nil. */
static int l_open(lua_State *L) {
  box *b = check_box(L);
  const char *host = luaL_checkstring(L, 2);
  int port = (int)luaL_checkinteger(L, 3);
  es_tls_context *tls = lua_isnil(L, 4) ? NULL : luaL_checkudata(L, 4, ES_TLS_CLASS);
  es_slice text;
  text.ptr = luaL_checklstring(L, 5, &text.len);
  double head_seconds = luaL_checknumber(L, 6), idle_seconds = luaL_checknumber(L, 7);
  if (b->source->busy)
    return luaL_error(L, "the source is busy");
  anchor(L, b);
  int err = es_source_open(b->source, host, port, tls, text, head_seconds, idle_seconds);
  release(b);
  if (err == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", uv_err_name(err), uv_strerror(err));
  return 2;
}

static int l_wait(lua_State *L) {
  box *b = check_box(L);
  double seconds = luaL_checknumber(L, 2);
  es_source_stop(b->source);
  anchor(L, b);
  int err = es_source_wait(b->source, seconds);
  release(b);
  return err == 0 ? 0 : luaL_error(L, "out of memory");
}

static int l_stop(lua_State *L) {
  box *b = check_box(L);
  es_source_stop(b->source);
  release(b);
  return 0;
}

static int l_pause(lua_State *L) {
  es_source_pause(check_box(L)->source, lua_toboolean(L, 2) != 0);
  return 0;
}

/* source:last_id(id): sets the last event id, where one is given, and tells it. */
static int l_last_id(lua_State *L) {
  es_reader *reader = check_box(L)->source->reader;
  es_slice id;
  if (!lua_isnoneornil(L, 2)) {
    id.ptr = luaL_checklstring(L, 2, &id.len);
    if (es_reader_set_last_id(reader, id) != 0)
      return luaL_error(L, "out of memory");
  }
  id = es_reader_last_id(reader);
  lua_pushlstring(L, id.ptr, id.len);
  return 1;
}

static int l_gc(lua_State *L) {
  box *b = luaL_checkudata(L, 1, CLASS);
  es_source *source = b->source;
  b->source = NULL;
  if (source != NULL)
    source->owner = NULL;
  es_source_unref(source);
  return 0;
}

/* --- The reader alone --- */

static int l_reader(lua_State *L) {
  size_t event_bytes = check_event_bytes(L, 1);
  es_reader **reader = es_new_userdata(L, sizeof *reader);
  *reader = NULL;
  luaL_getmetatable(L, READER_CLASS);
  lua_setmetatable(L, -2);
  *reader = es_reader_new(event_bytes);
  return *reader != NULL ? 1 : luaL_error(L, "out of memory");
}

static es_reader *check_reader(lua_State *L) {
  return *(es_reader **)luaL_checkudata(L, 1, READER_CLASS);
}

/* reader:feed(bytes, from): the type, the data and the last id of the next event, and where it goes on; or "retry",
 * milliseconds, nil and that; or nil, when all bytes are taken; or nil and why. */
static int l_feed(lua_State *L) {
  es_reader *reader = check_reader(L);
  size_t size, from = (size_t)luaL_optinteger(L, 3, 1) - 1, taken;
  const char *bytes = luaL_checklstring(L, 2, &size);
  luaL_argcheck(L, from <= size, 3, "position");
  switch (es_reader_feed(reader, bytes + from, size - from, &taken)) {
  case ES_READ_MORE:
    return 0;
  case ES_READ_EVENT: {
    es_read_event event = es_reader_event(reader);
    push_event(L, &event);
    break;
  }
  case ES_READ_RETRY:
    lua_pushboolean(L, 0);
    lua_pushinteger(L, (lua_Integer)es_reader_retry(reader));
    lua_pushnil(L);
    break;
  case ES_READ_LARGE:
    lua_pushnil(L);
    lua_pushliteral(L, "an event is larger than event_bytes");
    return 2;
  case ES_READ_MEMORY:
    return luaL_error(L, "out of memory");
  }
  lua_pushinteger(L, (lua_Integer)(from + taken + 1));
  return 4;
}

static int l_reader_last_id(lua_State *L) {
  es_slice id = es_reader_last_id(check_reader(L));
  lua_pushlstring(L, id.ptr, id.len);
  return 1;
}

static int l_reader_reset(lua_State *L) {
  es_reader_reset(check_reader(L));
  return 0;
}

static int l_reader_gc(lua_State *L) {
  es_reader **reader = luaL_checkudata(L, 1, READER_CLASS);
  es_reader_free(*reader);
  *reader = NULL;
  return 0;
}

/* core.in_handler(): whether a handler's own coroutine runs, which may wait; false and true where a handler runs another. */
static int l_in_handler(lua_State *L) {
  const es_task *running = es_state_of(L)->running;
  lua_pushboolean(L, es_task_is(running, L));
  lua_pushboolean(L, running != NULL);
  return 2;
}

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}

void es_open_source_class(lua_State *L) {
  static const luaL_Reg source[] = {{"open", l_open},   {"wait", l_wait},       {"stop", l_stop},
                                    {"pause", l_pause}, {"last_id", l_last_id}, {NULL, NULL}};
  static const luaL_Reg reader[] = {
      {"feed", l_feed}, {"last_id", l_reader_last_id}, {"reset", l_reader_reset}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"source", l_source}, {"reader", l_reader}, {"in_handler", l_in_handler}, {NULL, NULL}};
  new_class(L, CLASS, source, l_gc);
  new_class(L, READER_CLASS, reader, l_reader_gc);
  luaL_setfuncs(L, functions, 0);
}
