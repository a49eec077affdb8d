#include "redis/replies.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)32 * 1024) /* one such is kept between two replies */
#define ALIGNMENT _Alignof(max_align_t)

typedef struct es_replies_block {
  struct es_replies_block *next;
  size_t used, size;
  max_align_t data[];
} block;

static void *allocate(es_replies *replies, size_t size) {
  block *b = replies->blocks;
  size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (b == NULL || b->size - b->used < size) {
    size_t room = size > BLOCK_BYTES / 2 ? size : BLOCK_BYTES;
    b = malloc(sizeof *b + room);
    if (b == NULL)
      return NULL;
    *b = (block){.next = replies->blocks, .size = room};
    replies->blocks = b;
  }
  char *place = (char *)b->data + b->used;
  b->used += size;
  return place;
}

/* What frees a reply is given nothing else. */
typedef struct owned {
  es_replies *owner;
  redisReply reply;
} owned;

static redisReply *create(const redisReadTask *task, int type) {
  owned *o = allocate(task->privdata, sizeof *o);
  if (o == NULL)
    return NULL;
  *o = (owned){.owner = task->privdata, .reply = {.type = type}};
  if (task->parent != NULL)
    ((redisReply *)task->parent->obj)->element[task->idx] = &o->reply;
  return &o->reply;
}

static void *create_string(const redisReadTask *task, char *bytes, size_t len) {
  redisReply *reply = create(task, task->type);
  if (reply == NULL || (reply->str = allocate(task->privdata, len + 1)) == NULL)
    return NULL;
  memcpy(reply->str, bytes, len);
  reply->str[len] = '\0';
  reply->len = len;
  return reply;
}

#if HIREDIS_MAJOR > 0
typedef size_t array_size;
#else
typedef int array_size;
#endif

static void *create_array(const redisReadTask *task, array_size elements) {
  redisReply *reply = create(task, task->type);
  size_t count = elements > 0 ? (size_t)elements : 0;
  if (reply == NULL || count > SIZE_MAX / sizeof(redisReply *))
    return NULL;
  if (count > 0 && (reply->element = allocate(task->privdata, count * sizeof(redisReply *))) == NULL)
    return NULL;
  reply->elements = count; /* which are filled before anybody looks */
  return reply;
}

static void *create_integer(const redisReadTask *task, long long value) {
  redisReply *reply = create(task, REDIS_REPLY_INTEGER);
  if (reply != NULL)
    reply->integer = value;
  return reply;
}

static void *create_nil(const redisReadTask *task) {
  return create(task, REDIS_REPLY_NIL);
}

#if HIREDIS_MAJOR > 0
static void *create_double(const redisReadTask *task, double value, char *text, size_t len) {
  redisReply *reply = create_string(task, text, len);
  if (reply != NULL)
    reply->dval = value;
  return reply;
}

static void *create_bool(const redisReadTask *task, int value) {
  redisReply *reply = create(task, REDIS_REPLY_BOOL);
  if (reply != NULL)
    reply->integer = value != 0;
  return reply;
}
#endif

/* Frees all but the oldest block, if that is of the usual size. */
static void empty(es_replies *replies, bool keep) {
  block *b = replies->blocks, *next;
  for (; b != NULL && (b->next != NULL || !keep || b->size != BLOCK_BYTES); b = next) {
    next = b->next;
    free(b);
  }
  if (b != NULL)
    b->used = 0;
  replies->blocks = b;
}

static void free_object(void *object) {
  if (object != NULL)
    empty(((owned *)((char *)object - offsetof(owned, reply)))->owner, true);
}

void es_replies_attach(es_replies *replies, redisReader *reader) {
  replies->functions = *reader->fn;
#if HIREDIS_MAJOR > 0
  replies->functions.createDouble = create_double;
  replies->functions.createBool = create_bool;
#endif
  replies->functions.createString = create_string;
  replies->functions.createArray = create_array;
  replies->functions.createInteger = create_integer;
  replies->functions.createNil = create_nil;
  replies->functions.freeObject = free_object;
  reader->fn = &replies->functions;
  reader->privdata = replies;
}

void es_replies_free(es_replies *replies) {
  empty(replies, false);
}
