/* What the Lua side of another server needs, which hosts our connections: nginx's, say. It drives the loop by ticks, passes
 * requests in, and gets for each a handle; whatever is to be done for one, it is called for (net/hosted.h), and does it
 * in threads of its own, where scripts may wait as that server lets them. */
#include "lua/binding.h"

#include <stdlib.h>
#include <string.h>

#define CLASS "eventstream.hosted"
#define TAKE_MAX 65536 /* bytes at a time: what a reader that stops keeps from the log's count */

/* What nginx calls when a request goes away, whatever ends it: how its ngx_http_cleanup_t begins. */
typedef struct guard {
  void (*handler)(void *data);
  void *data;
} guard;

#define CALL_LOST 8 /* beside ES_CALL_...: the request went away, and its threads, without a word */

typedef struct handle {
  es_connection *connection;
  es_stream *stream; /* counted; NULL where the request was refused */
  void *waiter;      /* what its thread waits on for bytes; borrowed from its owner */
  guard *guard;      /* of the request; NULL when that is gone */
  int owner_ref;
  bool plain; /* what is brought goes out as it is */
  bool lost;
} handle;

/* The class is the methods' upvalue: looking it up by name costs more than all else that most of them do. */
static handle *check_handle(lua_State *L) {
  handle *h = lua_touserdata(L, 1);
  bool is_one = h != NULL && lua_getmetatable(L, 1) && lua_rawequal(L, -1, lua_upvalueindex(1));
  if (!is_one || h->connection == NULL)
    luaL_error(L, "no handle, or it is gone");
  lua_pop(L, 1);
  return h;
}

void es_hosted_begins(es_stream *s) {
  handle *h = s->exchange->connection->hosted.holder;
  h->stream = s;
  s->refs++;
  s->hosted = h->connection;
}

typedef struct routed {
  es_stream *stream;
  lua_State *L;
  bool runs;
} routed;

static void run_route(void *argument) {
  routed *r = argument;
  r->runs = es_app_route(r->stream);
  if (!r->runs)
    return;
  r->stream->running = true;
  lua_xmove(r->stream->app->state->L, r->L, 3);
}

/* host(request, address, port): takes a request, as bytes; a handle, and the function to call with two arguments; or the
 * handle alone, where the answer is there already; or nothing: the app is closed. */
int l_host(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  es_slice bytes;
  bytes.ptr = luaL_checklstring(L, 2, &bytes.len);
  const char *address = lua_tostring(L, 3);
  es_peer peer = {.family = ES_UNIX};
  if (app->server == NULL)
    return 0;
  if (address != NULL && es_peer_read((es_slice){address, strlen(address)}, &peer))
    peer.port = (uint16_t)lua_tonumber(L, 4);
  handle *h = es_new_userdata(L, sizeof *h);
  *h = (handle){.owner_ref = LUA_NOREF};
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  h->connection = es_hosted_new(app->server, &peer, h);
  if (h->connection == NULL)
    return luaL_error(L, "out of memory");
  es_app_anchor(L, app);
  es_connection *c = h->connection;
  es_intake_take(c, bytes.ptr, bytes.len);
  if (c->state == ES_READING && c->parser != NULL)
    es_intake_refuse(c, 400, "the request is not complete");
  routed r = {h->stream, L, false};
  if (h->stream == NULL)
    return 1;
  luaL_checkstack(L, 4, "host");
  if (!es_protect(app->state, run_route, &r))
    es_stream_failed(h->stream);
  return r.runs ? 4 : 1;
}

static void on_gone(void *data) {
  handle *h = data;
  h->guard = NULL;
  h->lost = true;
  es_connection_close(h->connection, ES_END_CLIENT);
  es_hosted_call(h->connection, ES_CALL_NEWS);
}

/* bind(owner, waiter, guard): what is called for this one; the address of what it waits on for bytes, borrowed; and that
 * of its request's guard, taken over. The address of a bool that is to be cleared when bytes were brought after which it
 * need not come again. */
static int l_bind(lua_State *L) {
  handle *h = check_handle(L);
  luaL_checkany(L, 2);
  h->waiter = (void *)(uintptr_t)luaL_checknumber(L, 3);
  guard *of_request = (guard *)(uintptr_t)luaL_checknumber(L, 4);
  lua_pushvalue(L, 2);
  h->owner_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  h->guard = of_request;
  *of_request = (guard){on_gone, h};
  lua_pushnumber(L, (lua_Number)(uintptr_t)&h->connection->full);
  return 1;
}

