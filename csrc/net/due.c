#include "net/due.h"

#include "net/connection.h"
#include "net/group.h"
#include "net/server.h"
#include "net/slow.h"

#include <stdlib.h>
#include <string.h>

/* Frames of one log that may be due. Those of a stream's channels are merged in the order of their sequences. */
typedef struct source {
  es_subscription *subscription;
  const es_log *log;
  uint64_t place, sequence; /* of its next frame */
} source;

#define SOURCES 32 /* more at once are merged part by part */

static void add_slice(es_due *due, const char *bytes, size_t size) {
  due->room[due->count++] = (struct iovec){(void *)(uintptr_t)bytes, size}; /* sendmsg does not write to it */
  due->bytes += size;
}

void es_due_skip(es_subscription *s, uint64_t sequence) {
  if (s->replays && sequence >= es_subscription_joined(s))
    s->replays = false;
  s->cursor = sequence;
  if (s->excepted && s->cursor >= s->channel->log.last)
    s->excepted = s->channel->live != NULL && s->cursor < s->channel->live->last;
}

bool es_due_behind(const es_subscription *s) {
  const es_log *live = s->channel->live;
  if (s->channel->log.last > s->cursor)
    return true;
  return live != NULL && es_log_count(live) > 0 && live->last > (s->replays ? es_subscription_joined(s) : s->cursor);
}

bool es_due_any(const es_connection *c) {
  if (c->rest.block != NULL || c->marks != NULL || es_queue_bytes(&c->out) > 0)
    return true;
  const es_subscription *s = c->subscriptions;
  while (s != NULL && (s->pending || !es_due_behind(s)))
    s = s->sibling;
  return s != NULL;
}

void es_due_clear(es_connection *c) {
  while (c->marks != NULL)
    es_mark_free(c, es_mark_first(c));
  es_log_block_unref(c->rest.block);
  c->rest = (es_rest){NULL, 0, 0};
}

/* --- Gathering --- */

static bool is_excepted(const es_connection *c, const es_log_frame *frame) {
  return frame->extra != NULL && frame->extra->except == c->serial;
}

/* What this connection gets of a frame; nothing where it gets none of it. */
static es_slice bytes_for(const es_connection *c, const es_log_frame *frame) {
  if (!is_excepted(c, frame))
    return es_log_bytes(frame, c->chunked);
  return frame->extra->instead != NULL ? es_log_block_bytes(frame->extra->instead, c->chunked) : (es_slice){NULL, 0};
}

static void add_piece(es_due *due, es_subscription *s, const es_log *log, uint64_t place, uint64_t end,
                      es_slice bytes) {
  due->piece[due->pieces++] = (es_due_piece){s, log, place, end, bytes.len};
  add_slice(due, bytes.ptr, bytes.len);
}

/* Adds frames of one log up to a place; returns the place it came to. */
static uint64_t add_frames(es_connection *c, es_due *due, es_subscription *s, const es_log *log, uint64_t place,
                           uint64_t end) {
  bool whole = c->chunked && !s->excepted;
  while (place < end && due->count < ES_DUE_SLICES) {
    es_slice bytes;
    uint64_t next = place + 1;
    if (whole)
      next = es_log_stretch(log, place, end, &bytes);
    else
      bytes = bytes_for(c, es_log_at(log, place));
    if (bytes.ptr != NULL)
      add_piece(due, s, log, place, next, bytes);
    else if (due->bytes == 0)
      es_due_skip(s, es_log_at(log, place)->sequence);
    else
      return place; /* it is stepped over when it comes first */
    place = next;
  }
  return place;
}

