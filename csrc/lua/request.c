/* request: what Lua sees of a request. Its fields are made when they are asked for, and kept in a table of the userdata;
 * what a script writes to it is kept as long as the exchange lives. */
#include "lua/binding.h"

#include "core/text.h"

#include <string.h>

#define CLASS "eventstream.request"

static es_stream *check_request(lua_State *L, int index) {
  es_stream *s = *(es_stream **)es_check_self(L, index, CLASS, "request");
  if (s == NULL)
    luaL_error(L, "the request is gone: Lua is closing");
  return s;
}

void es_push_request(lua_State *L, es_stream *s) {
  es_push_objects(L);
  lua_rawgetp(L, -1, &s->request_ref); /* an address of its own: s is the stream's key */
  lua_remove(L, -2);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  lua_newtable(L); /* first: a box without it must never be seen */
  es_push_box(L, s, &s->request_ref, CLASS);
  lua_insert(L, -2);
  es_set_user_table(L, -2);
}

static void push_slice(lua_State *L, es_slice text) {
  lua_pushlstring(L, text.ptr != NULL ? text.ptr : "", text.len);
}

static void push_decoded(lua_State *L, es_slice text, bool plus) {
  char *out = lua_newuserdata(L, text.len + 1);
  size_t len = es_percent_decode(text, out, plus, NULL);
  lua_pushlstring(L, out, len);
  lua_remove(L, -2);
}

static void get_method(lua_State *L, es_stream *s) {
  push_slice(L, s->exchange->request->method);
}

static void get_target(lua_State *L, es_stream *s) {
  push_slice(L, s->exchange->request->target);
}

/* As it is compared: who looks at it before the routes do must see no other one than they. A malformed one stays as it
 * came; no route has it. */
static void get_path(lua_State *L, es_stream *s) {
  es_slice path = s->exchange->request->path;
  char *out = lua_newuserdata(L, path.len * 3 + 1);
  size_t len = es_path_normalize(path, out);
  push_slice(L, len > 0 ? (es_slice){out, len} : path);
  lua_remove(L, -2);
}

static void get_body(lua_State *L, es_stream *s) {
  push_slice(L, s->exchange->request->body);
}

static void get_version(lua_State *L, es_stream *s) {
  lua_pushstring(L, s->exchange->request->minor > 0 ? "1.1" : "1.0");
}

/* The client's numeric address, nil on a Unix socket. */
static void get_remote(lua_State *L, es_stream *s) {
  char text[ES_PEER_TEXT];
  lua_pushstring(L, es_peer_write(&s->exchange->peer, text)); /* nil for NULL */
}

/* Of "name=value&..." the last value of each name, and lists of all. */
static void push_last(lua_State *L, es_slice rest) {
  es_slice name, value;
  lua_newtable(L);
  while (es_next_pair(&rest, '&', false, &name, &value)) {
    push_decoded(L, name, true);
    push_decoded(L, value, true);
    lua_rawset(L, -3);
  }
}

static void push_all(lua_State *L, es_slice rest) {
  es_slice name, value;
  lua_newtable(L);
  while (es_next_pair(&rest, '&', false, &name, &value)) {
    push_decoded(L, name, true);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      lua_newtable(L);
      lua_pushvalue(L, -2);
      lua_pushvalue(L, -2);
      lua_rawset(L, -5);
    }
    push_decoded(L, value, true);
#if LUA_VERSION_NUM >= 502
    int count = (int)lua_rawlen(L, -2);
#else
    int count = (int)lua_objlen(L, -2);
#endif
    lua_rawseti(L, -2, count + 1);
    lua_pop(L, 2);
  }
}

static void get_query(lua_State *L, es_stream *s) {
  push_last(L, s->exchange->request->query);
}

static void get_query_all(lua_State *L, es_stream *s) {
  push_all(L, s->exchange->request->query);
}

/* form(text): the same of a form's body (WHATWG URL, 5.1). */
static int l_form(lua_State *L) {
  es_slice text;
  text.ptr = luaL_checklstring(L, 1, &text.len);
  push_last(L, text);
  push_all(L, text);
  return 2;
}

static int l_is_request(lua_State *L) {
  lua_pushboolean(L, luaL_testudata(L, 1, CLASS) != NULL);
  return 1;
}

