#include "core/log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Blocks double from the one to the other while a log grows: a quiet channel costs little, and a stretch of a busy one
 * is seldom cut. */
#define BLOCK_MIN 512
#define BLOCK_MAX 65536
#define RING_MIN 8
#define FRAME_MAX 0x7FFFFFFF

es_log_block *es_log_block_new(size_t size) {
  es_log_block *block = size > FRAME_MAX ? NULL : malloc(sizeof *block + size);
  if (block == NULL)
    return NULL;
  *block = (es_log_block){.refs = 1, .size = (uint32_t)size};
  return block;
}

void es_log_block_ref(es_log_block *block) {
  block->refs++;
}

void es_log_block_unref(es_log_block *block) {
  if (block != NULL && --block->refs == 0)
    free(block);
}

/* --- The index: a ring of frames --- */

static int resize(es_log *log, size_t size) {
  es_log_frame *ring = malloc(size * sizeof *ring);
  if (ring == NULL)
    return -1;
  for (uint64_t place = log->first; place < log->next; place++)
    ring[place & (size - 1)] = *es_log_at(log, place);
  free(log->ring);
  log->ring = ring;
  log->size = size;
  return 0;
}

static int make_room(es_log *log, size_t size) {
  if (es_log_count(log) == log->size && resize(log, log->size > 0 ? log->size * 2 : RING_MIN) != 0)
    return -1;
  if (log->block != NULL && log->block->size - log->block->used >= size)
    return 0;
  size_t room = log->block == NULL ? BLOCK_MIN : log->block->size < BLOCK_MAX ? log->block->size * 2 : BLOCK_MAX;
  if (room > BLOCK_MAX)
    room = BLOCK_MAX;
  es_log_block *block = es_log_block_new(room > size ? room : size);
  if (block == NULL)
    return -1;
  if (log->block != NULL && (es_log_count(log) == 0 || es_log_at(log, log->next - 1)->block != log->block))
    es_log_block_unref(log->block); /* none of its frames is kept */
  log->block = block;
  return 0;
}

static es_log_extra *new_extra(const es_log *log, const es_log_entry *entry) {
  size_t key = entry->given ? entry->event.id.len : 0;
  es_log_extra *extra = malloc(sizeof *extra + key);
  if (extra == NULL)
    return NULL;
  *extra = (es_log_extra){
      .sequence = entry->stands > 0 ? entry->stands : entry->sequence, .log = log, .except = entry->except};
  if (entry->except != 0 && entry->event.id.ptr != NULL) {
    es_event instead = ES_EVENT_INIT;
    instead.id = entry->event.id;
    size_t size = es_chunk_size(&instead, 1);
    extra->instead = es_log_block_new(size);
    if (extra->instead == NULL) {
      free(extra);
      return NULL;
    }
    es_chunk_write(extra->instead->bytes, &instead, 1);
    extra->instead->used = (uint32_t)size;
  }
  if (entry->given) {
    memcpy(extra->key, entry->event.id.ptr, key);
    extra->id.key = (es_slice){extra->key, key};
  }
  return extra;
}

static es_log_extra *extra_of(const es_node *node) {
  return (es_log_extra *)((char *)(uintptr_t)node - offsetof(es_log_extra, id));
}

static void free_extra(es_log *log, es_log_extra *extra) {
  if (extra == NULL)
    return;
  if (extra->id.key.ptr != NULL) {
    es_table_remove(log->ids, &extra->id);
    es_node *heir = es_table_find(log->ids, extra->id.key);
    if (heir != NULL && extra->sequence < extra_of(heir)->sequence)
      extra_of(heir)->sequence = extra->sequence;
    if (extra->sequence > log->given_gone)
      log->given_gone = extra->sequence;
  }
  es_log_block_unref(extra->instead);
  free(extra);
}

int es_log_append(es_log *log, const es_log_entry *entry) {
  bool written = entry->frame.ptr != NULL;
  size_t size = written ? entry->frame.len + es_chunk_overhead(entry->frame.len) : es_chunk_size(&entry->event, 1);
  bool given = entry->given && log->ids != NULL;
  es_log_extra *extra = NULL;
  if (size > FRAME_MAX || make_room(log, size) != 0)
    return -1;
  if (given || entry->except != 0) {
    es_log_entry plain = *entry;
    plain.given = given;
    extra = new_extra(log, &plain);
    if (extra == NULL)
      return -1;
    if (given && es_table_add(log->ids, &extra->id) != 0) {
      extra->id.key.ptr = NULL;
      free_extra(log, extra);
      return -1;
    }
  }
  es_log_block *block = log->block;
  log->ring[log->next & (log->size - 1)] = (es_log_frame){.sequence = entry->sequence,
                                                          .time = entry->now,
                                                          .block = block,
                                                          .extra = extra,
                                                          .offset = block->used,
                                                          .size = (uint32_t)size};
  char *at = block->bytes + block->used;
  if (written) {
    at = es_chunk_head(at, entry->frame.len);
    memcpy(at, entry->frame.ptr, entry->frame.len);
    es_chunk_tail(at + entry->frame.len);
  } else {
    es_chunk_write(at, &entry->event, 1);
  }
  block->used += (uint32_t)size;
  block->end = ++log->next;
  log->bytes += size;
  log->last = entry->sequence;
  return 0;
}

