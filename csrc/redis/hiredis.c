/* eventstream.hiredis: hiredis' asynchronous interface on the core's loop, for lua/eventstream/redis.lua.
 *
 * A connection belongs to its userdata, which is anchored while it is open. Its function is called with "connected", or
 * once with "closed" and why; a command's, once, with the reply, or nil and why. Errors of theirs are told on the standard
 * error. hiredis' own adapter for libuv does not tell of a connection that is refused (libuv reports that as an error of
 * the descriptor), so that there is one of ours. */
#include "net/loop.h"
#include "redis/entries.h"
#include "redis/replies.h"

#include <arpa/inet.h>
#include <async.h>
#include <hiredis.h>
#include <lauxlib.h>
#include <lua.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLASS "eventstream.hiredis"
#define THREAD "eventstream.hiredis.thread"
#define ARGUMENTS_MAX 1000000 /* a little below what Redis takes */

/* What libuv watches: freed when that has let go, and no job is posted. */
typedef struct watch {
  uv_poll_t poll;
  es_loop *loop;
  redisAsyncContext *context; /* NULL once it is gone */
  int events;
  es_job job; /* writes what the running callback, and those before the job, have said */
  bool writes, closed;
  es_replies replies;
} watch;

typedef struct connection {
  es_guest guest; /* first: the one is the other */
  es_loop *loop;
  redisAsyncContext *context; /* NULL once closed */
  lua_State *L;               /* callbacks start here: the module's own thread */
  int function_ref, self_ref;
  bool told; /* that it is connected */
} connection;

typedef struct pending {
  lua_State *L; /* the module's: the connection may be collected before its last commands are told */
  int function_ref;
  bool flat; /* the reply is to be as flat as entries.lua has it */
} pending;

static void tell_connected(connection *c);

/* --- libuv's side --- */

/* The script is told here, and not by hiredis: a connection must not be freed in the midst of its connecting. */
static void on_event(uv_poll_t *poll, int status, int events) {
  watch *w = poll->data;
  if (status < 0) { /* hiredis finds out what is wrong, and closes */
    events = w->events;
    w->events = 0; /* libuv has stopped watching, and is to begin again if that is not found at once */
  }
  if (w->context != NULL && (events & UV_READABLE) != 0)
    redisAsyncHandleRead(w->context);
  if (w->context != NULL && (events & UV_WRITABLE) != 0)
    redisAsyncHandleWrite(w->context);
  if (w->context != NULL && w->context->data != NULL && (w->context->c.flags & REDIS_CONNECTED) != 0)
    tell_connected(w->context->data);
}

/* hiredis says the same again and again, and libuv would ask the kernel each time. */
static void set_events(watch *w, int events) {
  if (events == w->events)
    return;
  w->events = events;
  if (events != 0)
    uv_poll_start(&w->poll, events, on_event);
  else
    uv_poll_stop(&w->poll);
}

static void add_read(void *data) {
  set_events(data, ((watch *)data)->events | UV_READABLE);
}

static void remove_read(void *data) {
  set_events(data, ((watch *)data)->events & ~UV_READABLE);
}

/* There is room nearly always: only a kernel that has not taken all is asked when there is. */
static void add_write(void *data) {
  watch *w = data;
  if (w->writes || (w->context->c.flags & REDIS_CONNECTED) == 0)
    set_events(w, w->events | UV_WRITABLE);
  else
    w->loop->post(w->loop, &w->job);
}

static void remove_write(void *data) {
  set_events(data, ((watch *)data)->events & ~UV_WRITABLE);
}

static void free_watch(watch *w) {
  if (!w->closed || w->job.posted)
    return;
  es_replies_free(&w->replies);
  free(w);
}

static void run_job(es_job *job) {
  watch *w = (watch *)((char *)job - offsetof(watch, job));
  if (w->context != NULL && (w->events & UV_WRITABLE) == 0) {
    w->writes = true;
    redisAsyncHandleWrite(w->context);
    w->writes = false;
  }
  free_watch(w);
}

static void on_watch_closed(uv_handle_t *handle) {
  watch *w = handle->data;
  w->closed = true;
  free_watch(w);
}

