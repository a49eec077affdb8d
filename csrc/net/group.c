#include "net/group.h"

#include "net/connection.h"
#include "net/due.h"
#include "net/server.h"

#include <stdlib.h>

static es_group *open_group(es_connection *c) {
  es_group *g = calloc(1, sizeof *g);
  if (g == NULL)
    return NULL;
  g->low = UINT64_MAX;
  g->sequence = c->server->sequence;
  g->number = ++c->groups;
  g->last = c->subscriptions;
  while (g->last != NULL && g->last->sibling != NULL)
    g->last = g->last->sibling;
  c->group = g;
  es_exchange_note(c->exchange); /* which settles it */
  return g;
}

es_group *es_group_of(es_connection *c) {
  return c->group != NULL ? c->group : open_group(c);
}

/* Whether something was published to its members since they joined: then the group keeps its place, because their
 * frames must not be overtaken by what is sent behind them, nor by others' ids. */
static bool is_heard(const es_group *g, const es_connection *c) {
  for (const es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    const es_channel *ch = s->channel;
    uint64_t joined = es_subscription_joined(s);
    if (s->pending && s->group == g->number && (ch->log.last > joined || (ch->live != NULL && ch->live->last > joined)))
      return true;
  }
  return false;
}

uint64_t es_group_limit(const es_connection *c) {
  return c->group != NULL ? c->group->sequence : UINT64_MAX;
}

void es_group_join(es_group *g, es_subscription *s) {
  es_connection *c = s->connection;
  s->pending = true;
  s->group = g->number;
  if (g->last != NULL)
    g->last->sibling = s;
  else
    c->subscriptions = s;
  g->last = s;
  if (s->cursor < g->low)
    g->low = s->cursor;
  if (g->mark != NULL && !is_heard(g, c)) { /* what was sent before goes first; the group begins with its last member */
    es_mark_postpone(c, g->mark);
    g->mark->sequence = c->server->sequence;
  }
}

bool es_group_has(const es_subscription *s) {
  const es_group *g = s->connection->group;
  return s->pending && g != NULL && g->number == s->group;
}

int es_group_mark(es_connection *c) {
  es_group *g = c->group;
  if (g == NULL || g->mark != NULL)
    return 0;
  g->mark = es_mark_new(c, g->sequence);
  if (g->mark == NULL)
    return -1;
  g->mark->opens = true;
  g->mark->group = g->number;
  return 0;
}

void es_group_drop(es_connection *c) {
  free(c->group); /* the mark is the connection's */
  c->group = NULL;
}

static es_event id_event(char *text, uint64_t epoch, uint64_t sequence) {
  es_event event = ES_EVENT_INIT;
  event.id = es_id_write(text, epoch, sequence);
  return event;
}

/* Whether a group may begin at once, behind what is queued: nothing older waits for room. */
static bool may_begin(const es_connection *c) {
  if (c->marks != NULL)
    return false;
  for (const es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (!s->pending && es_due_behind(s))
      return false;
  }
  return true;
}

/* What was held back while it was being made is due. */
static void release(es_connection *c) {
  es_subscriptions_release(c);
  es_connection_dirty(c);
}

void es_group_settle(es_connection *c) {
  es_group *g = c->group;
  if (g == NULL)
    return;
  c->group = NULL;
  char text[ES_ID_TEXT], *at;
  es_event id = id_event(text, c->server->epoch, g->low);
  size_t size = es_chunk_size(&id, c->chunked), members = 0;
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (s->group != g->number || !s->pending)
      continue;
    es_event gap = es_channel_gap(s->channel);
    size += s->gap ? es_chunk_size(&gap, c->chunked) : 0;
    members++;
  }
  es_mark *mark = g->mark;
  bool at_once = mark == NULL && may_begin(c);
  uint64_t sequence = g->sequence;
  uint16_t number = g->number;
  free(g);
  if (members == 0) {
    if (mark != NULL)
      es_mark_free(c, mark);
    release(c);
    return;
  }
  c->grouped = true;
  if (at_once) {
    at = es_queue_reserve(&c->out, size);
  } else {
    if (mark == NULL)
      mark = es_mark_new(c, sequence);
    if (mark != NULL) {
      mark->opens = true;
      mark->group = number;
      mark->block = es_log_block_new(size);
    }
    at = mark != NULL && mark->block != NULL ? mark->block->bytes : NULL;
  }
  if (at == NULL) {
    es_connection_close(c, ES_END_ERROR);
    return;
  }
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (s->group != number || !s->pending)
      continue;
    if (at_once)
      s->pending = false;
    es_event gap = es_channel_gap(s->channel);
    if (s->gap)
      at = es_chunk_write(at, &gap, c->chunked);
    s->gap = false;
  }
  es_chunk_write(at, &id, c->chunked);
  if (at_once)
    es_queue_commit(&c->out, size);
  else
    mark->block->used = (uint32_t)size;
  release(c);
}
