#include "lua/binding.h"

#include "net/platform.h"

#include <string.h>

#define CLASS "eventstream.listener"

static es_listener *check_listener(lua_State *L) {
  es_listener *l = *(es_listener **)es_check_self(L, 1, CLASS, "listener");
  if (l == NULL)
    luaL_error(L, "the listener is gone: Lua is closing");
  return l;
}

static int l_listener_index(lua_State *L) {
  es_listener *l = check_listener(L);
  const char *name = lua_tostring(L, 2);
  if (name == NULL)
    return 0;
  if (strcmp(name, "port") == 0 && l->port > 0)
    lua_pushinteger(L, l->port);
  else if (strcmp(name, "host") == 0 && l->host[0] != '\0')
    lua_pushstring(L, l->host);
  else if (strcmp(name, "path") == 0 && l->path != NULL)
    lua_pushstring(L, l->path);
  else if (strcmp(name, "closed") == 0)
    lua_pushboolean(L, l->server == NULL);
  else
    lua_getfield(L, lua_upvalueindex(1), name);
  return 1;
}

static int l_listener_close(lua_State *L) {
  es_listener *l = check_listener(L);
  es_listener_drain(l);
  es_listener_close(l);
  return 0;
}

/* share(): its descriptor, for another process that goes on listening: who waits in the queue, and a Unix socket's file,
 * then stay when this one is closed. nil once it is. */
static int l_listener_share(lua_State *L) {
  es_listener *l = check_listener(L);
  if (l->server == NULL)
    return 0;
  l->owned = false;
  lua_pushinteger(L, l->fd);
  return 1;
}

/* now(): seconds of a clock that nobody sets. */
static int l_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)es_loop_ns(&es_state_of(L)->loop) / 1e9);
  return 1;
}

/* duplicate(fd): a second descriptor of the same, which is closed when a program is started; or nil. */
static int l_duplicate(lua_State *L) {
  int fd = es_platform_duplicate((int)luaL_checkinteger(L, 1), 0);
  if (fd < 0)
    return 0;
  lua_pushinteger(L, fd);
  return 1;
}

static int l_pid(lua_State *L) {
  lua_pushinteger(L, uv_os_getpid());
  return 1;
}

static int l_listener_gc(lua_State *L) {
  es_listener **box = luaL_checkudata(L, 1, CLASS);
  es_listener_unref(*box); /* it listens on: dropping the reference closes nothing */
  *box = NULL;
  return 0;
}

es_listener **es_new_listener(lua_State *L) {
  es_listener **box = es_new_userdata(L, sizeof *box);
  *box = NULL;
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  return box;
}

void es_open_listener_class(lua_State *L) {
  luaL_newmetatable(L, CLASS);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, l_listener_close);
  lua_setfield(L, -2, "close");
  lua_pushcfunction(L, l_listener_share);
  lua_setfield(L, -2, "share");
  lua_pushcclosure(L, l_listener_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_listener_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
  lua_pushcfunction(L, l_duplicate);
  lua_setfield(L, -2, "duplicate");
  lua_pushcfunction(L, l_pid);
  lua_setfield(L, -2, "pid");
  lua_pushcfunction(L, l_now);
  lua_setfield(L, -2, "now");
}