static void clean_up(void *data) {
  watch *w = data;
  w->context = NULL;
  uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

static bool attach(redisAsyncContext *context, es_loop *loop) {
  watch *w = calloc(1, sizeof *w);
  if (w == NULL)
    return false;
  if (uv_poll_init_socket(&loop->uv, &w->poll, context->c.fd) != 0) {
    free(w);
    return false;
  }
  uv_unref((uv_handle_t *)&w->poll); /* apps keep the loop going, and not what serves them */
  w->poll.data = w;
  w->loop = loop;
  w->context = context;
  w->job.run = run_job;
  context->ev.addRead = add_read;
  context->ev.delRead = remove_read;
  context->ev.addWrite = add_write;
  context->ev.delWrite = remove_write;
  context->ev.cleanup = clean_up;
  context->ev.data = w;
  es_replies_attach(&w->replies, context->c.reader);
  return true;
}

/* --- Lua's side --- */

static void unref(lua_State *L, int *ref) {
  luaL_unref(L, LUA_REGISTRYINDEX, *ref);
  *ref = LUA_NOREF;
}

/* Calls the function below its arguments. */
static void call(lua_State *L, int arguments) {
  if (lua_pcall(L, arguments, 0, 0) == 0)
    return;
  const char *text = lua_tostring(L, -1);
  fprintf(stderr, "eventstream: redis: %s\n", text != NULL ? text : "error");
  lua_pop(L, 1);
}

static void push_reply(lua_State *L, const redisReply *reply) {
  luaL_checkstack(L, 4, "reply");
  switch (reply->type) {
  case REDIS_REPLY_INTEGER:
    lua_pushnumber(L, (lua_Number)reply->integer);
    break;
  case REDIS_REPLY_ARRAY:
    lua_createtable(L, (int)reply->elements, 0);
    for (size_t i = 0; i < reply->elements; i++) {
      push_reply(L, reply->element[i]);
      lua_rawseti(L, -2, (int)i + 1);
    }
    break;
  case REDIS_REPLY_NIL:
    lua_pushboolean(L, 0);
    break;
  default: /* texts, and errors inside of arrays */
    lua_pushlstring(L, reply->str, (size_t)reply->len);
    break;
  }
}

/* A connection's end: of the server's, of the script's, or because it could not be made. */
static void closed(connection *c, const char *why) {
  lua_State *L = c->L;
  if (c->context == NULL)
    return;
  c->context = NULL;
  es_loop_leave(c->loop, &c->guest);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->function_ref);
  unref(L, &c->function_ref);
  lua_pushliteral(L, "closed");
  lua_pushstring(L, why);
  call(L, 2);
  unref(L, &c->self_ref);
}

static const char *text_of(const redisAsyncContext *context) {
  return context->errstr != NULL && context->errstr[0] != '\0' ? context->errstr : "the connection was closed";
}

static void tell_connected(connection *c) {
  if (c->told)
    return;
  c->told = true;
  lua_rawgeti(c->L, LUA_REGISTRYINDEX, c->function_ref);
  lua_pushliteral(c->L, "connected");
  call(c->L, 1);
}

static void on_connected(const redisAsyncContext *context, int status) {
  if (status != REDIS_OK && context->data != NULL)
    closed(context->data, text_of(context)); /* hiredis frees it behind this */
}

static void on_disconnected(const redisAsyncContext *context, int status) {
  connection *c = context->data;
  (void)status;
  if (c != NULL)
    closed(c, text_of(context));
}

typedef struct replied {
  pending *p;
  const redisReply *reply;
} replied;

static int l_replied(lua_State *L) {
  const replied *r = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, r->p->function_ref);
  if (r->reply == NULL) {
    lua_pushnil(L);
    lua_pushliteral(L, "closed");
  } else if (r->reply->type == REDIS_REPLY_ERROR) {
    lua_pushnil(L);
    lua_pushlstring(L, r->reply->str, (size_t)r->reply->len);
  } else {
    if (r->p->flat)
      es_push_entries(L, r->reply);
    else
      push_reply(L, r->reply);
    lua_pushnil(L);
  }
  lua_call(L, 2, 0);
  return 0;
}

