/* compat: the few places where the C APIs of Lua 5.1 to 5.4 and LuaJIT differ for us. Tests features, not vendors. */
#ifndef ES_LUA_COMPAT_H
#define ES_LUA_COMPAT_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdbool.h>

/* Resumes; *results tells how many values lie on co's stack after a yield or a return. */
static inline int es_resume(lua_State *co, lua_State *from, int arguments, int *results) {
#if LUA_VERSION_NUM >= 504
  return lua_resume(co, from, arguments, results);
#else
#if LUA_VERSION_NUM >= 502
  int status = lua_resume(co, from, arguments);
#else
  (void)from;
  int status = lua_resume(co, arguments);
#endif
  *results = status <= LUA_YIELD ? lua_gettop(co) : 1;
  return status;
#endif
}

/* Closes a coroutine's pending <close> variables, where there are such: LUA_OK, or an error whose object is on co's top,
 * which is the one that ended co unless a __close raised another. */
static inline int es_close_thread(lua_State *co, lua_State *from) {
#if LUA_VERSION_NUM >= 504 && LUA_VERSION_RELEASE_NUM >= 50406
  return lua_closethread(co, from);
#elif LUA_VERSION_NUM >= 504
  (void)from;
  return lua_resetthread(co);
#else
  (void)co;
  (void)from;
  return 0;
#endif
}

/* Whether lua_yield can be called; true where Lua cannot tell (it raises then). */
static inline int es_is_yieldable(lua_State *L) {
#if LUA_VERSION_NUM >= 503
  return lua_isyieldable(L);
#else
  (void)L;
  return 1;
#endif
}

#if LUA_VERSION_NUM >= 504
#define es_new_userdata(L, size) lua_newuserdatauv(L, size, 1)
#else
#define es_new_userdata(L, size) lua_newuserdata(L, size)
#endif

/* A table that belongs to a userdata. */
static inline void es_set_user_table(lua_State *L, int index) {
#if LUA_VERSION_NUM >= 504
  lua_setiuservalue(L, index, 1);
#elif LUA_VERSION_NUM >= 502
  lua_setuservalue(L, index);
#else
  lua_setfenv(L, index);
#endif
}

static inline void es_get_user_table(lua_State *L, int index) {
#if LUA_VERSION_NUM >= 504
  lua_getiuservalue(L, index, 1);
#elif LUA_VERSION_NUM >= 502
  lua_getuservalue(L, index);
#else
  lua_getfenv(L, index);
#endif
}

/* An integer where Lua has them, else a number that is integral. */
static inline int es_is_integer(lua_State *L, int index) {
#if LUA_VERSION_NUM >= 503
  return lua_isinteger(L, index);
#else
  (void)L;
  (void)index;
  return 0; /* the caller treats integral numbers as integers anyway */
#endif
}

/* nginx's LuaJIT keeps a request with each thread, which new ones inherit: a thread that outlives it must not. */
#if LUA_VERSION_NUM == 501 && defined(__ELF__)
extern void lua_setexdata(lua_State *L, void *exdata) __attribute__((weak));
#endif

static inline void es_detach_thread(lua_State *L) {
#if LUA_VERSION_NUM == 501 && defined(__ELF__)
  if (lua_setexdata != NULL)
    lua_setexdata(L, NULL);
#else
  (void)L;
#endif
}

#if LUA_VERSION_NUM < 502
static inline void lua_rawgetp(lua_State *L, int index, const void *key) {
  if (index < 0 && index > LUA_REGISTRYINDEX)
    index += lua_gettop(L) + 1;
  lua_pushlightuserdata(L, (void *)key);
  lua_rawget(L, index);
}

static inline void lua_rawsetp(lua_State *L, int index, const void *key) {
  if (index < 0 && index > LUA_REGISTRYINDEX)
    index += lua_gettop(L) + 1;
  lua_pushlightuserdata(L, (void *)key);
  lua_insert(L, -2);
  lua_rawset(L, index);
}

#ifndef LUA_OK
#define LUA_OK 0
#endif

#ifndef luaL_newlib /* LuaJIT has these */
static inline void luaL_setfuncs(lua_State *L, const luaL_Reg *functions, int upvalues) {
  for (; functions->name != NULL; functions++) {
    for (int i = 0; i < upvalues; i++)
      lua_pushvalue(L, -upvalues);
    lua_pushcclosure(L, functions->func, upvalues);
    lua_setfield(L, -(upvalues + 2), functions->name);
  }
  lua_pop(L, upvalues);
}
#define ES_NO_TRACEBACK

static inline void *luaL_testudata(lua_State *L, int index, const char *name) {
  void *box = lua_touserdata(L, index);
  if (box == NULL || !lua_getmetatable(L, index))
    return NULL;
  luaL_getmetatable(L, name);
  bool same = lua_rawequal(L, -1, -2) != 0;
  lua_pop(L, 2);
  return same ? box : NULL;
}
#endif
#endif

/* Pushes co's traceback. */
static inline void es_traceback(lua_State *L, lua_State *co, int level) {
#ifdef ES_NO_TRACEBACK
  lua_getglobal(L, "debug");
  lua_getfield(L, -1, "traceback");
  lua_pushthread(co);
  if (co != L)
    lua_xmove(co, L, 1);
  (void)level; /* given with a message only, which would add an empty line */
  if (lua_pcall(L, 1, 1, 0) != 0) {
    lua_pop(L, 1);
    lua_pushliteral(L, "");
  }
  lua_remove(L, -2);
#else
  luaL_traceback(L, co, NULL, level);
#endif
}

#endif
