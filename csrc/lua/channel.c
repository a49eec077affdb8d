/* The class that scripts know as a channel: a handle of the net layer's. */
#include "lua/binding.h"

#include "core/ids.h"
#include "core/packed.h"

#include <string.h>

#define CLASS "eventstream.channel"

es_channel *es_test_channel(lua_State *L, int index) {
  es_channel **box = luaL_testudata(L, index, CLASS);
  return box != NULL ? *box : NULL;
}

es_channel *es_check_channel(lua_State *L, int index) {
  es_channel *ch = *(es_channel **)es_check_self(L, index, CLASS, "channel");
  if (ch == NULL)
    luaL_error(L, "the channel is gone: Lua is closing");
  return ch;
}

/* Gives the reference that its caller took to a new handle. */
static int l_new_handle(lua_State *L) {
  es_channel *ch = lua_touserdata(L, 1);
  es_channel **box = es_new_userdata(L, sizeof *box);
  *box = NULL;
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  es_push_objects(L);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, ch);
  lua_pop(L, 1);
  *box = ch;
  return 1;
}

void es_push_channel(lua_State *L, es_channel *ch) {
  luaL_checkstack(L, 4, NULL);
  es_push_objects(L);
  lua_rawgetp(L, -1, ch);
  lua_remove(L, -2);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  es_channel_ref(ch); /* before anything can collect the last handle there was */
  lua_pushcfunction(L, l_new_handle);
  lua_pushlightuserdata(L, ch);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK)
    return;
  es_channel_unref(ch);
  lua_error(L);
}

static int l_gc(lua_State *L) {
  es_channel **box = luaL_checkudata(L, 1, CLASS);
  if (*box != NULL)
    es_channel_unref(*box);
  *box = NULL;
  return 0;
}

static int closed(lua_State *L) {
  lua_pushnil(L);
  lua_pushliteral(L, "closed");
  return 2;
}

/* The option `except` of publish: the stream's exchange, or NULL. */
static es_exchange *check_except(lua_State *L, int index) {
  if (lua_isnoneornil(L, index))
    return NULL;
  if (lua_type(L, index) != LUA_TTABLE)
    luaL_error(L, "publish: options must be a table, not %s", luaL_typename(L, index));
  es_exchange *except = NULL;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "except") != 0) {
      lua_pop(L, 1);
      es_push_state_hook(L, es_state_of(L), "unknown_option");
      lua_insert(L, -2);
      lua_pushliteral(L, "except");
      lua_call(L, 2, 1);
      luaL_error(L, "publish: %s", lua_tostring(L, -1));
    }
    es_stream *stream = es_test_stream(L, -1);
    if (stream != NULL)
      except = stream->exchange;
    else
      luaL_error(L, "publish: except must be a stream, not %s", luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  return except;
}

static es_id_kind check_id(lua_State *L, const es_event_arg *arg) {
  uint64_t epoch, sequence;
  es_slice id = arg->event.id;
  if (id.ptr == NULL)
    return arg->no_id ? ES_ID_NONE : ES_ID_OWN;
  if (id.len == 0)
    luaL_error(L, "publish: id must not be empty (id = false publishes without one)");
  if (es_id_read(id, &epoch, &sequence))
    luaL_error(L, "publish: id must not look like one that a channel gives (EPOCH-SEQUENCE)");
  return ES_ID_GIVEN;
}

static const char *const kinds[] = {"own", "given", "none", NULL}; /* in the order of es_id_kind */

/* Hands an event to the app's backplane: relay(channel's name, kind, packed event, except, callback, given id), which
 * returns what publish does. */
static int relay(lua_State *L, const es_app *app, const es_channel *ch, const es_event *event, es_id_kind kind) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, app->self_ref);
  es_get_user_table(L, -1);
  lua_getfield(L, -1, "relay");
  lua_pushlstring(L, ch->node.key.ptr, ch->node.key.len);
  lua_pushstring(L, kinds[kind]);
  size_t size = es_packed_size(event);
  char *packed = lua_newuserdata(L, size);
  es_packed_write(packed, event);
  lua_pushlstring(L, packed, size);
  lua_remove(L, -2);
  if (lua_istable(L, 3))
    lua_getfield(L, 3, "except");
  else
    lua_pushnil(L);
  lua_pushvalue(L, 4);
  if (kind == ES_ID_GIVEN)
    lua_pushlstring(L, event->id.ptr, event->id.len);
  else
    lua_pushnil(L);
  lua_call(L, 6, 2);
  if (kind != ES_ID_GIVEN || !lua_toboolean(L, -2))
    return 2;
  lua_pushlstring(L, event->id.ptr, event->id.len);
  return 1;
}

/* _deliver(kind, packed, except, sequence, age): what the backplane brings, in order. Milliseconds. */
static int l_deliver(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  es_id_kind kind = (es_id_kind)luaL_checkoption(L, 2, NULL, kinds);
  es_slice packed;
  es_event event;
  packed.ptr = luaL_checklstring(L, 3, &packed.len);
  if (!es_packed_read(packed, &event) || es_event_check(&event) != ES_EVENT_OK)
    return es_fail(L, "this is no event");
  const es_stream *except = es_test_stream(L, 4);
  double sequence = luaL_checknumber(L, 5), age = luaL_checknumber(L, 6);
  int err = es_channel_deliver(ch, &event, kind, except != NULL ? except->exchange : NULL, (uint64_t)sequence,
                               age > 0 ? (uint64_t)age : 0);
  if (err == UV_ENOMEM)
    return es_fail(L, "out of memory");
  return 0;
}

