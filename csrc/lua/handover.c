/* core.handover: what lua/eventstream/handover.lua reads of an app, and makes of it again. */
#include "lua/binding.h"

#include "net/handover.h"

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

/* names(app): a list of its channels' names. */
static int l_names(lua_State *L) {
  const es_server *server = es_check_app(L, 1)->server;
  lua_newtable(L);
  int n = 0;
  for (es_node *node = NULL; server != NULL && (node = es_table_after(&server->channels, node)) != NULL;) {
    lua_pushlstring(L, node->key.ptr, node->key.len);
    lua_rawseti(L, -2, ++n);
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
  const es_log_frame *frame = es_log_at(&ch->log, ch->log.first + i - 1);
  es_slice bytes = es_log_bytes(frame, false);
  uint64_t now = es_loop_now(ch->server->loop);
  lua_pushnumber(L, (lua_Number)frame->sequence);
  lua_pushnumber(L, now > frame->time ? (lua_Number)(now - frame->time) : 0);
  lua_pushlstring(L, bytes.ptr, bytes.len);
  if (frame->extra == NULL || frame->extra->id.key.ptr == NULL)
    return 3;
  lua_pushlstring(L, frame->extra->id.key.ptr, frame->extra->id.key.len);
  lua_pushnumber(L, (lua_Number)frame->extra->sequence);
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

static int l_done(lua_State *L) {
  es_channel *ch = es_check_channel(L, 1);
  if (ch->server != NULL)
    es_handover_done(ch);
  return 0;
}

void es_open_handover(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"app", l_app},         {"set_app", l_set_app},     {"names", l_names},
      {"channel", l_channel}, {"frame", l_frame},         {"set_channel", l_set_channel},
      {"done", l_done},       {"add_frame", l_add_frame}, {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  lua_setfield(L, -2, "handover");
}
