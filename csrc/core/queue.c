#include "core/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Small enough that a stream with one short event in flight costs little, large enough that a burst of events takes
 * few blocks: blocks double from the one to the other while a queue grows. */
#define BLOCK_MIN 256
#define BLOCK_MAX 16384
#define POOL_BLOCKS 256

/* Where a block's bytes come from, if it is a file. */
typedef struct es_file {
  int fd;
  int64_t offset;
  uint64_t left; /* that are not read yet */
} es_file;

struct es_block {
  es_block *next;
  size_t used, size;
  es_file *file; /* or NULL; owned */
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
  block->file = NULL;
  block->used = 0;
  return block;
}

static void close_file(es_pool *pool, es_block *block) {
  if (block->file == NULL)
    return;
  if (pool != NULL)
    pool->budget.used -= block->size;
  close(block->file->fd);
  free(block->file);
}

static void free_block(es_pool *pool, es_block *block) {
  close_file(pool, block);
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

static void add_block(es_queue *queue, es_block *block) {
  if (queue->last == NULL)
    queue->first = block;
  else
    queue->last->next = block;
  queue->last = block;
}

char *es_queue_reserve(es_queue *queue, size_t size) {
  es_block *last = queue->last;
  if (last != NULL && last->file == NULL && last->size - last->used >= size)
    return last->bytes + last->used;
  size_t room = last == NULL || last->file != NULL ? BLOCK_MIN : last->size < BLOCK_MAX ? last->size * 2 : BLOCK_MAX;
  if (room < size)
    room = size;
  es_block *block = new_block(queue->pool, room);
  if (block == NULL)
    return NULL;
  add_block(queue, block);
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

int es_queue_file(es_queue *queue, int fd, int64_t offset, uint64_t size) {
  size_t room = size < ES_FILE_BYTES ? (size_t)size : ES_FILE_BYTES;
  es_file *file = size > 0 ? malloc(sizeof *file) : NULL;
  es_block *block = file != NULL ? new_block(NULL, room) : NULL;
  if (block == NULL) {
    free(file);
    close(fd);
    return size > 0 ? -1 : 0;
  }
  *file = (es_file){fd, offset, size};
  block->file = file;
  add_block(queue, block);
  queue->bytes += size;
  if (queue->pool != NULL)
    queue->pool->budget.used += room; /* the file itself is no memory of ours */
  return 0;
}

/* Reads more of a file whose block is used up, which is the first one; false when that fails. */
static bool fill(es_queue *queue, es_block *block) {
  es_file *file = block->file;
  size_t wanted = file->left < block->size ? (size_t)file->left : block->size;
  ssize_t n;
  do
    n = pread(file->fd, block->bytes, wanted, file->offset);
  while (n < 0 && errno == EINTR);
  if (n <= 0)
    return false;
  file->offset += n;
  file->left -= (uint64_t)n;
  block->used = (size_t)n;
  queue->start = 0;
  return true;
}

size_t es_queue_gather(es_queue *queue, es_slice *slices, size_t max) {
  es_block *first = queue->first;
  if (first != NULL && first->file != NULL && first->used == queue->start && !fill(queue, first))
    return 0;
  size_t n = 0, start = queue->start;
  for (es_block *block = first; block != NULL && n < max; block = block->next, start = 0) {
    if (block->used > start)
      slices[n++] = (es_slice){block->bytes + start, block->used - start};
    if (block->file != NULL && block->file->left > 0)
      break; /* what is not read yet comes before what stands behind it */
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
  while (size > 0) {
    es_block *block = queue->first;
    size_t held = block->used - queue->start, taken = size < held ? size : held;
    if (queue->pool != NULL && block->file == NULL)
      queue->pool->budget.used -= taken;
    size -= taken;
    queue->start += taken;
    if (taken < held || (block->file != NULL && block->file->left > 0))
      return;
    queue->first = block->next;
    queue->start = 0;
    free_block(queue->pool, block);
  }
}

void es_queue_clear(es_queue *queue) {
  size_t start = queue->start;
  for (es_block *block = queue->first; block != NULL; start = 0) {
    es_block *next = block->next;
    if (queue->pool != NULL && block->file == NULL)
      queue->pool->budget.used -= block->used - start;
    free_block(queue->pool, block);
    block = next;
  }
  *queue = (es_queue){.pool = queue->pool};
}
