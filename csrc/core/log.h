/* log: a channel's frames in order, bounded by count, bytes and age.
 *
 * Frames lie side by side, with their chunk framing, in shared blocks, so that a stretch of the log is one slice. A
 * reader is a cursor: the sequence up to which it has everything; it costs nothing here. Frames are numbered from 0 by
 * their place, which stays the same while they are kept: es_log_seek turns a cursor into a place.
 *
 * Owns its index and one reference to each block that holds a kept frame; whoever is in the middle of a frame's bytes
 * holds another, and the bytes live as long as either. Eviction is the caller's to call, because only it knows what has
 * been offered to all readers: a log is over its bounds until then. */
#ifndef ES_CORE_LOG_H
#define ES_CORE_LOG_H

#include "core/table.h"

#include <stdbool.h>

typedef struct es_log_block {
  /* private */
  uint32_t refs;
  uint32_t used, size;
  uint64_t end; /* the place after its last frame */
  char bytes[];
} es_log_block;

es_log_block *es_log_block_new(size_t size); /* with one reference; NULL when memory is out */
void es_log_block_ref(es_log_block *block);
void es_log_block_unref(es_log_block *block); /* NULL is allowed */

typedef struct es_log_frame {
  /* read-only */
  uint64_t sequence;
  uint64_t time; /* when it was appended: the caller's milliseconds */
  es_log_block *block;
  struct es_log_extra *extra; /* what few frames have; NULL */
  uint32_t offset, size;      /* in the block, with its chunk framing */
} es_log_frame;

/* A given id, or one reader that gets another frame instead. */
typedef struct es_log_extra {
  es_node id;        /* in the log's ids, if its key is set */
  uint64_t sequence; /* of its frame, or of an older one with the same id that was evicted meanwhile */
  const struct es_log *log;
  uint32_t except;       /* that reader's number; 0: nobody */
  es_log_block *instead; /* what it gets: the id alone, so that it need not come back for this frame; or NULL */
  char key[];
} es_log_extra;

typedef struct es_log {
  /* set by the owner, at any time */
  size_t max_count, max_bytes;
  uint64_t max_age; /* milliseconds; 0: no bound */
  es_table *ids;    /* given ids, shared by all logs of an app; NULL: they are not found */
  /* read-only */
  uint64_t first, next; /* the places of the kept frames: first <= place < next */
  size_t bytes;         /* theirs */
  uint64_t last;        /* the highest sequence that was ever in it */
  uint64_t gone;        /* the highest that is in it no more; the owner sets both for what was before it */
  uint64_t given_gone;  /* the same of those with a given id */
  /* private */
  es_log_frame *ring;
  size_t size; /* a power of two, or 0 */
  es_log_block *block;
} es_log;

typedef struct es_log_entry {
  es_event event; /* checked */
  uint64_t sequence, now;
  bool given;      /* its id is the script's own, and is to be found */
  uint32_t except; /* see es_log_extra */
  /* of a log that was another process's */
  es_slice frame;  /* its bytes, without chunk framing; ptr NULL: those of the event */
  uint64_t stands; /* the sequence that its given id stands for; 0: its own */
} es_log_entry;

/* A zeroed es_log is empty. Appends; sequences rise. 0, or -1 when memory is out or the frame is 2 GiB or more. */
int es_log_append(es_log *log, const es_log_entry *entry);

/* Evicts what is over the bounds, from the oldest on, but nothing above the sequence `offered`. */
void es_log_evict(es_log *log, uint64_t now, uint64_t offered);

/* Evicts everything. */
void es_log_clear(es_log *log);

static inline size_t es_log_count(const es_log *log) {
  return (size_t)(log->next - log->first);
}

/* Whether it is over its bounds of count and bytes. */
static inline bool es_log_is_over(const es_log *log) {
  return es_log_count(log) > log->max_count || log->bytes > log->max_bytes;
}

/* The frame at a place that is kept. Holds until the next append or eviction. */
static inline const es_log_frame *es_log_at(const es_log *log, uint64_t place) {
  return &log->ring[place & (log->size - 1)];
}

/* The place of the first kept frame above the sequence; log->next if there is none. */
uint64_t es_log_seek(const es_log *log, uint64_t sequence);

/* The longest stretch of frames from a place on, ending at `end` at the latest, that lies side by side; returns the
 * place after it. place < end. */
uint64_t es_log_stretch(const es_log *log, uint64_t place, uint64_t end, es_slice *bytes);

/* The place of the frame with the n-th byte of such a stretch, and what comes before it there. */
uint64_t es_log_place(const es_log *log, uint64_t place, uint64_t end, size_t n, size_t *before);

/* A frame with its chunk framing, or without. */
es_slice es_log_bytes(const es_log_frame *frame, bool chunked);

/* The bytes of a block that was written as one chunk, with its chunk framing, or without. */
es_slice es_log_block_bytes(const es_log_block *block, bool chunked);

/* The sequence of the oldest kept frame that carries the id, or 0. Where a frame was evicted while a newer one carried
 * the same id, that one stands for it: whoever had the older one must not skip what lay between. */
uint64_t es_log_find(const es_table *ids, es_slice id);

/* Whether a kept frame of this log carries the id. */
bool es_log_carries(const es_log *log, es_slice id);

#endif
