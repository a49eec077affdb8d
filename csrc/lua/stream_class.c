/* The class that scripts know as a stream: its box, methods and fields. */
#include "lua/binding.h"

#include <string.h>

#define CLASS "eventstream.stream"
#define YEARS 3153600000.0 /* a hundred of them, in seconds: longer than any stream */

es_stream *es_check_stream(lua_State *L, int index) {
  es_stream *s = *(es_stream **)es_check_self(L, index, CLASS, "stream");
  if (s == NULL)
    luaL_error(L, "the stream is gone: Lua is closing");
  return s;
}

es_stream *es_test_stream(lua_State *L, int index) {
  es_stream **box = luaL_testudata(L, index, CLASS);
  return box != NULL ? *box : NULL;
}

bool es_push_box(lua_State *L, es_stream *s, const void *key, const char *class_name) {
  es_push_objects(L);
  lua_rawgetp(L, -1, key);
  bool made = lua_isnil(L, -1);
  if (made) {
    lua_pop(L, 1);
    es_stream **box = es_new_userdata(L, sizeof *box);
    *box = NULL;
    luaL_getmetatable(L, class_name);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, -3, key);
    *box = s;
    s->refs++;
  }
  lua_remove(L, -2);
  return made;
}

int l_box_gc(lua_State *L) {
  es_stream **box = lua_touserdata(L, 1);
  if (*box != NULL)
    es_stream_unref(*box);
  *box = NULL;
  return 0;
}

void es_push_stream(lua_State *L, es_stream *s) {
  es_push_box(L, s, s, CLASS);
}

es_stream **es_new_list(lua_State *L, size_t count) {
  return lua_newuserdata(L, (count > 0 ? count : 1) * sizeof(es_stream *));
}

void es_push_list(lua_State *L, es_stream **list, size_t count) {
  for (size_t i = 0; i < count; i++)
    list[i]->refs++; /* a finalizer of the script's may end it while the list is made */
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    es_push_stream(L, list[i]);
    lua_rawseti(L, -2, (int)i + 1);
    es_stream_unref(list[i]);
  }
}

static bool is_open(const es_stream *s) {
  return s->exchange->reason == ES_OPEN;
}

/* --- Methods --- */

static int closed(lua_State *L) {
  lua_pushnil(L);
  lua_pushliteral(L, "closed");
  return 2;
}

static int send_event(lua_State *L, es_stream *s, const es_event *event) {
  bool own = es_task_is(s->task, L);
  if (!is_open(s))
    return own ? es_task_dead(s->task, L) : closed(L);
  if (!es_stream_open(s) || !is_open(s))
    return closed(L);
  s->used = true;
  int err = es_exchange_send(s->exchange, event);
  if (err == UV_ENOBUFS) {
    if (own)
      return es_task_send(s->task, L, event);
    lua_pushnil(L);
    lua_pushliteral(L, "backlog");
    return 2;
  }
  if (err == UV_ECANCELED)
    return closed(L);
  if (err != 0)
    return luaL_error(L, "send: out of memory");
  lua_pushboolean(L, 1);
  return 1;
}

static int l_send(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  es_event_arg arg;
  es_check_event(L, 2, "send", &arg);
  if (arg.event.id.ptr != NULL && is_open(s) && s->exchange->subscribed > 0)
    return luaL_error(L, "send: an id on a stream that has subscriptions would spoil its resume: publish the event, or "
                         "leave the id out");
  return send_event(L, s, &arg.event);
}

static int l_comment(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  es_event event = ES_EVENT_INIT;
  if (lua_type(L, 2) != LUA_TSTRING)
    return luaL_error(L, "comment: text must be a string, not %s", luaL_typename(L, 2));
  event.comment.ptr = lua_tolstring(L, 2, &event.comment.len);
  return send_event(L, s, &event);
}

static int l_sleep(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  double seconds = es_check_seconds(L, 2, "sleep", false);
  if (!es_task_is(s->task, L))
    return luaL_error(L,
                      "sleep: only the stream's own handler can wait; in a callback use stream:after or stream:every");
  if (!is_open(s))
    return es_task_dead(s->task, L);
  if (!es_stream_open(s) || !is_open(s))
    return es_task_dead(s->task, L);
  return es_task_sleep(s->task, L, seconds);
}

/* _check_sleep(seconds): raises where they are none. */
static int l_check_sleep(lua_State *L) {
  es_check_stream(L, 1);
  es_check_seconds(L, 2, "sleep", false);
  return 0;
}

static int new_interval(lua_State *L, bool repeats, const char *who) {
  es_stream *s = es_check_stream(L, 1);
  if (!is_open(s)) {
    es_check_seconds(L, 2, who, repeats);
    return closed(L);
  }
  return es_new_interval(L, s->app, s, repeats, who);
}

