#include "lua/binding.h"

#include "core/ids.h"
#include "net/platform.h"

#include <stdlib.h>
#include <string.h>

#define APP "eventstream.app"

es_app *es_check_app(lua_State *L, int index) {
  es_app *app = *(es_app **)es_check_self(L, index, APP, "app");
  if (app == NULL)
    luaL_error(L, "the app is gone: Lua is closing");
  return app;
}

static bool is_busy(const es_app *app) {
  const es_server *server = app->server;
  return server != NULL &&
         (server->listeners != NULL || server->connections != NULL || app->intervals != NULL || server->closing);
}

void es_app_rest(es_app *app) {
  if (app->server != NULL && !app->relayed && !is_busy(app) && app->streams == NULL)
    es_unref(app->state->L, &app->self_ref);
}

void es_app_unref(es_app *app) {
  if (app != NULL && --app->refs == 0)
    free(app);
}

static es_app *check_open(lua_State *L, const char *who) {
  es_app *app = es_check_app(L, 1);
  if (app->server == NULL || app->server->closing)
    es_fail(L, "%s: the app is closed", who);
  return app;
}

void es_app_anchor(lua_State *L, es_app *app) {
  if (app->self_ref != LUA_NOREF)
    return;
  lua_pushvalue(L, 1);
  app->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* --- Handlers of the net layer --- */

static const char *result_text(lua_State *L, int index, es_slice *text) {
  text->ptr = lua_tolstring(L, index, &text->len);
  if (text->ptr == NULL)
    *text = (es_slice){"", 0};
  return text->ptr;
}

/* The Lua side says one of:
 *   "stream", handler                run it as a stream's handler
 *   "plain", function, handler       run function(handler, request), which returns status, lines and body
 *   "head"                           a stream's head alone
 *   "answer", status, lines, body    that */
bool es_app_route(es_stream *s) {
  es_exchange *x = s->exchange;
  es_app *app = s->app;
  lua_State *L = app->state->L;
  int base = lua_gettop(L);
  es_push_hook(L, app, "dispatch");
  es_push_request(L, s);
  if (!es_call(app->state, app, s, 1, 4)) {
    es_stream_failed(s);
    return false;
  }
  const char *kind = lua_tostring(L, base + 1);
  bool runs = false;
  if (strcmp(kind, "stream") == 0) {
    s->is_stream = true;
    es_exchange_stream(x);
    lua_settop(L, base + 2);
    es_push_stream(L, s);
    runs = x->reason == ES_OPEN;
  } else if (strcmp(kind, "plain") == 0) {
    lua_settop(L, base + 3);
    runs = true;
  } else if (strcmp(kind, "head") == 0) {
    if (es_exchange_open(x, (es_slice){"", 0}) != 0)
      es_exchange_end(x, ES_END_ERROR);
  } else {
    es_slice lines, body;
    result_text(L, base + 3, &lines);
    result_text(L, base + 4, &body);
    es_exchange_answer(x, (int)lua_tointeger(L, base + 2), lines, body);
  }
  if (!runs) {
    lua_settop(L, base);
    return false;
  }
  es_push_request(L, s);
  lua_remove(L, base + 1);
  return true;
}

static void run_request(void *argument) {
  es_stream *s = argument;
  if (es_app_route(s))
    es_task_start(s, 2);
}

static void on_request(es_exchange *x) {
  es_stream *s = es_stream_new(x->server->user, x);
  if (s == NULL) {
    es_exchange_fail(x, 500, (es_slice){"", 0}, (es_slice){"", 0});
  } else if (x->connection->is_hosted) {
    es_hosted_begins(s);
  } else if (!es_protect(s->app->state, run_request, s)) {
    if (s->task != NULL)
      es_task_drop(s->task);
    es_stream_failed(s);
  }
}

static void on_room(es_exchange *x) {
  es_stream *s = x->user;
  if (s != NULL && s->task != NULL)
    es_task_room(s->task);
  else if (s != NULL && s->hosted != NULL)
    es_hosted_call(s->hosted, ES_CALL_ROOM);
}

static void on_gone(es_exchange *x) {
  es_stream *s = x->user;
  if (s != NULL && s->hosted != NULL)
    es_hosted_call(s->hosted, ES_CALL_NEWS);
  else if (s != NULL)
    es_stream_gone(s);
}

static void on_end(es_exchange *x) {
  if (x->user != NULL)
    es_stream_ended(x->user);
}

static void run_closed(void *argument) {
  es_app *app = argument;
  es_push_hook(app->state->L, app, "closed");
  es_call(app->state, app, NULL, 0, 0);
}

static void on_closed(es_server *server) {
  es_app *app = server->user;
  es_state *state = app->state;
  es_protect(state, run_closed, app);
  es_interval_free_all(app, false);
  app->server = NULL;
  es_server_free(server);
  es_unref(state->L, &app->self_ref);
}

static const es_handlers handlers = {
    .on_request = on_request, .on_room = on_room, .on_gone = on_gone, .on_end = on_end, .on_closed = on_closed};

/* listen(kind, proxied, ...): "tcp", host, port, shared; "unix", path; "fd", number. A listener, or nil, error name,
 * error text. */
static int l_listen(lua_State *L) {
  es_app *app = check_open(L, "listen");
  const char *kind = luaL_checkstring(L, 2);
  int err = 0;
  es_listener **box = es_new_listener(L);
  es_app_anchor(L, app);
  if (strcmp(kind, "tcp") == 0)
    *box = es_listen_tcp(app->server, luaL_checkstring(L, 4), (int)luaL_checkinteger(L, 5), lua_toboolean(L, 6), &err);
  else if (strcmp(kind, "unix") == 0)
    *box = es_listen_unix(app->server, luaL_checkstring(L, 4), &err);
  else
    *box = es_listen_fd(app->server, (int)luaL_checkinteger(L, 4), &err);
  if (*box != NULL) {
    (*box)->proxied = lua_toboolean(L, 3);
    return 1;
  }
  es_app_rest(app);
  lua_pushnil(L);
  lua_pushstring(L, uv_err_name(err));
  lua_pushstring(L, uv_strerror(err));
  return 3;
}

/* --- The app --- */

static int l_every(lua_State *L) {
  es_app *app = check_open(L, "every");
  es_app_anchor(L, app);
  return es_new_interval(L, app, NULL, true, "every");
}

/* Also while it closes, for handlers that have an answer to give yet. */
static int l_after(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  if (app->server == NULL || app->server->connections == NULL)
    check_open(L, "after");
  es_app_anchor(L, app);
  return es_new_interval(L, app, NULL, false, "after");
}

/* channel(name [, history, history_bytes, history_seconds, slow, flush]): the channel of that name; where there is none,
 * nil, or a new one if options are given, which hold from now on. */
static int l_channel(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  es_slice name;
  name.ptr = luaL_checklstring(L, 2, &name.len);
  if (app->server == NULL) /* while it closes, handlers that run on find theirs, and publish answers them */
    return es_fail(L, "channel: the app is closed");
  es_channel *ch = es_channel_find(app->server, name);
  if (lua_isnoneornil(L, 3)) {
    if (ch == NULL)
      return 0;
  } else {
    double flush = luaL_checknumber(L, 7);
    es_channel_options options = {.history = (size_t)luaL_checknumber(L, 3),
                                  .history_bytes = (size_t)luaL_checknumber(L, 4),
                                  .history_seconds = luaL_checknumber(L, 5),
                                  .skip = lua_toboolean(L, 6) != 0,
                                  .flush = flush < 0 ? ES_FLUSH_AUTO : flush};
    if (ch != NULL)
      es_channel_set(ch, &options);
    else if ((ch = es_channel_new(app->server, name, &options)) == NULL)
      return luaL_error(L, "channel: out of memory");
  }
  es_push_channel(L, ch);
  return 1;
}

/* join(id): events go to a backplane from now on; the id tells its epoch, and up to which number all is gone. */
static int l_join(lua_State *L) {
  es_app *app = check_open(L, "join");
  es_slice id;
  uint64_t epoch, sequence;
  id.ptr = luaL_checklstring(L, 2, &id.len);
  luaL_argcheck(L, es_id_read(id, &epoch, &sequence), 2, "no id");
  es_app_anchor(L, app); /* so that the hooks can be found */
  app->relayed = true;
  es_server_join(app->server, epoch, sequence);
  return 0;
}

/* pass(number): it has no frame; lose(number): its frame is lost, of which bound(number) tells only those who come back;
 * id(number): the id that it stands for. */
static int l_pass(lua_State *L) {
  const es_app *app = es_check_app(L, 1);
  if (app->server != NULL)
    es_server_pass(app->server, (uint64_t)luaL_checknumber(L, 2));
  return 0;
}

static int l_lose(lua_State *L) {
  const es_app *app = es_check_app(L, 1);
  if (app->server != NULL)
    es_server_lose(app->server, (uint64_t)luaL_checknumber(L, 2));
  return 0;
}

static int l_bound(lua_State *L) {
  const es_app *app = es_check_app(L, 1);
  if (app->server != NULL)
    es_server_bound(app->server, (uint64_t)luaL_checknumber(L, 2));
  return 0;
}

static int l_id(lua_State *L) {
  const es_app *app = check_open(L, "id");
  char text[ES_ID_TEXT];
  es_slice id = es_id_write(text, app->server->epoch, (uint64_t)luaL_checknumber(L, 2));
  lua_pushlstring(L, id.ptr, id.len);
  return 1;
}

/* A list of all open streams. */
static int l_streams(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  size_t count = 0, room = app->server != NULL ? app->server->stats.streams : 0;
  es_stream **list = es_new_list(L, room); /* which may run a finalizer of the script's */
  for (es_stream *s = app->streams; s != NULL; s = s->next) {
    if (s->is_stream && s->exchange->reason == ES_OPEN && count < room)
      list[count++] = s;
  }
  es_push_list(L, list, count);
  return 1;
}

/* close(grace, spread): seconds. */
static int l_close(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  double grace = es_check_seconds(L, 2, "close", false), spread = es_check_seconds(L, 3, "close", false);
  if (app->server == NULL)
    return 0;
  es_app_anchor(L, app);           /* until on_closed */
  es_interval_free_all(app, true); /* a handler that is to answer yet may wait for one that comes once */
  es_server_close(app->server, grace, spread);
  return 0;
}

static int l_stats(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  static const es_stats none;
  const es_stats *stats = app->server != NULL ? &app->server->stats : &none;
  uint64_t rejected = 0;
  for (int refusal = 0; refusal < ES_REFUSALS; refusal++)
    rejected += stats->rejected[refusal];
  const struct {
    const char *name;
    uint64_t value;
  } fields[] = {{"accepted", stats->accepted},
                {"rejected_malformed", stats->rejected[ES_REFUSED_MALFORMED]},
                {"rejected_large", stats->rejected[ES_REFUSED_LARGE]},
                {"rejected_late", stats->rejected[ES_REFUSED_LATE]},
                {"rejected_full", stats->rejected[ES_REFUSED_FULL]},
                {"rejected_address", stats->rejected[ES_REFUSED_ADDRESS]},
                {"rejected_closing", stats->rejected[ES_REFUSED_CLOSING]},
                {"rejected", rejected},
                {"requests", stats->requests},
                {"published", stats->published},
                {"events", stats->events},
                {"bytes_in", stats->bytes_in},
                {"bytes_out", stats->bytes_out},
                {"resumes", stats->resumes},
                {"gaps", stats->gaps},
                {"slow", stats->slow},
                {"skipped", stats->skipped},
                {"backlog", app->server != NULL ? app->server->pool.budget.used : 0},
                {"connections", stats->connections},
                {"streams", stats->streams},
                {"channels", stats->channels},
                {"subscribers", stats->subscribers}};
  lua_createtable(L, 0, 32);
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    lua_pushnumber(L, (lua_Number)fields[i].value);
#if LUA_VERSION_NUM >= 503
    lua_pushinteger(L, (lua_Integer)fields[i].value);
    lua_remove(L, -2);
#endif
    lua_setfield(L, -2, fields[i].name);
  }
  lua_pushnumber(L, es_loop_lag(&app->state->loop));
  lua_setfield(L, -2, "loop_lag");
  return 1;
}

