/* What lua/eventstream/test.lua stands on: core.pair(app, address) is a client without a port, whose socket is the app's
 * connection's other half; and time that is moved by hand. */
#include "lua/binding.h"

#include "net/platform.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define CLASS "eventstream.pair"

static int *check_pair(lua_State *L) {
  return luaL_checkudata(L, 1, CLASS);
}

/* pair(app, address): the client's half; address is whence it comes, nil: a Unix socket. */
static int l_pair(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  const char *address = luaL_optstring(L, 2, NULL);
  es_accepted accepted = {.peer = {.family = ES_UNIX}};
  if (app->server == NULL || app->server->closing)
    return es_fail(L, "request: the app is closed");
  if (address != NULL && !es_peer_read((es_slice){address, strlen(address)}, &accepted.peer))
    return es_fail(L, "request: remote must be an IP address, not '%s'", address);
  int *half = es_new_userdata(L, sizeof *half), fds[2];
  *half = -1;
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  es_app_anchor(L, app);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
    return luaL_error(L, "socketpair: %s", strerror(errno));
  *half = fds[1];
  if (es_platform_adopt(fds[0]) != 0 || es_platform_adopt(fds[1]) != 0) {
    close(fds[0]);
    return luaL_error(L, "socketpair: %s", strerror(errno));
  }
  app->server->stats.accepted++;
  es_connection_new(app->server, fds[0], &accepted);
  return 1;
}

/* pair:send(bytes, from): how many of them were taken; nil: the server is gone. */
static int l_send(lua_State *L) {
  const int *half = check_pair(L);
  size_t size, from = (size_t)luaL_optinteger(L, 3, 1) - 1;
  const char *bytes = luaL_checklstring(L, 2, &size);
  luaL_argcheck(L, from <= size, 3, "position");
  ssize_t sent = *half < 0 ? -1 : send(*half, bytes + from, size - from, MSG_NOSIGNAL);
  if (sent < 0 && (*half < 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)))
    return 0;
  lua_pushinteger(L, sent > 0 ? (lua_Integer)sent : 0);
  return 1;
}

/* pair:receive(): what has come, maybe nothing; nil: the server has closed. */
static int l_receive(lua_State *L) {
  const int *half = check_pair(L);
  char bytes[16384];
  ssize_t size = *half < 0 ? 0 : recv(*half, bytes, sizeof bytes, 0);
  if (size == 0 || (size < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
    return 0;
  lua_pushlstring(L, bytes, size > 0 ? (size_t)size : 0);
  return 1;
}

static int l_close(lua_State *L) {
  int *half = check_pair(L);
  if (*half >= 0)
    close(*half);
  *half = -1;
  return 0;
}

static es_loop *loop_of(lua_State *L) {
  es_state *state = es_state_of(L);
  if (!state->open)
    luaL_error(L, "the loop is closed: Lua is closing");
  return &state->loop;
}

/* hold_time(whether): time stands still, and goes on. */
static int l_hold_time(lua_State *L) {
  es_loop_hold_time(loop_of(L), lua_toboolean(L, 1) != 0);
  return 0;
}

/* move_time(milliseconds) */
static int l_move_time(lua_State *L) {
  lua_Number ms = luaL_checknumber(L, 1);
  luaL_argcheck(L, ms >= 0 && ms <= 1e15, 1, "no time");
  es_loop_move_time(loop_of(L), (uint64_t)ms);
  return 0;
}

/* next_due(): milliseconds until something is due, by that time; nil: nothing is. */
static int l_next_due(lua_State *L) {
  es_loop *loop = loop_of(L);
  uint64_t due = es_loop_next_due(loop), now = es_loop_time(loop);
  if (due == ES_NEVER)
    return 0;
  lua_pushnumber(L, due > now ? (lua_Number)(due - now) : 0);
  return 1;
}

void es_open_pair_class(lua_State *L) {
  static const luaL_Reg methods[] = {{"send", l_send}, {"receive", l_receive}, {"close", l_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"pair", l_pair}, {"hold_time", l_hold_time}, {"move_time", l_move_time}, {"next_due", l_next_due}, {NULL, NULL}};
  luaL_newmetatable(L, CLASS);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_close);
  lua_setfield(L, -2, "__gc");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