/* _app(): the hooks of its app, or nil when that is closed. */
static int l_app(lua_State *L) {
  const es_channel *ch = es_check_channel(L, 1);
  const es_app *app = ch->server != NULL ? ch->server->user : NULL;
  if (app == NULL || app->self_ref == LUA_NOREF)
    return 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, app->self_ref);
  es_get_user_table(L, -1);
  return 1;
}

/* _end(): closes it here; where there is a backplane, close tells all. */
static int l_end(lua_State *L) {
  es_channel_close(es_check_channel(L, 1));
  return 0;
}

/* Calls a publish's callback with what that returns: results values on the top, which stay. */
static int told(lua_State *L, int results) {
  if (lua_isnil(L, 4))
    return results;
  int first = lua_gettop(L) - results + 1;
  lua_pushvalue(L, 4);
  for (int i = 0; i < results; i++)
    lua_pushvalue(L, first + i);
  lua_call(L, results, 0);
  return results;
}

/* publish(event [, { except = stream }] [, callback]): the id, or true where there is none; or nil, message. The callback is
 * told the same; where there is a backplane, when that has it. */
static int l_publish(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  es_event_arg arg;
  char text[ES_ID_TEXT];
  if (lua_isfunction(L, 3)) {
    lua_settop(L, 3);
    lua_pushnil(L);
    lua_insert(L, 3);
  }
  lua_settop(L, 4); /* the check of the event pushes */
  if (!lua_isnil(L, 4) && !lua_isfunction(L, 4))
    return luaL_error(L, "publish: callback must be a function, not %s", luaL_typename(L, 4));
  es_check_event(L, 2, "publish", &arg);
  es_exchange *except = check_except(L, 3);
  es_id_kind kind = check_id(L, &arg);
  const es_app *app = ch->server != NULL && !ch->server->closing ? ch->server->user : NULL;
  if (app != NULL && app->relayed)
    return relay(L, app, ch, &arg.event, kind);
  int err = es_channel_publish(ch, &arg.event, kind, except, text);
  if (err == UV_ECANCELED)
    return told(L, closed(L));
  if (err != 0)
    return luaL_error(L, "publish: out of memory");
  if (kind == ES_ID_NONE)
    lua_pushboolean(L, 1);
  else
    lua_pushlstring(L, arg.event.id.ptr, arg.event.id.len);
  return told(L, 1);
}

/* is_channel(value) */
static int l_is_channel(lua_State *L) {
  lua_pushboolean(L, es_test_channel(L, 1) != NULL);
  return 1;
}

static int l_close(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  const es_app *app = ch->server != NULL && !ch->server->closing ? ch->server->user : NULL;
  if (app == NULL || !app->relayed) {
    es_channel_close(ch);
    return 0;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, app->self_ref);
  es_get_user_table(L, -1);
  lua_getfield(L, -1, "relay");
  lua_pushlstring(L, ch->node.key.ptr, ch->node.key.len);
  lua_pushliteral(L, "close");
  lua_call(L, 2, 2);
  return lua_isnil(L, -2) ? 2 : 0;
}

/* A list of the streams that are subscribed. */
static int l_streams(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  size_t count = 0, room = ch->subscribers; /* a finalizer of the script's may subscribe more while the list is made */
  es_stream **list = es_new_list(L, room);
  const es_subscription *s = ch->server != NULL ? ch->at : NULL;
  if (s != NULL)
    do {
      es_exchange *x = s->ended ? NULL : s->connection->exchange;
      if (x != NULL && x->user != NULL && count < room)
        list[count++] = x->user;
    } while ((s = s->next) != ch->at);
  es_push_list(L, list, count);
  return 1;
}

/* _carries(id): whether a kept event has it as its given id. */
static int l_carries(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  es_slice id;
  id.ptr = luaL_checklstring(L, 2, &id.len);
  lua_pushboolean(L, ch->server != NULL && es_log_carries(&ch->log, id));
  return 1;
}

static int l_index(lua_State *L) {
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  if (!lua_isnil(L, -1) || lua_type(L, 2) != LUA_TSTRING)
    return 1;
  es_channel *ch = es_check_channel(L, 1);
  const char *name = lua_tostring(L, 2);
  char text[ES_ID_TEXT];
  if (strcmp(name, "name") == 0) {
    lua_pushlstring(L, ch->node.key.ptr, ch->node.key.len);
  } else if (strcmp(name, "id") == 0) {
    es_slice id = es_channel_id(ch, text);
    lua_pushlstring(L, id.ptr, id.len);
  } else if (strcmp(name, "subscribers") == 0) {
    lua_pushinteger(L, (lua_Integer)ch->subscribers);
  } else if (strcmp(name, "published") == 0) {
    lua_pushinteger(L, (lua_Integer)ch->published);
  } else if (strcmp(name, "closed") == 0) {
    lua_pushboolean(L, ch->server == NULL || ch->server->closing);
  }
  return 1; /* else the nil */
}

static int l_tostring(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  lua_pushliteral(L, "channel ");
  lua_pushlstring(L, ch->node.key.ptr, ch->node.key.len);
  if (ch->server == NULL || ch->server->closing)
    lua_pushliteral(L, " (closed)");
  else
    lua_pushfstring(L, " (%d subscribers)", (int)ch->subscribers);
  lua_concat(L, 3);
  return 1;
}

void es_open_channel_class(lua_State *L) {
  static const luaL_Reg methods[] = {{"publish", l_publish},  {"close", l_close}, {"streams", l_streams},
                                     {"_carries", l_carries}, {"_app", l_app},    {"_deliver", l_deliver},
                                     {"_end", l_end},         {NULL, NULL}};
  lua_pushcfunction(L, l_is_channel);
  lua_setfield(L, -2, "is_channel");
  luaL_newmetatable(L, CLASS);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "channel"); /* the Lua side adds its methods there */
  lua_pushcclosure(L, l_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, l_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}