/* Pushes up to TAKE_MAX of what is due. */
static size_t push_due(lua_State *L, const es_due *due) {
  size_t size = due->bytes < TAKE_MAX ? due->bytes : TAKE_MAX, at = 0;
  if (due->count == 1) {
    lua_pushlstring(L, due->slices[0].iov_base, size);
    return size;
  }
  char *copy = lua_newuserdata(L, size);
  for (size_t i = 0; i < due->count && at < size; i++) {
    size_t part = due->slices[i].iov_len < size - at ? due->slices[i].iov_len : size - at;
    memcpy(copy + at, due->slices[i].iov_base, part);
    at += part;
  }
  lua_pushlstring(L, copy, size);
  lua_remove(L, -2);
  return size;
}

/* take(): bytes to bring to the client, and whether to come again at once; or a function to call with the stream, whose time has come; or false where
 * there is neither; or nil when that was all. */
static int l_take(lua_State *L) {
  handle *h = check_handle(L);
  es_stream *s = h->stream;
  if (s != NULL && s->rung && es_interval_push_rung(L, s))
    return 1;
  es_due due;
  es_hosted_take(h->connection, &due);
  if (h->connection->state == ES_CLOSED) {
    lua_pushnil(L);
    return 1;
  }
  if (due.bytes == 0) {
    lua_pushboolean(L, 0);
    return 1;
  }
  size_t size = push_due(L, &due); /* which may raise: nothing is taken then */
  lua_pushboolean(L, es_hosted_took(h->connection, &due, size));
  return 2;
}

/* gone(reason): the client has left, or ("slow") takes nothing. */
static int l_gone(lua_State *L) {
  handle *h = check_handle(L);
  const char *reason = luaL_checkstring(L, 2);
  es_connection_close(h->connection, strcmp(reason, "slow") == 0 ? ES_END_SLOW : ES_END_CLIENT);
  return 0;
}

/* plain(): the head is out, and others may bring what follows while it waits. */
static int l_plain(lua_State *L) {
  check_handle(L)->plain = true;
  return 0;
}

/* watch(fd): watches the client's socket, whose peer may leave; whether that can be. */
static int l_watch(lua_State *L) {
  handle *h = check_handle(L);
  lua_pushboolean(L, es_hosted_watch(h->connection, (int)luaL_checkinteger(L, 2)) == 0);
  return 1;
}

/* closed(): whether nothing more can be taken; and whether its end was in order. */
static int l_closed(lua_State *L) {
  const handle *h = check_handle(L);
  lua_pushboolean(L, h->connection->state == ES_CLOSED);
  lua_pushboolean(L, h->connection->hosted.ended);
  return 2;
}

/* reason(): why the exchange is over; nil while it is not. */
static int l_reason(lua_State *L) {
  const handle *h = check_handle(L);
  if (h->stream == NULL)
    lua_pushstring(L, es_reason_name(ES_END_DONE));
  else if (h->stream->exchange->reason == ES_OPEN)
    return 0;
  else
    es_push_reason(L, h->stream);
  return 1;
}

/* stream(): the stream, or nil for an ordinary request; request() */
static int l_stream(lua_State *L) {
  const handle *h = check_handle(L);
  if (h->stream == NULL || !h->stream->is_stream)
    return 0;
  es_push_stream(L, h->stream);
  return 1;
}

/* done([status, lines, body]): the handler returned, an ordinary one with its answer. */
static int l_done(lua_State *L) {
  handle *h = check_handle(L);
  es_stream *s = h->stream;
  s->running = false;
  if (s->is_stream) {
    es_stream_handler_done(s);
  } else {
    luaL_checkinteger(L, 2);
    luaL_checkstring(L, 3);
    es_stream_answer(L, 2, s);
  }
  return 0;
}

/* failed(): the handler's or an interval's error, already reported, costs this stream. */
static int l_failed(lua_State *L) {
  handle *h = check_handle(L);
  h->stream->running = false;
  es_stream_failed(h->stream);
  return 0;
}

/* closers(): a list of on_close functions that have not been called, or nil. */
static int l_closers(lua_State *L) {
  handle *h = check_handle(L);
  es_stream *s = h->stream;
  if (s == NULL || s->on_close_ref == LUA_NOREF)
    return 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->on_close_ref);
  es_unref(L, &s->on_close_ref);
  return 1;
}

/* left(): a channel of whose subscription the end has not been told, or nil. */
static int l_left(lua_State *L) {
  handle *h = check_handle(L);
  es_channel *ch = h->stream != NULL ? es_exchange_gone(h->stream->exchange) : NULL;
  if (ch == NULL)
    return 0;
  es_push_channel(L, ch); /* should it raise, the channel stays */
  es_channel_unref(ch);
  return 1;
}

/* fed(): asks whether anything still feeds the stream. */
static int l_fed(lua_State *L) {
  handle *h = check_handle(L);
  if (h->stream != NULL)
    es_stream_check_fed(h->stream);
  return 0;
}