/* Repeated headers are joined by commas (RFC 9110, 5.3), cookies by semicolons (RFC 6265, 5.4). */
static void get_headers(lua_State *L, es_stream *s) {
  const es_request *request = s->exchange->request;
  lua_createtable(L, 0, (int)request->header_count);
  for (size_t i = 0; i < request->header_count; i++) {
    const es_header *h = &request->headers[i];
    push_slice(L, h->name);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      push_slice(L, h->value);
    } else {
      bool cookie = h->name.len == 6 && memcmp(h->name.ptr, "cookie", 6) == 0;
      lua_pushstring(L, cookie ? "; " : ", ");
      push_slice(L, h->value);
      lua_concat(L, 3);
    }
    lua_rawset(L, -3);
  }
  luaL_getmetatable(L, "eventstream.headers");
  lua_setmetatable(L, -2);
}

/* The first of a name wins: browsers send the most specific one first (RFC 6265, 5.4). */
static void get_cookies(lua_State *L, es_stream *s) {
  const es_request *request = s->exchange->request;
  lua_newtable(L);
  for (size_t i = 0; i < request->header_count; i++) {
    const es_header *h = &request->headers[i];
    if (h->name.len != 6 || memcmp(h->name.ptr, "cookie", 6) != 0)
      continue;
    es_slice rest = h->value, name, value;
    while (es_next_pair(&rest, ';', true, &name, &value)) {
      if (value.len >= 2 && value.ptr[0] == '"' && value.ptr[value.len - 1] == '"')
        value = (es_slice){value.ptr + 1, value.len - 2};
      push_slice(L, name);
      lua_pushvalue(L, -1);
      lua_rawget(L, -3);
      if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        push_slice(L, value);
        lua_rawset(L, -3);
      } else {
        lua_pop(L, 2);
      }
    }
  }
}

/* Path parameters: the route that the path matches is the Lua side's to know. */
static void get_params(lua_State *L, es_stream *s) {
  if (s->app == NULL || s->app->self_ref == LUA_NOREF) {
    lua_newtable(L);
    return;
  }
  es_push_hook(L, s->app, "params");
  get_method(L, s);
  get_path(L, s);
  lua_call(L, 2, 1);
}

static int l_headers_index(lua_State *L) {
  if (lua_type(L, 2) != LUA_TSTRING)
    return 0;
  size_t len;
  const char *name = lua_tolstring(L, 2, &len);
  char *lower = lua_newuserdata(L, len + 1);
  bool changed = false;
  for (size_t i = 0; i < len; i++) {
    char c = name[i];
    lower[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    changed = changed || lower[i] != c;
  }
  if (!changed)
    return 0;
  lua_pushlstring(L, lower, len);
  lua_rawget(L, 1);
  return 1;
}

static int l_index(lua_State *L) {
  static const struct {
    const char *name;
    void (*get)(lua_State *L, es_stream *s);
  } fields[] = {{"method", get_method}, {"path", get_path},           {"target", get_target},
                {"query", get_query},   {"query_all", get_query_all}, {"headers", get_headers},
                {"body", get_body},     {"cookies", get_cookies},     {"params", get_params},
                {"remote", get_remote}, {"version", get_version}};
  es_stream *s = check_request(L, 1);
  es_get_user_table(L, 1);
  lua_pushvalue(L, 2);
  lua_rawget(L, -2);
  if (!lua_isnil(L, -1) || lua_type(L, 2) != LUA_TSTRING)
    return 1;
  const char *name = lua_tostring(L, 2);
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (strcmp(name, fields[i].name) != 0)
      continue;
    fields[i].get(L, s);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -2);
    lua_rawset(L, 3);
    return 1;
  }
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

static int l_newindex(lua_State *L) {
  es_stream *s = check_request(L, 1);
  lua_settop(L, 3);
  es_get_user_table(L, 1);
  lua_insert(L, 2);
  lua_rawset(L, 2);
  if (s->request_ref == LUA_NOREF && !s->over && s->app != NULL) {
    lua_pushvalue(L, 1);
    s->request_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  return 0;
}

static int l_tostring(lua_State *L) {
  const es_request *request = check_request(L, 1)->exchange->request;
  push_slice(L, request->method);
  lua_pushliteral(L, " ");
  push_slice(L, request->path);
  lua_concat(L, 3);
  return 1;
}

void es_open_request_class(lua_State *L) {
  static const luaL_Reg meta[] = {
      {"__newindex", l_newindex}, {"__gc", l_box_gc}, {"__tostring", l_tostring}, {NULL, NULL}};
  luaL_newmetatable(L, "eventstream.headers");
  lua_pushcfunction(L, l_headers_index);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newmetatable(L, CLASS);
  luaL_setfuncs(L, meta, 0);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "request"); /* the Lua side adds its methods there */
  lua_pushcclosure(L, l_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
  lua_pushcfunction(L, l_is_request);
  lua_setfield(L, -2, "is_request");
  lua_pushcfunction(L, l_form);
  lua_setfield(L, -2, "form");
}
