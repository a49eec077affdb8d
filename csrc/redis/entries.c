#include "redis/entries.h"

#include "core/frame.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct entry {
  double number;
  int key; /* at its place among the reply's streams, from 1 */
  const redisReply *fields;
} entry;

typedef struct cursor {
  const char *at, *end;
} cursor;

static es_slice take_word(cursor *c) {
  es_slice word = {c->at, 0};
  while (c->at < c->end && *c->at != ' ')
    c->at++;
  word.len = (size_t)(c->at - word.ptr);
  if (c->at < c->end)
    c->at++;
  return word;
}

/* Negative where there is no number. */
static double take_number(cursor *c, char stop) {
  const char *start = c->at;
  double number = 0;
  while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
    number = number * 10 + (*c->at++ - '0');
  bool fine = c->at > start && c->at - start < 17 && c->at < c->end && *c->at == stop;
  if (fine)
    c->at++;
  return fine ? number : -1;
}

static const redisReply *element(const redisReply *reply, size_t i, int type) {
  return reply != NULL && reply->type == REDIS_REPLY_ARRAY && i < reply->elements && reply->element[i]->type == type
             ? reply->element[i]
             : NULL;
}

static void set_text(lua_State *L, int list, int at, es_slice text) {
  lua_pushlstring(L, text.ptr, text.len);
  lua_rawseti(L, list, at);
}

static void set_number(lua_State *L, int list, int at, double number) {
  lua_pushnumber(L, number);
  lua_rawseti(L, list, at);
}

enum { KEY = 1, NUMBER, KIND, TIME, PROCESS, COUNT, BEFORE, PACKED, CHANNEL };

static void set_entry(lua_State *L, int list, int at, const entry *e) {
  const redisReply *text = element(e->fields, 1, REDIS_REPLY_STRING),
                   *channel = element(e->fields, 3, REDIS_REPLY_STRING);
  cursor c = {NULL, NULL};
  if (text != NULL)
    c = (cursor){text->str, text->str + text->len};
  es_slice kind = take_word(&c);
  double time = take_number(&c, ' ');
  es_slice process = take_word(&c);
  double count = take_number(&c, ' '), before = take_number(&c, ' ');
  bool fine = time >= 0 && count >= 0 && before >= 0;
  set_number(L, list, at + NUMBER, e->number);
  set_text(L, list, at + KIND, fine ? kind : (es_slice){"?", 1});
  set_number(L, list, at + TIME, time);
  set_text(L, list, at + PROCESS, process);
  set_number(L, list, at + COUNT, count);
  set_number(L, list, at + BEFORE, before);
  set_text(L, list, at + PACKED, fine ? (es_slice){c.at, (size_t)(c.end - c.at)} : (es_slice){"", 0});
  if (channel != NULL) {
    set_text(L, list, at + CHANNEL, (es_slice){channel->str, (size_t)channel->len});
  } else {
    lua_pushboolean(L, 0);
    lua_rawseti(L, list, at + CHANNEL);
  }
}

static int compare(const void *one, const void *other) {
  double a = ((const entry *)one)->number, b = ((const entry *)other)->number;
  return (a > b) - (a < b);
}

void es_push_entries(lua_State *L, const redisReply *reply) {
  size_t streams = reply->type == REDIS_REPLY_ARRAY ? reply->elements : 0, count = 0;
  luaL_checkstack(L, 6, "reply");
  for (size_t i = 0; i < streams; i++) {
    const redisReply *list = element(element(reply, i, REDIS_REPLY_ARRAY), 1, REDIS_REPLY_ARRAY);
    count += list != NULL ? list->elements : 0;
  }
  entry *entries = lua_newuserdata(L, (count + 1) * sizeof *entries), *next = entries;
  lua_createtable(L, (int)streams, 0);
  int keys = lua_gettop(L);
  lua_createtable(L, (int)(count * CHANNEL), 0);
  for (size_t i = 0; i < streams; i++) {
    const redisReply *stream = element(reply, i, REDIS_REPLY_ARRAY), *list = element(stream, 1, REDIS_REPLY_ARRAY);
    const redisReply *key = element(stream, 0, REDIS_REPLY_STRING);
    lua_pushlstring(L, key != NULL ? key->str : "", key != NULL ? (size_t)key->len : 0);
    lua_rawseti(L, keys, (int)i + 1);
    for (size_t k = 0; list != NULL && k < list->elements; k++) {
      const redisReply *each = element(list, k, REDIS_REPLY_ARRAY), *id = element(each, 0, REDIS_REPLY_STRING);
      cursor c = {id != NULL ? id->str : NULL, id != NULL ? id->str + id->len : NULL};
      *next = (entry){take_number(&c, '-'), (int)i + 1, element(each, 1, REDIS_REPLY_ARRAY)};
      next += next->number >= 0;
    }
  }
  if (streams > 1)
    qsort(entries, (size_t)(next - entries), sizeof *entries, compare);
  for (const entry *e = entries; e < next; e++) {
    int at = (int)(e - entries) * CHANNEL;
    lua_rawgeti(L, keys, e->key);
    lua_rawseti(L, keys + 1, at + KEY);
    set_entry(L, keys + 1, at, e);
  }
  lua_replace(L, keys - 1);
  lua_settop(L, keys - 1);
}
