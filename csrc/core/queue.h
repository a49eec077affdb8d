/* queue: the bytes that wait for one connection's socket, in order.
 *
 * Frames and heads lie side by side in blocks; a flush gathers them as they are and then tells how many bytes the
 * kernel took. The queue owns its blocks and frees each as soon as it is used up, so an idle connection's queue holds
 * no memory at all. Not bounded by itself: whoever appends looks at es_queue_bytes first. */
#ifndef ES_CORE_QUEUE_H
#define ES_CORE_QUEUE_H

#include "core/budget.h"
#include "core/frame.h"

#include <stddef.h>
#include <stdint.h>

typedef struct es_block es_block;

/* What the queues of an app have in common: blocks of the smallest size that wait to be used again, because most events need
 * just one, for less than a turn (bounded); and the budget in which all their bytes count. A zeroed es_pool is an empty
 * one. */
typedef struct es_pool {
  es_block *first;
  size_t count;
  es_budget budget;
} es_pool;

void es_pool_clear(es_pool *pool);

typedef struct es_queue {
  /* private */
  es_block *first, *last;
  size_t start; /* bytes of the first block that are gone already */
  size_t bytes;
  es_pool *pool; /* set by the owner; may be NULL */
} es_queue;

/* A zeroed es_queue is an empty one (without a pool). */

/* Room for size bytes at the queue's end, or NULL when memory is out. They count once es_queue_commit is called, which
 * must come before any other call; committing less than was reserved is allowed. */
char *es_queue_reserve(es_queue *queue, size_t size);
void es_queue_commit(es_queue *queue, size_t size);

/* Appends a copy; 0, or -1 when memory is out (then nothing was appended). */
int es_queue_append(es_queue *queue, const char *bytes, size_t size);

/* Appends a frame that is written already, or a checked event as one frame, in a chunk of its own if chunked; 0, or -1
 * when memory is out. */
int es_queue_frame(es_queue *queue, es_slice frame, int chunked);
int es_queue_event(es_queue *queue, const es_event *event, int chunked);

static inline size_t es_queue_bytes(const es_queue *queue) {
  return queue->bytes;
}

/* Appends size bytes of a file from an offset on, which are read when they come first, ES_FILE_BYTES at a time; takes the
 * descriptor over. 0, or -1 when memory is out. */
int es_queue_file(es_queue *queue, int fd, int64_t offset, uint64_t size);

#define ES_FILE_BYTES 65536

/* Fills at most max slices with what lies at the front; returns how many. They hold until the next call. None, though
 * there are bytes: a file could not be read, or has become shorter than it was. */
size_t es_queue_gather(es_queue *queue, es_slice *slices, size_t max);

/* Drops size bytes from the front; size is at most es_queue_bytes. */
void es_queue_drop(es_queue *queue, size_t size);

/* Frees everything; the queue is empty and may be used again. */
void es_queue_clear(es_queue *queue);

#endif