static void on_reply(redisAsyncContext *context, void *reply, void *data) {
  pending *p = data;
  replied r = {p, reply};
  lua_State *L = p->L;
  (void)context;
  lua_pushcfunction(L, l_replied);
  lua_pushlightuserdata(L, &r);
  call(L, 1);
  unref(L, &p->function_ref);
  free(p);
}

/* Frees the context: pending commands are told, and the connection's function is not, unless it is still to be. */
static void drop(connection *c, const char *why) {
  redisAsyncContext *context = c->context;
  if (context == NULL)
    return;
  closed(c, why);
  context->data = NULL;
  redisAsyncFree(context);
}

static void on_loop_closes(es_guest *guest) {
  connection *c = (connection *)guest;
  redisAsyncContext *context = c->context;
  c->context = NULL;
  context->data = NULL;
  redisAsyncFree(context);
}

/* --- Names: hiredis' own look-up would hold the loop up --- */

/* Freed when libuv has answered. */
typedef struct lookup {
  es_guest guest; /* first: the one is the other */
  es_loop *loop;
  uv_getaddrinfo_t request;
  lua_State *L; /* the module's; NULL once nobody is to be told */
  int function_ref;
} lookup;

typedef struct resolved {
  const lookup *l;
  int status;
  const struct addrinfo *found;
} resolved;

static int l_resolved(lua_State *L) {
  const resolved *r = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, r->l->function_ref);
  if (r->status != 0) {
    lua_pushnil(L);
    lua_pushstring(L, uv_strerror(r->status));
  } else {
    int count = 0;
    lua_newtable(L);
    for (const struct addrinfo *each = r->found; each != NULL; each = each->ai_next) {
      char text[INET6_ADDRSTRLEN];
      if (uv_ip_name(each->ai_addr, text, sizeof text) != 0)
        continue;
      lua_pushstring(L, text);
      lua_rawseti(L, -2, ++count);
    }
    lua_pushnil(L);
  }
  lua_call(L, 2, 0);
  return 0;
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found) {
  lookup *l = request->data;
  lua_State *L = l->L;
  resolved r = {l, status, found};
  if (L != NULL) {
    es_loop_leave(l->loop, &l->guest);
    lua_pushcfunction(L, l_resolved);
    lua_pushlightuserdata(L, &r);
    call(L, 1);
    unref(L, &l->function_ref);
  }
  uv_freeaddrinfo(found);
  free(l);
}

static void on_lookup_closes(es_guest *guest) {
  lookup *l = (lookup *)guest;
  unref(l->L, &l->function_ref);
  l->L = NULL;
  uv_cancel((uv_req_t *)&l->request);
}

/* resolve(loop, host, function): calls it with a list of addresses, or nil and why. */
static int l_resolve(lua_State *L) {
  es_loop *loop = lua_touserdata(L, 1);
  const char *host = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  lua_settop(L, 3);
  lua_getfield(L, LUA_REGISTRYINDEX, THREAD);
  lua_State *thread = lua_tothread(L, -1);
  lua_pop(L, 1);
  int function_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lookup *l = calloc(1, sizeof *l);
  int err = UV_ENOMEM;
  if (l != NULL) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    *l = (lookup){.guest = {.close = on_lookup_closes}, .loop = loop, .L = thread, .function_ref = function_ref};
    l->request.data = l;
    err = uv_getaddrinfo(&loop->uv, &l->request, on_resolved, host, NULL, &hints);
  }
  if (err != 0) {
    free(l);
    luaL_unref(L, LUA_REGISTRYINDEX, function_ref);
    return luaL_error(L, "%s", uv_strerror(err));
  }
  es_loop_enter(loop, &l->guest);
  return 0;
}

