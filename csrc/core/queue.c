#include "core/queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Small enough that a stream with one short event in flight costs little, large enough that a burst of events takes
 * few blocks: blocks double from the one to the other while a queue grows. */
#define BLOCK_MIN 256
#define BLOCK_MAX 16384
#define POOL_BLOCKS 256

struct es_block {
  es_block *next;
  size_t used, size;
  char bytes[];
};

static es_block *new_block(es_pool *pool, size_t size) {
  es_block *block;
  if (pool != NULL && pool->first != NULL && size == BLOCK_MIN) {
    block = pool->first;
    pool->first = block->next;
    pool->count--;
  } else {
    block = malloc(sizeof *block + size);
    if (block == NULL)
      return NULL;
    block->size = size;
  }
  block->next = NULL;
  block->used = 0;
  return block;
}

static void free_block(es_pool *pool, es_block *block) {
  if (pool == NULL || block->size != BLOCK_MIN || pool->count == POOL_BLOCKS) {
    free(block);
    return;
  }
  block->next = pool->first;
  pool->first = block;
  pool->count++;
}

void es_pool_clear(es_pool *pool) {
  for (es_block *block = pool->first; block != NULL;) {
    es_block *next = block->next;
    free(block);
    block = next;
  }
  pool->first = NULL;
  pool->count = 0;
}

char *es_queue_reserve(es_queue *queue, size_t size) {
  es_block *last = queue->last;
  if (last != NULL && last->size - last->used >= size)
    return last->bytes + last->used;
  size_t room = last == NULL ? BLOCK_MIN : last->size < BLOCK_MAX ? last->size * 2 : BLOCK_MAX;
  if (room < size)
    room = size;
  es_block *block = new_block(queue->pool, room);
  if (block == NULL)
    return NULL;
  if (last == NULL)
    queue->first = block;
  else
    last->next = block;
  queue->last = block;
  return block->bytes;
}

void es_queue_commit(es_queue *queue, size_t size) {
  assert(queue->last != NULL && queue->last->size - queue->last->used >= size);
  queue->last->used += size;
  queue->bytes += size;
  if (queue->pool != NULL)
    queue->pool->budget.used += size;
}

int es_queue_append(es_queue *queue, const char *bytes, size_t size) {
  if (size == 0)
    return 0;
  char *at = es_queue_reserve(queue, size);
  if (at == NULL)
    return -1;
  memcpy(at, bytes, size);
  es_queue_commit(queue, size);
  return 0;
}

int es_queue_frame(es_queue *queue, es_slice frame, int chunked) {
  size_t whole = frame.len + (chunked ? es_chunk_overhead(frame.len) : 0);
  char *at = es_queue_reserve(queue, whole);
  if (at == NULL)
    return -1;
  if (chunked)
    at = es_chunk_head(at, frame.len);
  memcpy(at, frame.ptr, frame.len);
  if (chunked)
    es_chunk_tail(at + frame.len);
  es_queue_commit(queue, whole);
  return 0;
}

int es_queue_event(es_queue *queue, const es_event *event, int chunked) {
  size_t size = es_chunk_size(event, chunked);
  char *at = es_queue_reserve(queue, size);
  if (at == NULL)
    return -1;
  es_chunk_write(at, event, chunked);
  es_queue_commit(queue, size);
  return 0;
}

size_t es_queue_gather(const es_queue *queue, es_slice *slices, size_t max) {
  size_t n = 0, start = queue->start;
  for (es_block *block = queue->first; block != NULL && n < max; block = block->next, start = 0) {
    if (block->used > start)
      slices[n++] = (es_slice){block->bytes + start, block->used - start};
  }
  return n;
}

void es_queue_drop(es_queue *queue, size_t size) {
  assert(size <= queue->bytes);
  if (size == queue->bytes) {
    es_queue_clear(queue);
    return;
  }
  queue->bytes -= size;
  if (queue->pool != NULL)
    queue->pool->budget.used -= size;
  while (size > 0) {
    es_block *block = queue->first;
    size_t held = block->used - queue->start;
    if (size < held) {
      queue->start += size;
      return;
    }
    size -= held;
    queue->first = block->next;
    queue->start = 0;
    free_block(queue->pool, block);
  }
}

void es_queue_clear(es_queue *queue) {
  if (queue->pool != NULL)
    queue->pool->budget.used -= queue->bytes;
  for (es_block *block = queue->first; block != NULL;) {
    es_block *next = block->next;
    free_block(queue->pool, block);
    block = next;
  }
  *queue = (es_queue){.pool = queue->pool};
}
