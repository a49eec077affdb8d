#include "lua/binding.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_MAX 9007199254740992.0 /* 2^53: every integral number up to it is exact */

/* Ids are most often integers, and printf is slow for what they need. Written from the end of the text. */
static es_slice integer_text(int64_t number, char *text, size_t size) {
  char *end = text + size, *at = end;
  uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
  do
    *--at = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  if (number < 0)
    *--at = '-';
  return (es_slice){at, (size_t)(end - at)};
}

/* A number as text: integral ones as integers on every Lua, others with as many digits as give the same number back. */
static es_slice number_text(lua_State *L, int index, const char *who, const char *field, char *text, size_t size) {
  int len;
  double number = lua_tonumber(L, index);
  if (es_is_integer(L, index)) {
    return integer_text(lua_tointeger(L, index), text, size);
  } else if (isnan(number) || isinf(number)) {
    luaL_error(L, "%s: %s must be a finite number", who, field);
    len = 0;
  } else if (number == floor(number) && fabs(number) <= EXACT_MAX) {
    return integer_text((int64_t)number, text, size);
  } else {
    for (int digits = 15;; digits++) {
      len = snprintf(text, size, "%.*g", digits, number);
      if (digits == 17 || strtod(text, NULL) == number)
        break;
    }
    for (char *c = text; *c != '\0'; c++) { /* the locale's decimal sign */
      if (strchr("0123456789+-e", *c) == NULL)
        *c = '.';
    }
  }
  return (es_slice){text, (size_t)len};
}

/* id_text(number): as an event's id. */
int l_id_text(lua_State *L) {
  char text[ES_NUMBER_TEXT];
  luaL_checknumber(L, 1);
  es_slice id = number_text(L, 1, "subscribe", "since", text, sizeof text);
  lua_pushlstring(L, id.ptr, id.len);
  return 1;
}

static es_slice string_at(lua_State *L, int index) {
  es_slice text;
  text.ptr = lua_tolstring(L, index, &text.len);
  return text;
}

static void wrong_type(lua_State *L, int index, const char *who, const char *field, const char *wanted) {
  luaL_error(L, "%s: %s must be %s, not %s", who, field, wanted, luaL_typename(L, index));
}

/* data: what is no text becomes text. A table's JSON is left on the stack. */
static void set_data(lua_State *L, int index, const char *who, es_event_arg *arg) {
  switch (lua_type(L, index)) {
  case LUA_TSTRING:
    arg->event.data = string_at(L, index);
    break;
  case LUA_TNUMBER:
    arg->event.data = number_text(L, index, who, "data", arg->data, sizeof arg->data);
    break;
  case LUA_TBOOLEAN:
    arg->event.data = lua_toboolean(L, index) ? (es_slice){"true", 4} : (es_slice){"false", 5};
    break;
  case LUA_TTABLE:
    es_push_state_hook(L, es_state_of(L), "json");
    lua_pushvalue(L, index);
    lua_pushstring(L, who);
    lua_call(L, 2, 1);
    arg->event.data = string_at(L, -1);
    break;
  default:
    wrong_type(L, index, who, "data", "a string, number, boolean or table");
  }
}

static void set_field(lua_State *L, const char *name, int value, const char *who, es_event_arg *arg) {
  es_event *event = &arg->event;
  int type = lua_type(L, value);
  if (strcmp(name, "data") == 0)
    return; /* taken before: its JSON must stay on the stack */
  if (strcmp(name, "id") == 0) {
    if (type == LUA_TNUMBER)
      event->id = number_text(L, value, who, "id", arg->id, sizeof arg->id);
    else if (type == LUA_TSTRING)
      event->id = string_at(L, value);
    else if (type == LUA_TBOOLEAN && !lua_toboolean(L, value))
      arg->no_id = true;
    else
      wrong_type(L, value, who, "id", "a string, an integer or false");
  } else if (strcmp(name, "event") == 0) {
    if (type != LUA_TSTRING)
      wrong_type(L, value, who, "event", "a string");
    event->event = string_at(L, value);
  } else if (strcmp(name, "comment") == 0) {
    if (type != LUA_TSTRING)
      wrong_type(L, value, who, "comment", "a string");
    event->comment = string_at(L, value);
  } else if (strcmp(name, "retry") == 0) {
    double retry = lua_tonumber(L, value);
    if (type != LUA_TNUMBER)
      wrong_type(L, value, who, "retry", "a number of milliseconds");
    if (!(retry >= 0 && retry <= EXACT_MAX && retry == floor(retry)))
      luaL_error(L, "%s: retry must be a whole number of milliseconds, 0 or more", who);
    event->retry = (int64_t)retry;
  } else {
    es_push_state_hook(L, es_state_of(L), "unknown");
    lua_pushstring(L, "field");
    lua_pushstring(L, name);
    lua_call(L, 2, 1);
    luaL_error(L, "%s: %s", who, lua_tostring(L, -1));
  }
}

void es_check_event(lua_State *L, int index, const char *who, es_event_arg *arg) {
  arg->event = ES_EVENT_INIT;
  arg->no_id = false;
  luaL_checkstack(L, 8, who);
  if (lua_type(L, index) != LUA_TTABLE) {
    if (lua_isnoneornil(L, index))
      luaL_error(L, "%s: event must be a table or a string, not nil", who);
    set_data(L, index, who, arg);
    return;
  }
  lua_getfield(L, index, "data");
  if (lua_isnil(L, -1))
    lua_pop(L, 1);
  else
    set_data(L, lua_gettop(L), who, arg);
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    int value = lua_gettop(L);
    if (lua_type(L, value - 1) != LUA_TSTRING) {
      if (lua_type(L, value - 1) == LUA_TNUMBER)
        luaL_error(L, "%s: event must have named fields (data = ...), and no list", who);
      luaL_error(L, "%s: event has a field whose name is a %s", who, luaL_typename(L, value - 1));
    }
    set_field(L, lua_tostring(L, value - 1), value, who, arg);
    lua_pop(L, 1);
  }
  switch (es_event_check(&arg->event)) {
  case ES_EVENT_OK:
    break;
  case ES_EVENT_EMPTY:
    luaL_error(L, "%s: empty event: give it data, or an id, a retry or a comment", who);
    break;
  case ES_EVENT_NEEDS_DATA:
    luaL_error(L, "%s: an event without data is shown by no browser (pass data = \"\")", who);
    break;
  case ES_EVENT_BAD_NAME:
    luaL_error(L, "%s: event must not contain a line end", who);
    break;
  case ES_EVENT_BAD_ID:
    luaL_error(L, "%s: id must not contain control characters, nor spaces at its ends", who);
    break;
  case ES_EVENT_LONG_ID:
    luaL_error(L, "%s: id must not be longer than %d bytes", who, ES_ID_MAX);
    break;
  }
}

int l_encode(lua_State *L) {
  es_event_arg arg;
  es_check_event(L, 1, "encode", &arg);
  size_t size = es_frame_size(&arg.event);
  char *bytes = lua_newuserdata(L, size); /* Lua's to free, whatever is raised */
  es_frame_write(bytes, &arg.event);
  lua_pushlstring(L, bytes, size);
  return 1;
}
