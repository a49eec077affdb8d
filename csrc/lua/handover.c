/* core.handover: what lua/eventstream/handover.lua reads of an app, and makes of it again. */
#include "lua/binding.h"

#include "core/packed.h"
#include "net/handover.h"

#include <string.h>

static es_server *check_server(lua_State *L) {
  es_app *app = es_check_app(L, 1);
  if (app->server == NULL)
    luaL_error(L, "the app is closed");
  return app->server;
}

static uint64_t check_number(lua_State *L, int index) {
  lua_Number number = luaL_checknumber(L, index);
  luaL_argcheck(L, number >= 0 && number <= 9007199254740992.0, index, "no number");
  return (uint64_t)number;
}

/* app(app): the id that stands for its newest event, and what its gone channels leave. */
static int l_app(lua_State *L) {
  const es_server *server = check_server(L);
  char text[ES_ID_TEXT];
  es_slice id = es_id_write(text, server->epoch, server->sequence);
  lua_pushlstring(L, id.ptr, id.len);
  lua_pushnumber(L, (lua_Number)server->gone);
  lua_pushnumber(L, (lua_Number)server->given_gone);
  return 3;
}

/* set_app(app, id, gone, given_gone): the same again. */
static int l_set_app(lua_State *L) {
  es_server *server = check_server(L);
  es_slice id;
  uint64_t epoch, sequence;
  id.ptr = luaL_checklstring(L, 2, &id.len);
  luaL_argcheck(L, es_id_read(id, &epoch, &sequence), 2, "no id");
  es_handover_server(server, epoch, sequence, check_number(L, 3), check_number(L, 4));
  return 0;
}

/* What all names take, each behind its length. */
static size_t names_size(const es_server *server) {
  size_t size = 0;
  for (es_node *node = NULL; server != NULL && (node = es_table_after(&server->channels, node)) != NULL;)
    size += sizeof node->key.len + node->key.len;
  return size;
}

/* names(app): a list of its channels' names. */
static int l_names(lua_State *L) {
  const es_app *app = es_check_app(L, 1);
  size_t room = 0, size;
  char *copy = NULL;
  while ((size = names_size(app->server)) > room) { /* allocating may free channels, and make some */
    room = size + 256;
    copy = lua_newuserdata(L, room);
  }
  char *end = copy;
  for (es_node *node = NULL; size > 0 && (node = es_table_after(&app->server->channels, node)) != NULL;) {
    memcpy(end, &node->key.len, sizeof node->key.len);
    memcpy(end + sizeof node->key.len, node->key.ptr, node->key.len);
    end += sizeof node->key.len + node->key.len;
  }
  lua_newtable(L);
  for (int n = 0; copy < end; n++) {
    size_t len;
    memcpy(&len, copy, sizeof len);
    lua_pushlstring(L, copy + sizeof len, len);
    lua_rawseti(L, -2, n + 1);
    copy += sizeof len + len;
  }
  return 1;
}

/* channel(channel): how many frames it has; what is gone; what of the given ids; whether it was given any. */
static int l_channel(lua_State *L) {
  const es_channel *ch = es_check_channel(L, 1);
  lua_pushnumber(L, (lua_Number)es_log_count(&ch->log));
  lua_pushnumber(L, (lua_Number)ch->log.gone);
  lua_pushnumber(L, (lua_Number)ch->log.given_gone);
  lua_pushboolean(L, ch->gives);
  return 4;
}

static int l_set_channel(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  uint64_t gone = check_number(L, 2), given_gone = check_number(L, 3);
  luaL_argcheck(L, ch->server != NULL && es_log_count(&ch->log) == 0, 1, "it has frames");
  es_handover_channel(ch, gone, given_gone, lua_toboolean(L, 4) != 0);
  return 0;
}

/* frame(channel, i): the i-th frame's sequence, age in milliseconds, bytes; and its given id with what that stands for. */
static int l_frame(lua_State *L) {
  const es_channel *ch = es_check_channel(L, 1);
  uint64_t i = check_number(L, 2);
  luaL_argcheck(L, ch->server != NULL && i >= 1 && i <= es_log_count(&ch->log), 2, "no frame");
  uint64_t at = ch->log.first + i - 1, now = es_loop_now(ch->server->loop);
  const es_log_frame *frame = es_log_at(&ch->log, at);
  const es_log_extra *extra = frame->extra;
  bool given = extra != NULL && extra->id.key.ptr != NULL;
  es_slice bytes = es_log_bytes(frame, false), id = given ? extra->id.key : (es_slice){NULL, 0};
  uint64_t sequence = frame->sequence, time = frame->time, stands = given ? extra->sequence : 0;
  char *copy = lua_newuserdata(L, bytes.len + id.len + 1); /* which may run a finalizer that evicts it */
  if (ch->server == NULL || at < ch->log.first || at >= ch->log.next)
    return 0;
  frame = es_log_at(&ch->log, at);
  memcpy(copy, es_log_bytes(frame, false).ptr, bytes.len);
  if (given)
    memcpy(copy + bytes.len, frame->extra->id.key.ptr, id.len);
  lua_pushnumber(L, (lua_Number)sequence);
  lua_pushnumber(L, now > time ? (lua_Number)(now - time) : 0);
  lua_pushlstring(L, copy, bytes.len);
  if (!given)
    return 3;
  lua_pushlstring(L, copy + bytes.len, id.len);
  lua_pushnumber(L, (lua_Number)stands);
  return 5;
}