/* Uses what was prepared for all subscribers at the same cursor, or prepares it. */
static bool add_stretch(es_due *due, es_subscription *s) {
  const es_channel *channel = s->channel;
  const es_log *log = &channel->log;
  es_stretch *stretch = &channel->server->loop->fanout.stretch;
  if (stretch->channel != channel || stretch->from != s->cursor || stretch->to != log->last ||
      log->gone > stretch->from) {
    *stretch = (es_stretch){.from = s->cursor, .to = log->last, .place = es_log_seek(log, s->cursor), .end = log->next};
    for (uint64_t place = stretch->place; place < stretch->end;) {
      es_slice bytes;
      if (stretch->count == ES_STRETCH_SLICES)
        return false;
      place = es_log_stretch(log, place, stretch->end, &bytes);
      stretch->slices[stretch->count++] = (struct iovec){(void *)(uintptr_t)bytes.ptr, bytes.len};
      stretch->bytes += bytes.len;
    }
    stretch->channel = channel;
  }
  due->slices = stretch->slices;
  due->count = stretch->count;
  due->bytes = stretch->bytes;
  due->piece[due->pieces++] = (es_due_piece){s, log, stretch->place, stretch->end, stretch->bytes};
  return true;
}

static void gather_one(es_connection *c, es_due *due, es_subscription *s, uint64_t limit) {
  const es_log *log = &s->channel->log;
  uint64_t end = limit == UINT64_MAX ? log->next : es_log_seek(log, limit);
  if (log->last <= s->cursor)
    return;
  if (s->channel->passing && c->chunked && !s->excepted && limit == UINT64_MAX && due->bytes == 0 &&
      add_stretch(due, s))
    return;
  uint64_t place = es_log_seek(log, s->cursor);
  add_frames(c, due, s, log, place, end);
}

/* Puts a source where its sequence belongs; returns how many there are. The list is sorted. One that has no place any
 * more bounds the merge instead. */
static size_t insert_source(source *list, size_t count, source new_one, uint64_t *bound) {
  if (count == SOURCES) {
    if (list[count - 1].sequence <= new_one.sequence) {
      *bound = new_one.sequence < *bound ? new_one.sequence : *bound;
      return count;
    }
    count--;
    *bound = list[count].sequence < *bound ? list[count].sequence : *bound;
  }
  size_t at = count;
  for (; at > 0 && list[at - 1].sequence > new_one.sequence; at--)
    list[at] = list[at - 1];
  list[at] = new_one;
  return count + 1;
}

static size_t add_source(source *list, size_t count, es_subscription *s, const es_log *log, uint64_t after,
                         uint64_t *bound) {
  if (log == NULL || log->last <= after || es_log_count(log) == 0)
    return count;
  uint64_t place = es_log_seek(log, after);
  return insert_source(list, count, (source){s, log, place, es_log_at(log, place)->sequence}, bound);
}

static void gather_merged(es_connection *c, es_due *due, uint64_t limit) {
  source list[SOURCES];
  size_t count = 0;
  uint64_t bound = limit == UINT64_MAX ? limit : limit + 1; /* only frames below it */
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (s->pending)
      continue;
    count = add_source(list, count, s, &s->channel->log, s->cursor, &bound);
    count = add_source(list, count, s, s->channel->live, s->replays ? es_subscription_joined(s) : s->cursor, &bound);
  }
  while (count > 0 && list[0].sequence < bound && due->count < ES_DUE_SLICES) {
    source run = list[0];
    uint64_t until = count > 1 && list[1].sequence < bound ? list[1].sequence : bound;
    uint64_t end = until == UINT64_MAX ? run.log->next : es_log_seek(run.log, until - 1);
    uint64_t place = add_frames(c, due, run.subscription, run.log, run.place, end);
    if (place < end)
      return;
    count--;
    memmove(list, list + 1, count * sizeof *list);
    if (end < run.log->next) {
      run.place = end;
      run.sequence = es_log_at(run.log, end)->sequence;
      count = insert_source(list, count, run, &bound);
    }
  }
}

/* Whether frames are gone that a subscription should have got; then something was done about it. */
static bool is_overrun(es_connection *c) {
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (!s->pending && s->cursor < s->channel->log.gone) {
      es_slow_overrun(s);
      return true;
    }
  }
  return false;
}