/* busy(): whether it has something to do; nil where it was collected: its Lua side may be found a little longer. */
static int l_busy(lua_State *L) {
  const es_app *app = *(es_app **)luaL_checkudata(L, 1, APP);
  if (app == NULL)
    return 0;
  lua_pushboolean(L, is_busy(app));
  return 1;
}

static int l_gc(lua_State *L) {
  es_app **box = luaL_checkudata(L, 1, APP), *app = *box;
  *box = NULL;
  if (app == NULL)
    return 0;
  while (app->streams != NULL)
    es_stream_drop(app->streams);
  es_interval_free_all(app, false);
  es_server_free(app->server);
  app->server = NULL;
  es_app_unref(app);
  return 0;
}

static double number_option(lua_State *L, int index, const char *name, double missing) {
  lua_getfield(L, index, name);
  double value = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : missing;
  lua_pop(L, 1);
  return value;
}

/* Reads a list of networks; 0, or the number of the one that cannot be read. */
static size_t read_networks(lua_State *L, int index, es_network *networks, size_t count) {
  for (size_t i = 0; i < count; i++) {
    es_slice text;
    lua_rawgeti(L, index, (int)i + 1);
    text.ptr = lua_tolstring(L, -1, &text.len);
    bool fine = text.ptr != NULL && es_network_read(text, &networks[i]);
    lua_pop(L, 1);
    if (!fine)
      return i + 1;
  }
  return 0;
}