static int l_every(lua_State *L) {
  return new_interval(L, true, "every");
}

static int l_after(lua_State *L) {
  return new_interval(L, false, "after");
}

static int l_on_close(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (lua_type(L, 2) != LUA_TFUNCTION)
    return luaL_error(L, "on_close: function expected, got %s", luaL_typename(L, 2));
  if (s->app == NULL)
    return 0;
  if (s->on_close_ref == LUA_NOREF) {
    lua_createtable(L, 1, 0);
    s->on_close_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->on_close_ref);
  lua_pushvalue(L, 2);
  int count = 0;
  for (bool more = true; more; count++) {
    lua_rawgeti(L, -2, count + 1);
    more = !lua_isnil(L, -1);
    lua_pop(L, 1);
  }
  lua_rawseti(L, -2, count);
  if (s->over)
    es_stream_call_late(s);
  return 0;
}

static int l_hold(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (!is_open(s))
    return closed(L);
  s->held = s->used = true;
  lua_pushboolean(L, 1);
  return 1;
}

/* expire(seconds): from now, unless it ends sooner; 0 and below: at the turn's end. */
static int l_expire(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  double seconds = lua_tonumber(L, 2);
  if (lua_type(L, 2) != LUA_TNUMBER || seconds != seconds)
    return luaL_error(L, "expire: seconds must be a number, not %s", luaL_typename(L, 2));
  if (!is_open(s))
    return closed(L);
  es_exchange_expire(s->exchange, seconds > 0 ? seconds < YEARS ? seconds : YEARS : 0);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_flush(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (!is_open(s) || !es_stream_open(s))
    return closed(L);
  es_exchange_flush(s->exchange);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_close(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (is_open(s) && es_stream_open(s))
    es_exchange_end(s->exchange, ES_END_SERVER);
  return 0;
}

/* _admits(what): whether a subscription to it can begin: true; or nil, "closed"; or false where it is no channel. */
static int l_admits(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  const es_channel *ch = es_test_channel(L, 2);
  if (ch == NULL) {
    lua_pushboolean(L, 0);
    return 1;
  }
  if (!s->is_stream)
    return es_fail(L, "subscribe: this is no stream");
  if (!is_open(s) || ch->server == NULL)
    return closed(L);
  if (ch->server != s->app->server)
    return es_fail(L, "subscribe: the channel belongs to another app");
  lua_pushboolean(L, 1);
  return 1;
}

/* _subscribe(channel, id, since, live, gap_live, newcomer), with a channel that it admits: "live", "resumed" or "gap",
 * and whether it is new; or nil, "closed". */
static int l_subscribe(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  es_channel *ch = es_check_channel(L, 2);
  double newcomer = lua_tonumber(L, 7);
  es_start start = {.since = lua_toboolean(L, 4) != 0,
                    .live = lua_toboolean(L, 5) != 0,
                    .gap_live = lua_toboolean(L, 6) != 0,
                    .newcomer = newcomer < (double)(SIZE_MAX / 2) ? (size_t)newcomer : SIZE_MAX};
  start.id.ptr = lua_tolstring(L, 3, &start.id.len);
  if (!is_open(s) || !es_stream_open(s) || !is_open(s))
    return closed(L);
  es_subscribed result = es_subscribe(s->exchange, ch, &start);
  s->used = true;
  switch (result) {
  case ES_SUBSCRIBED_ALREADY:
  case ES_SUBSCRIBED_LIVE:
    lua_pushliteral(L, "live");
    break;
  case ES_SUBSCRIBED_RESUMED:
    lua_pushliteral(L, "resumed");
    break;
  case ES_SUBSCRIBED_GAP:
    lua_pushliteral(L, "gap");
    break;
  case ES_SUBSCRIBED_CLOSED:
    return closed(L);
  case ES_SUBSCRIBED_NO_MEMORY:
    return es_fail(L, "subscribe: out of memory");
  }
  lua_pushboolean(L, result != ES_SUBSCRIBED_ALREADY);
  return 2;
}

/* _tell(channel): whether on_subscribe is to be told of it, and on_unsubscribe later: not when it is over already. */
static int l_tell(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  const es_channel *ch = es_check_channel(L, 2);
  es_subscription *subscription = is_open(s) ? es_subscription_of(s->exchange->connection, ch) : NULL;
  bool begins = subscription != NULL && !subscription->ended && !subscription->told;
  if (begins)
    subscription->told = true;
  lua_pushboolean(L, begins);
  return 1;
}

/* _told(channel): whether there is a subscription of which _tell was true. */
static int l_told(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  const es_channel *ch = es_check_channel(L, 2);
  es_subscription *subscription = is_open(s) ? es_subscription_of(s->exchange->connection, ch) : NULL;
  lua_pushboolean(L, subscription != NULL && !subscription->ended && subscription->told);
  return 1;
}

/* _unsubscribe(channel): whether there was a subscription. */
static int l_unsubscribe(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  es_channel *ch = es_test_channel(L, 2);
  lua_pushboolean(L, ch != NULL && es_unsubscribe(s->exchange, ch));
  return 1;
}

/* is_stream(value) */
static int l_is_stream(lua_State *L) {
  lua_pushboolean(L, es_test_stream(L, 1) != NULL);
  return 1;
}

/* _app(): the hooks of its app, or nil when that is closed. */
static int l_app(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (s->app == NULL || s->app->self_ref == LUA_NOREF)
    return 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->app->self_ref);
  es_get_user_table(L, -1);
  return 1;
}

/* _lines([block]): the header lines that wait for the head, "" at first; nil when the head is sent. */
static int l_lines(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (s->exchange->head_sent || !is_open(s)) {
    lua_pushnil(L);
    return 1;
  }
  if (lua_type(L, 2) == LUA_TSTRING) {
    es_unref(L, &s->lines_ref);
    lua_pushvalue(L, 2);
    s->lines_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  if (s->lines_ref == LUA_NOREF)
    lua_pushliteral(L, "");
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->lines_ref);
  return 1;
}

/* _answer(status, lines, body): an ordinary answer instead of the stream. */
static int l_answer(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  es_slice lines, body;
  int status = (int)luaL_checkinteger(L, 2);
  lines.ptr = luaL_checklstring(L, 3, &lines.len);
  body.ptr = luaL_checklstring(L, 4, &body.len);
  es_exchange_answer(s->exchange, status, lines, body);
  return 0;
}

/* --- Fields --- */

static int field_closed(lua_State *L, es_stream *s) {
  lua_pushboolean(L, !is_open(s));
  return 1;
}

static int field_request(lua_State *L, es_stream *s) {
  es_push_request(L, s);
  return 1;
}

static int field_data(lua_State *L, es_stream *s) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->data_ref); /* nil for LUA_NOREF */
  return 1;
}