/* The connection's own bytes that wait for nothing. */
static void gather_own(es_connection *c, es_due *due) {
  size_t size = es_queue_bytes(&c->out) - es_marks_bytes(c);
  if (size == 0)
    return;
  es_slice slices[ES_DUE_SLICES];
  size_t count = es_queue_gather(&c->out, slices, ES_DUE_SLICES - due->count);
  due->own = 0;
  if (count == 0 && due->count < ES_DUE_SLICES) { /* the client sees that the answer is not whole */
    es_connection_close(c, ES_END_ERROR);
    return;
  }
  for (size_t i = 0; i < count && due->own < size; i++) {
    size_t len = slices[i].len < size - due->own ? slices[i].len : size - due->own;
    add_slice(due, slices[i].ptr, len);
    due->own += len;
  }
}

void es_due_gather(es_connection *c, es_due *due) {
  for (;;) {
    due->slices = due->room;
    due->count = due->bytes = due->own = due->pieces = 0;
    if (c->rest.block != NULL)
      add_slice(due, c->rest.block->bytes + c->rest.offset, c->rest.size);
    gather_own(c, due);
    if (c->state == ES_CLOSED) {
      due->bytes = 0;
      return;
    }
    es_subscription *s = c->subscriptions;
    if (s == NULL && c->marks == NULL)
      return;
    if (due->own < es_queue_bytes(&c->out) - es_marks_bytes(c))
      return;
    while (c->state != ES_CLOSED && is_overrun(c))
      ;
    if (c->state == ES_CLOSED) {
      due->bytes = 0;
      return;
    }
    const es_mark *mark = es_mark_first(c);
    uint64_t limit = mark != NULL ? mark->sequence : es_group_limit(c);
    if (s != NULL && s->sibling == NULL && s->channel->live == NULL) {
      if (!s->pending)
        gather_one(c, due, s, limit);
    } else {
      gather_merged(c, due, limit);
    }
    if (due->bytes > 0 || mark == NULL || (mark->opens && mark->block == NULL))
      return;
    es_mark_pass(c);
  }
}

/* --- What was sent --- */

/* The kernel took only n bytes of a piece, n less than its size. */
static void sent_part(es_connection *c, const es_due_piece *piece, size_t n) {
  const es_log *log = piece->log;
  uint64_t place = piece->place, end = piece->end;
  size_t before = 0;
  bool single = end - place == 1;
  if (!single) { /* several frames, so with their framing and without exceptions */
    for (;;) {
      es_slice bytes;
      uint64_t next = es_log_stretch(log, place, end, &bytes);
      if (n < bytes.len) {
        end = next;
        break;
      }
      n -= bytes.len;
      place = next;
    }
    place = es_log_place(log, place, end, n, &before);
    n -= before;
  }
  es_subscription *s = piece->subscription;
  c->server->stats.events += place - piece->place;
  if (n == 0) {
    if (place > piece->place)
      es_due_skip(s, es_log_at(log, place - 1)->sequence);
    return;
  }
  const es_log_frame *frame = es_log_at(log, place);
  es_slice bytes = bytes_for(c, frame);
  es_log_block *block = is_excepted(c, frame) ? frame->extra->instead : frame->block;
  es_log_block_ref(block);
  c->rest = (es_rest){block, (uint32_t)(bytes.ptr - block->bytes + (ptrdiff_t)n), (uint32_t)(bytes.len - n)};
  c->server->stats.events++;
  es_due_skip(s, frame->sequence);
}

void es_due_sent(es_connection *c, const es_due *due, size_t n) {
  if (c->rest.block != NULL) {
    size_t taken = n < c->rest.size ? n : c->rest.size;
    c->rest.offset += (uint32_t)taken;
    c->rest.size -= (uint32_t)taken;
    n -= taken;
    if (c->rest.size > 0)
      return;
    es_log_block_unref(c->rest.block);
    c->rest.block = NULL;
  }
  size_t own = n < due->own ? n : due->own;
  if (own > 0)
    es_queue_drop(&c->out, own);
  n -= own;
  for (size_t i = 0; i < due->pieces; i++) {
    const es_due_piece *piece = &due->piece[i];
    if (n < piece->bytes) {
      sent_part(c, piece, n);
      return;
    }
    n -= piece->bytes;
    c->server->stats.events += piece->end - piece->place;
    es_due_skip(piece->subscription, es_log_at(piece->log, piece->end - 1)->sequence);
  }
}