static size_t length(lua_State *L, int index) {
#if LUA_VERSION_NUM >= 502
  return lua_rawlen(L, index);
#else
  return lua_objlen(L, index);
#endif
}

/* is_network(text) */
static int l_is_network(lua_State *L) {
  es_network network;
  es_slice text;
  text.ptr = luaL_checklstring(L, 1, &text.len);
  lua_pushboolean(L, es_network_read(text, &network));
  return 1;
}

/* trust(networks, forwarded): before the first request. */
static int l_trust(lua_State *L) {
  es_app *app = check_open(L, "new");
  luaL_checktype(L, 2, LUA_TTABLE);
  es_trust *trust = &app->server->trust;
  size_t count = length(L, 2);
  es_network *networks = calloc(count > 0 ? count : 1, sizeof *networks);
  if (networks == NULL)
    return luaL_error(L, "new: out of memory");
  if (trust->networks != NULL || read_networks(L, 2, networks, count) != 0) {
    free(networks);
    return luaL_error(L, "new: trusted holds no network");
  }
  *trust = (es_trust){.networks = networks, .count = count, .forwarded = lua_toboolean(L, 3)};
  return 0;
}

static char *copy_text(const char *text, size_t len) {
  char *copy = malloc(len + 1);
  if (copy != NULL)
    memcpy(copy, text, len + 1);
  return copy;
}