static int field_last_event_id(lua_State *L, es_stream *s) {
  es_push_state_hook(L, es_state_of(L), "last_event_id");
  es_push_request(L, s);
  lua_call(L, 1, 1);
  return 1;
}

static int l_index(lua_State *L) {
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  if (!lua_isnil(L, -1) || lua_type(L, 2) != LUA_TSTRING)
    return 1;
  static const struct {
    const char *name;
    int (*get)(lua_State *L, es_stream *s);
  } fields[] = {{"closed", field_closed},
                {"data", field_data},
                {"request", field_request},
                {"last_event_id", field_last_event_id}};
  es_stream *s = es_check_stream(L, 1);
  const char *name = lua_tostring(L, 2);
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (strcmp(name, fields[i].name) == 0)
      return fields[i].get(L, s);
  }
  return 1;
}

static int l_newindex(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "data") != 0)
    return luaL_error(L, "stream: only stream.data can be set; keep your own values in it");
  es_unref(L, &s->data_ref);
  if (s->over || s->app == NULL)
    return luaL_error(L, "stream: data cannot be set any more: the stream is over");
  if (!lua_isnil(L, 3)) {
    lua_pushvalue(L, 3);
    s->data_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  return 0;
}

static int l_tostring(lua_State *L) {
  es_stream *s = es_check_stream(L, 1);
  es_slice path = s->exchange->request->path;
  lua_pushlstring(L, path.ptr, path.len);
  lua_pushfstring(L, "stream %s (%s)", lua_tostring(L, -1), is_open(s) ? "open" : es_reason_name(s->exchange->reason));
  return 1;
}

void es_open_stream_class(lua_State *L) {
  static const luaL_Reg methods[] = {{"send", l_send},
                                     {"comment", l_comment},
                                     {"sleep", l_sleep},
                                     {"every", l_every},
                                     {"after", l_after},
                                     {"on_close", l_on_close},
                                     {"hold", l_hold},
                                     {"flush", l_flush},
                                     {"expire", l_expire},
                                     {"close", l_close},
                                     {"_check_sleep", l_check_sleep},
                                     {"_lines", l_lines},
                                     {"_answer", l_answer},
                                     {"_admits", l_admits},
                                     {"_subscribe", l_subscribe},
                                     {"_tell", l_tell},
                                     {"_told", l_told},
                                     {"_unsubscribe", l_unsubscribe},
                                     {"_app", l_app},
                                     {NULL, NULL}};
  lua_pushcfunction(L, l_is_stream);
  lua_setfield(L, -2, "is_stream");
  luaL_newmetatable(L, CLASS);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "stream"); /* the Lua side adds its methods there */
  lua_pushcclosure(L, l_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_newindex);
  lua_setfield(L, -2, "__newindex");
  lua_pushcfunction(L, l_box_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, l_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}