/* --- Eviction --- */

static void evict_first(es_log *log) {
  const es_log_frame *frame = es_log_at(log, log->first);
  es_log_block *block = frame->block;
  free_extra(log, frame->extra);
  log->gone = frame->sequence;
  log->bytes -= frame->size;
  log->first++;
  if (log->first == block->end && block != log->block)
    es_log_block_unref(block);
}

/* What has become small gives its memory back. */
static void tidy(es_log *log) {
  size_t count = es_log_count(log);
  if (count == 0) {
    es_log_block_unref(log->block);
    log->block = NULL;
    free(log->ring);
    log->ring = NULL;
    log->size = 0;
  } else if (log->size > RING_MIN && count < log->size / 8) {
    (void)resize(log, log->size / 4);
  }
}

void es_log_evict(es_log *log, uint64_t now, uint64_t offered) {
  uint64_t first = log->first;
  while (log->first < log->next) {
    const es_log_frame *frame = es_log_at(log, log->first);
    bool old = log->max_age > 0 && now - frame->time >= log->max_age;
    if (!(old || es_log_is_over(log)) || frame->sequence > offered)
      break;
    evict_first(log);
  }
  if (log->first != first)
    tidy(log);
}

void es_log_clear(es_log *log) {
  while (log->first < log->next)
    evict_first(log);
  tidy(log);
}

/* --- Reading --- */

uint64_t es_log_seek(const es_log *log, uint64_t sequence) {
  uint64_t low = log->first, high = log->next;
  if (low == high || log->last <= sequence)
    return high;
  if (es_log_at(log, low)->sequence > sequence)
    return low;
  while (low < high) { /* all below low are at most the sequence, all from high on above it */
    uint64_t middle = low + (high - low) / 2;
    if (es_log_at(log, middle)->sequence > sequence)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

uint64_t es_log_stretch(const es_log *log, uint64_t place, uint64_t end, es_slice *bytes) {
  const es_log_frame *from = es_log_at(log, place);
  assert(place >= log->first && place < end && end <= log->next);
  if (from->block->end < end)
    end = from->block->end;
  const es_log_frame *to = es_log_at(log, end - 1);
  *bytes = (es_slice){from->block->bytes + from->offset, to->offset + to->size - from->offset};
  return end;
}

uint64_t es_log_place(const es_log *log, uint64_t place, uint64_t end, size_t n, size_t *before) {
  size_t start = es_log_at(log, place)->offset;
  while (end - place > 1) {
    uint64_t middle = place + (end - place) / 2;
    if (es_log_at(log, middle)->offset - start <= n)
      place = middle;
    else
      end = middle;
  }
  *before = es_log_at(log, place)->offset - start;
  return place;
}

/* What is left of a chunk's bytes without its framing. */
static es_slice payload(const char *bytes, size_t whole) {
  const char *head = memchr(bytes, '\n', whole);
  size_t skip = (size_t)(head + 1 - bytes);
  return (es_slice){bytes + skip, whole - skip - 2};
}

es_slice es_log_bytes(const es_log_frame *frame, bool chunked) {
  const char *bytes = frame->block->bytes + frame->offset;
  return chunked ? (es_slice){bytes, frame->size} : payload(bytes, frame->size);
}

es_slice es_log_block_bytes(const es_log_block *block, bool chunked) {
  return chunked ? (es_slice){block->bytes, block->used} : payload(block->bytes, block->used);
}

uint64_t es_log_find(const es_table *ids, es_slice id) {
  const es_node *node = es_table_find(ids, id);
  return node != NULL ? extra_of(node)->sequence : 0;
}

bool es_log_carries(const es_log *log, es_slice id) {
  for (const es_node *node = es_table_find(log->ids, id); node != NULL; node = es_table_next(node)) {
    if (extra_of(node)->log == log)
      return true;
  }
  return false;
}