/* cors(origins, count, credentials, exposed): origins: each ended by a NUL, nil for any; exposed: "A, B", or nil. Before
 * the first request. */
static int l_cors(lua_State *L) {
  es_app *app = check_open(L, "new");
  size_t origins_len = 0, exposed_len = 0;
  const char *origins = luaL_optlstring(L, 2, NULL, &origins_len);
  const char *exposed = luaL_optlstring(L, 5, NULL, &exposed_len);
  es_cors cors = {.on = true, .any = origins == NULL, .credentials = lua_toboolean(L, 4)};
  cors.count = (size_t)luaL_optinteger(L, 3, 0);
  cors.origins = origins != NULL ? copy_text(origins, origins_len) : NULL;
  cors.exposed = exposed != NULL ? copy_text(exposed, exposed_len) : NULL;
  if ((origins != NULL && cors.origins == NULL) || (exposed != NULL && cors.exposed == NULL)) {
    es_cors_clear(&cors);
    return luaL_error(L, "new: out of memory");
  }
  es_cors_clear(&app->server->cors);
  app->server->cors = cors;
  return 0;
}

/* log(): from now on the hook "answered" is called. */
static int l_log(lua_State *L) {
  check_open(L, "on_answer")->logs = true;
  return 0;
}

/* app(hooks, options): options are complete and checked by the Lua side. */
static int l_app(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  es_state *state = es_state_of(L);
  es_app **box = es_new_userdata(L, sizeof *box);
  *box = NULL;
  luaL_getmetatable(L, APP);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 1);
  es_set_user_table(L, -2);
  es_app *app = calloc(1, sizeof *app);
  *box = app;
  if (app != NULL) {
    *app = (es_app){.refs = 1, .state = state, .self_ref = LUA_NOREF};
    app->server = es_server_new(&state->loop);
  }
  if (app == NULL || app->server == NULL)
    return luaL_error(L, "new: out of memory");
  es_server *server = app->server;
  server->user = app;
  server->handlers = &handlers;
  server->heartbeat_seconds = number_option(L, 2, "heartbeat", 0);
  server->retry_ms = number_option(L, 2, "retry", -1);
  double patience = number_option(L, 2, "callback_seconds", 0);
  if (patience > 0)
    es_watchdog_set(state, patience);
  server->pool.budget.limit = (size_t)number_option(L, 2, "total_bytes", 0);
  server->limits = (es_limits){
      .connections = (size_t)number_option(L, 2, "connections", 0),
      .address_connections = (size_t)number_option(L, 2, "address_connections", 0),
      .loopback = number_option(L, 2, "loopback", 0) != 0,
      .pipelined = (size_t)number_option(L, 2, "pipelined", 0),
      .body_seconds = number_option(L, 2, "body_seconds", 0),
      .keep_alive_seconds = number_option(L, 2, "keep_alive_seconds", 0),
      .header_bytes = (size_t)number_option(L, 2, "header_bytes", 0),
      .body_bytes = (size_t)number_option(L, 2, "body_bytes", 0),
      .backlog_bytes = (size_t)number_option(L, 2, "backlog_bytes", 0),
      .header_seconds = number_option(L, 2, "header_seconds", 0),
      .stream_seconds = number_option(L, 2, "stream_seconds", 0),
  };
  return 1;
}

static int l_raise_descriptors(lua_State *L) {
  lua_pushnumber(L, (lua_Number)es_platform_raise_descriptors());
  return 1;
}

void es_open_app_class(lua_State *L) {
  static const luaL_Reg methods[] = {{"listen", l_listen},   {"every", l_every},     {"after", l_after},
                                     {"close", l_close},     {"stats", l_stats},     {"busy", l_busy},
                                     {"channel", l_channel}, {"streams", l_streams}, {"host", l_host},
                                     {"join", l_join},       {"pass", l_pass},       {"lose", l_lose},
                                     {"bound", l_bound},     {"id", l_id},           {"trust", l_trust},
                                     {"cors", l_cors},       {"log", l_log},         {NULL, NULL}};
  luaL_newmetatable(L, APP);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  lua_pushcfunction(L, l_app);
  lua_setfield(L, -2, "app");
  lua_pushcfunction(L, l_is_network);
  lua_setfield(L, -2, "is_network");
  lua_pushcfunction(L, l_raise_descriptors);
  lua_setfield(L, -2, "raise_descriptors");
}