/* connect(loop, host, port, function); or connect(loop, path, nil, function): a connection, or nil and why. */
static int l_connect(lua_State *L) {
  es_loop *loop = lua_touserdata(L, 1);
  const char *host = luaL_checkstring(L, 2);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  connection *c = lua_newuserdata(L, sizeof *c);
  *c = (connection){.guest = {.close = on_loop_closes}, .loop = loop};
  c->function_ref = c->self_ref = LUA_NOREF;
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  lua_getfield(L, LUA_REGISTRYINDEX, THREAD);
  c->L = lua_tothread(L, -1);
  lua_pop(L, 1);
  redisAsyncContext *context =
      lua_isnil(L, 3) ? redisAsyncConnectUnix(host) : redisAsyncConnect(host, (int)luaL_checkinteger(L, 3));
  if (context == NULL)
    return luaL_error(L, "out of memory");
  if (context->err != 0 || !attach(context, loop)) {
    lua_pushnil(L);
    lua_pushstring(L, context->err != 0 ? context->errstr : "it cannot be watched");
    redisAsyncFree(context);
    return 2;
  }
  c->context = context;
  context->data = c;
  es_loop_enter(loop, &c->guest);
  lua_pushvalue(L, 4);
  c->function_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushvalue(L, -1);
  c->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  redisAsyncSetConnectCallback(context, on_connected);
  redisAsyncSetDisconnectCallback(context, on_disconnected);
  return 1;
}

/* connection:command(function, arguments, flat): a list of texts and numbers; false where it is closed. */
static int l_command(lua_State *L) {
  connection *c = luaL_checkudata(L, 1, CLASS);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  luaL_checktype(L, 3, LUA_TTABLE);
  bool flat = lua_toboolean(L, 4) != 0;
  lua_settop(L, 3);
  int count = 0;
  for (;; count++) {
    lua_rawgeti(L, 3, count + 1);
    bool end = lua_isnil(L, -1);
    lua_pop(L, 1);
    if (end)
      break;
  }
  if (c->context == NULL || (c->context->c.flags & (REDIS_DISCONNECTING | REDIS_FREEING)) != 0) {
    lua_pushboolean(L, 0);
    return 1;
  }
  luaL_argcheck(L, count > 0 && count <= ARGUMENTS_MAX, 3, "arguments");
  size_t n = (size_t)count;
  const char **texts = lua_newuserdata(L, n * sizeof *texts);
  size_t *sizes = lua_newuserdata(L, n * sizeof *sizes);
  lua_newtable(L); /* anchors numbers' texts */
  for (int i = 0; i < count; i++) {
    lua_rawgeti(L, 3, i + 1);
    texts[i] = lua_tolstring(L, -1, &sizes[i]);
    luaL_argcheck(L, texts[i] != NULL, 3, "arguments");
    lua_rawseti(L, -2, i + 1);
  }
  pending *p = malloc(sizeof *p);
  if (p == NULL)
    return luaL_error(L, "out of memory");
  lua_pushvalue(L, 2);
  *p = (pending){.L = c->L, .function_ref = luaL_ref(L, LUA_REGISTRYINDEX), .flat = flat};
  bool fine = redisAsyncCommandArgv(c->context, on_reply, p, count, texts, sizes) == REDIS_OK;
  if (!fine) {
    unref(L, &p->function_ref);
    free(p);
  }
  lua_pushboolean(L, fine);
  return 1;
}

/* connection:close(why): at once; commands that wait are told "closed". */
static int l_close(lua_State *L) {
  drop(luaL_checkudata(L, 1, CLASS), luaL_optstring(L, 2, "closed"));
  return 0;
}

static int l_gc(lua_State *L) {
  connection *c = luaL_checkudata(L, 1, CLASS);
  if (c->context != NULL) { /* only while Lua closes */
    es_loop_leave(c->loop, &c->guest);
    on_loop_closes(&c->guest);
  }
  return 0;
}

int luaopen_eventstream_hiredis(lua_State *L);

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int luaopen_eventstream_hiredis(lua_State *L) {
  lua_newthread(L);
  lua_setfield(L, LUA_REGISTRYINDEX, THREAD);
  luaL_newmetatable(L, CLASS);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, l_command);
  lua_setfield(L, -2, "command");
  lua_pushcfunction(L, l_close);
  lua_setfield(L, -2, "close");
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, l_connect);
  lua_setfield(L, -2, "connect");
  lua_pushcfunction(L, l_resolve);
  lua_setfield(L, -2, "resolve");
  return 1;
}