/* add_frame(channel, sequence, age, bytes, id, stands) */
static int l_add_frame(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  es_log_entry entry = {.event = ES_EVENT_INIT, .sequence = check_number(L, 2)};
  uint64_t age = check_number(L, 3);
  luaL_argcheck(L, ch->server != NULL && entry.sequence > ch->log.last && entry.sequence <= ch->server->sequence, 2,
                "its place is another's");
  uint64_t now = es_loop_now(ch->server->loop);
  entry.now = now > age ? now - age : 0;
  entry.frame.ptr = luaL_checklstring(L, 4, &entry.frame.len);
  if (!lua_isnoneornil(L, 5)) {
    entry.given = true;
    entry.event.id.ptr = luaL_checklstring(L, 5, &entry.event.id.len);
    entry.stands = check_number(L, 6);
  }
  return es_handover_frame(ch, &entry) == 0 ? 0 : luaL_error(L, "out of memory");
}

static const char *const kinds[] = {"own", "given", "none", NULL}; /* in the order of es_id_kind */

/* add_packed(channel, sequence, age, kind, packed): the same for an event as es_packed_write has it. */
static int l_add_packed(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  es_log_entry entry = {.sequence = check_number(L, 2)};
  uint64_t age = check_number(L, 3);
  es_id_kind kind = (es_id_kind)luaL_checkoption(L, 4, NULL, kinds);
  es_slice packed;
  char text[ES_ID_TEXT];
  packed.ptr = luaL_checklstring(L, 5, &packed.len);
  luaL_argcheck(L, ch->server != NULL && entry.sequence > ch->log.last, 2, "its place is another's");
  if (!es_packed_read(packed, &entry.event) || es_event_check(&entry.event) != ES_EVENT_OK)
    return es_fail(L, "this is no event");
  if (kind == ES_ID_NONE)
    return 0; /* it was for those who listened */
  uint64_t now = es_loop_now(ch->server->loop);
  entry.now = now > age ? now - age : 0;
  entry.given = kind == ES_ID_GIVEN;
  if (kind == ES_ID_OWN)
    entry.event.id = es_id_write(text, ch->server->epoch, entry.sequence);
  return es_handover_frame(ch, &entry) == 0 ? 0 : luaL_error(L, "out of memory");
}

/* set_epoch(app, id): ids are of that epoch from now on. */
static int l_set_epoch(lua_State *L) {
  es_server *server = check_server(L);
  es_slice id;
  uint64_t epoch, sequence;
  id.ptr = luaL_checklstring(L, 2, &id.len);
  luaL_argcheck(L, es_id_read(id, &epoch, &sequence), 2, "no id");
  es_handover_epoch(server, epoch);
  return 0;
}

/* sequence(app): the highest that it knows of. */
static int l_sequence(lua_State *L) {
  lua_pushnumber(L, (lua_Number)check_server(L)->sequence);
  return 1;
}

/* lose(channel, sequence): a part of it is missing, up to there. */
static int l_lose(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  uint64_t sequence = check_number(L, 2);
  if (ch->server != NULL)
    es_handover_lose(ch, sequence);
  return 0;
}

/* draw(): an epoch that nobody else has, as an id's first half. */
static int l_draw(lua_State *L) {
  uint64_t epoch;
  char text[ES_ID_TEXT];
  if (uv_random(NULL, NULL, &epoch, sizeof epoch, 0, NULL) != 0)
    return luaL_error(L, "the system gives no random numbers");
  es_slice id = es_id_write(text, epoch, 0);
  lua_pushlstring(L, id.ptr, id.len - 2);
  return 1;
}

/* clear(channel): its history is kept up to date no more. */
static int l_clear(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  if (ch->server != NULL && ch->subscribers == 0)
    es_handover_clear(ch);
  return 0;
}

static int l_done(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  if (ch->server != NULL)
    es_handover_done(ch);
  return 0;
}

void es_open_handover(lua_State *L) {
  static const luaL_Reg functions[] = {{"app", l_app},
                                       {"set_app", l_set_app},
                                       {"names", l_names},
                                       {"channel", l_channel},
                                       {"frame", l_frame},
                                       {"set_channel", l_set_channel},
                                       {"done", l_done},
                                       {"add_frame", l_add_frame},
                                       {"clear", l_clear},
                                       {"draw", l_draw},
                                       {"lose", l_lose},
                                       {"add_packed", l_add_packed},
                                       {"set_epoch", l_set_epoch},
                                       {"sequence", l_sequence},
                                       {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  lua_setfield(L, -2, "handover");
}