static void let_go(lua_State *L, handle *h) {
  es_connection *c = h->connection;
  es_stream *s = h->stream;
  if (h->guard != NULL)
    h->guard->handler = NULL;
  es_unref(L, &h->owner_ref);
  *h = (handle){.owner_ref = LUA_NOREF};
  if (c == NULL)
    return;
  c->hosted.holder = NULL;
  es_hosted_free(c);
  if (s == NULL)
    return;
  s->hosted = NULL;
  s->running = false;
  if (s->ended)
    es_stream_over(s);
  es_stream_unref(s);
}

/* over(): all that it was called for is done. */
static int l_over(lua_State *L) {
  let_go(L, luaL_checkudata(L, 1, CLASS));
  return 0;
}

/* Pushes what is to be brought to the client of a holder that sleeps, which may sleep on; false where it has to come
 * itself. That it sleeps also says that its request is still there: nginx may have ended its threads without a word. */
static bool push_for_sleeper(lua_State *L, es_state *state, const handle *h) {
  es_due due;
  if (!h->plain || h->lost || h->stream == NULL || h->stream->rung || state->count(h->waiter) >= 0)
    return false;
  es_hosted_take(h->connection, &due);
  if (h->connection->state == ES_CLOSED || due.bytes == 0)
    return false;
  if (es_hosted_took(h->connection, &due, push_due(L, &due)))
    state->post(h->waiter, 1);
  return true;
}

/* called(owners, what): fills the lists with those that are called, and what for: the bytes to bring to a client whose
 * thread sleeps; or ES_CALL_..., and CALL_LOST. The waiters of those that are called for bytes alone, and have to come themselves, are
 * posted to from here. How many. */
static int l_called(lua_State *L) {
  es_state *state = es_state_of(L);
  es_connection *c;
  unsigned what;
  int count = 0;
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  while ((c = es_hosted_next(&state->loop, &what)) != NULL) {
    const handle *h = c->hosted.holder;
    if (h->owner_ref == LUA_NOREF) /* not bound yet: it comes by itself */
      continue;
    if (h->lost)
      what |= CALL_LOST;
    if (what != ES_CALL_BYTES) {
      lua_pushinteger(L, (lua_Integer)what);
    } else if (!push_for_sleeper(L, state, h)) {
      state->post(h->waiter, 1);
      continue;
    }
    lua_rawseti(L, 2, ++count);
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->owner_ref);
    lua_rawseti(L, 1, count);
  }
  lua_pushinteger(L, count);
  return 1;
}

static void on_wake(es_loop *loop) {
  es_state *state = (es_state *)((char *)loop - offsetof(es_state, loop));
  lua_State *L = state->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->on_wake_ref);
  if (lua_pcall(L, 0, 0, 0) != 0)
    lua_pop(L, 1); /* the function is our own: memory is out, and the next one wakes */
}

/* drive(wake, post, count): from now on the loop is driven by ticks alone, and calls the function when there is something to do
 * before due() has passed. post and count are the addresses of int post(void *waiter, int n) and int count(void *waiter). */
static int l_drive(lua_State *L) {
  es_state *state = es_state_of(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  state->post = (int (*)(void *, int))(uintptr_t)luaL_checknumber(L, 2);
  state->count = (int (*)(void *))(uintptr_t)luaL_checknumber(L, 3);
  es_unref(L, &state->on_wake_ref);
  lua_pushvalue(L, 1);
  state->on_wake_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  state->loop.on_wake = on_wake;
  state->loop.woken = false;
  return 0;
}

/* due(): milliseconds until the next tick; -1: none is due. */
static int l_due(lua_State *L) {
  es_loop *loop = &es_state_of(L)->loop;
  int look = es_hosted_look(loop), due = es_loop_due(loop);
  lua_pushinteger(L, look >= 0 && (due < 0 || look < due) ? look : due);
  return 1;
}

/* forked(): this is another process than the one that made the loop. */
static int l_forked(lua_State *L) {
  es_loop_forked(&es_state_of(L)->loop);
  return 0;
}

void es_open_hosted_class(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"bind", l_bind},     {"take", l_take}, {"gone", l_gone},     {"closed", l_closed},   {"reason", l_reason},
      {"stream", l_stream}, {"done", l_done}, {"failed", l_failed}, {"closers", l_closers}, {"left", l_left},
      {"fed", l_fed},       {"over", l_over}, {"watch", l_watch},   {"plain", l_plain},     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"called", l_called}, {"drive", l_drive}, {"due", l_due}, {"forked", l_forked}, {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  lua_setfield(L, -2, "hosted");
  luaL_newmetatable(L, CLASS);
  lua_newtable(L);
  lua_pushvalue(L, -2);
  luaL_setfuncs(L, methods, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_over);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
