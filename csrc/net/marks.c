#include "net/marks.h"

#include "net/connection.h"
#include "net/due.h"
#include "net/group.h"
#include "net/server.h"

#include <stdlib.h>

es_mark *es_mark_first(const es_connection *c) {
  return c->marks != NULL ? c->marks->next : NULL;
}

static es_mark *new_mark(es_connection *c, uint64_t sequence) {
  es_mark *mark = calloc(1, sizeof *mark);
  if (mark == NULL)
    return NULL;
  mark->sequence = sequence;
  c->mark_count++;
  if (c->marks == NULL) {
    mark->next = c->marks = mark;
  } else {
    mark->next = c->marks->next;
    c->marks->next = mark;
  }
  return mark; /* the first now, unless the caller makes it the last */
}

es_mark *es_mark_new(es_connection *c, uint64_t sequence) {
  es_mark *mark = new_mark(c, sequence);
  if (mark != NULL)
    c->marks = mark;
  return mark;
}

es_mark *es_mark_new_first(es_connection *c) {
  return new_mark(c, 0);
}

/* Takes a mark out of the ring, given the one before it. */
static void unlink_mark(es_connection *c, es_mark *before) {
  es_mark *mark = before->next;
  before->next = mark->next;
  if (mark == before)
    c->marks = NULL;
  else if (c->marks == mark)
    c->marks = before;
}

/* It is in the ring no more: its bytes do not wait. */
static void forget(es_connection *c, const es_mark *mark) {
  c->held_bytes -= mark->bytes;
  c->mark_count--;
}

static es_mark *before_mark(const es_mark *mark) {
  const es_mark *before = mark;
  while (before->next != mark)
    before = before->next;
  return (es_mark *)(uintptr_t)before;
}

void es_mark_postpone(es_connection *c, es_mark *mark) {
  if (c->marks == mark)
    return;
  unlink_mark(c, before_mark(mark));
  mark->next = c->marks->next;
  c->marks->next = mark;
  c->marks = mark;
}

void es_mark_free(es_connection *c, es_mark *mark) {
  unlink_mark(c, mark == es_mark_first(c) ? c->marks : before_mark(mark));
  forget(c, mark);
  es_log_block_unref(mark->block);
  free(mark);
}

/* All that the first mark waited for is sent. What it stands for is due now. */
void es_mark_pass(es_connection *c) {
  es_mark *mark = es_mark_first(c);
  unlink_mark(c, c->marks);
  forget(c, mark);
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (mark->opens && s->pending && s->group == mark->group)
      s->pending = false;
    if (mark->gap == s->channel)
      s->gap = false;
  }
  if (mark->block != NULL)
    c->rest = (es_rest){mark->block, 0, mark->block->used}; /* its reference goes along */
  if (mark->ends)
    es_subscriptions_drop(c);
  free(mark);
}

int es_marks_begin(es_connection *c) {
  if (c->subscriptions == NULL && c->marks == NULL)
    return 0;
  uint64_t sequence = c->server->sequence;
  if (es_group_mark(c) != 0)
    return -1;
  es_mark *last = c->marks;
  if (last == NULL) {
    const es_subscription *s = c->subscriptions;
    while (s != NULL && !es_due_behind(s))
      s = s->sibling;
    if (s == NULL)
      return 0; /* nothing is to be waited for */
  } else if (last->block == NULL && !last->opens && last->sequence == sequence) {
    return 0;
  }
  return es_mark_new(c, sequence) != NULL ? 0 : -1;
}

void es_marks_commit(es_connection *c, size_t bytes) {
  if (c->marks == NULL)
    return;
  c->marks->bytes += bytes;
  c->held_bytes += bytes;
}

size_t es_marks_bytes(const es_connection *c) {
  return c->held_bytes;
}

size_t es_marks_cost(const es_connection *c) {
  return c->mark_count * sizeof(es_mark);
}

void es_marks_drop_gap(es_connection *c, const es_channel *ch) {
  es_mark *mark = es_mark_first(c);
  for (uint32_t count = c->mark_count; count > 0; count--) {
    es_mark *next = mark->next;
    if (mark->gap == ch)
      es_mark_free(c, mark);
    mark = next;
  }
}
