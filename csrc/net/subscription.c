#include "net/subscription.h"

#include "net/connection.h"
#include "net/due.h"
#include "net/group.h"
#include "net/server.h"

#include <stdlib.h>

es_subscription *es_subscription_of(const es_connection *c, const es_channel *ch) {
  es_subscription *s = c->subscriptions;
  while (s != NULL && s->channel != ch)
    s = s->sibling;
  return s;
}

/* --- Where it starts --- */

typedef struct origin {
  es_subscribed result;
  uint64_t position; /* the client has everything up to it, or was told that it has not */
} origin;

/* Whether a given id can be believed to be one of this stream's channels': they may have counted on their own, and what
 * only another one carries may stand for a frame that this one had and has no more. */
static bool is_ours(const es_connection *c, const es_channel *ch, es_slice id) {
  if (ch->log.given_gone == 0 || es_log_carries(&ch->log, id))
    return true;
  for (const es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (!s->ended && es_log_carries(&s->channel->log, id))
      return true;
  }
  return false;
}

/* The sequence that an id stands for; false if nothing is known of it. */
static bool position_of(const es_connection *c, const es_channel *ch, es_slice id, uint64_t *position) {
  const es_server *server = ch->server;
  uint64_t epoch;
  if (es_id_read(id, &epoch, position))
    return epoch == server->epoch && *position <= server->sequence;
  *position = es_log_find(&server->ids, id);
  return *position != 0 && is_ours(c, ch, id);
}

/* The position before the newest `count` frames that are kept. */
static uint64_t before_newest(const es_channel *ch, size_t count, uint64_t head) {
  const es_log *log = &ch->log;
  size_t kept = es_log_count(log);
  if (count == 0 || kept == 0)
    return head;
  return es_log_at(log, log->next - (count < kept ? count : kept))->sequence - 1;
}

static origin origin_of(const es_connection *c, const es_channel *ch, const es_start *start) {
  const es_server *server = ch->server;
  uint64_t head = server->sequence, position;
  bool later = c->grouped && !start->since;
  if (later || start->live)
    return (origin){ES_SUBSCRIBED_LIVE, head};
  if (start->id.ptr == NULL)
    return (origin){ES_SUBSCRIBED_LIVE, before_newest(ch, start->newcomer, head)};
  bool known = position_of(c, ch, start->id, &position) && position >= ch->log.gone;
  if (known && position >= server->lost)
    return (origin){ES_SUBSCRIBED_RESUMED, position};
  if (start->gap_live)
    return (origin){ES_SUBSCRIBED_GAP, head};
  return (origin){ES_SUBSCRIBED_GAP, known ? position : ch->log.gone}; /* what it has, it does not get again */
}

es_subscribed es_subscribe(es_exchange *x, es_channel *ch, const es_start *start) {
  es_connection *c = x->connection;
  if (x->reason != ES_OPEN || ch->server == NULL || ch->server->closing)
    return ES_SUBSCRIBED_CLOSED;
  es_subscription *s = es_subscription_of(c, ch);
  if (s != NULL)
    return ES_SUBSCRIBED_ALREADY;
  es_server *server = ch->server;
  es_channel_evict(ch); /* what is too old is not told any more */
  origin from = origin_of(c, ch, start);
  es_group *group = es_group_of(c);
  if (group == NULL || (s = calloc(1, sizeof *s)) == NULL)
    return ES_SUBSCRIBED_NO_MEMORY;
  s->channel = ch;
  s->connection = c;
  s->cursor = from.position;
  s->joined = (uint32_t)server->sequence;
  s->replays = s->catches = from.position < server->sequence;
  s->gap = from.result == ES_SUBSCRIBED_GAP;
  s->excepted = c->excepted && s->replays; /* such a frame may be among them: it was subscribed before */
  es_group_join(group, s);
  es_fanout_join(ch, s);
  if (from.position < ch->offered)
    ch->offered = from.position; /* until it was flushed once, it may still need what is old */
  ch->subscribers++;
  x->subscribed++;
  server->stats.subscribers++;
  server->stats.resumes += from.result == ES_SUBSCRIBED_RESUMED;
  server->stats.gaps += from.result == ES_SUBSCRIBED_GAP;
  /* the kernel's own limit for readers that do not read must lie above ours */
  es_connection_be_patient(c, ch->options.history_seconds / 2);
  return from.result;
}

/* --- Ends --- */

static void unlink_sibling(es_subscription *s) {
  es_connection *c = s->connection;
  es_subscription **at = &c->subscriptions, *before = NULL;
  while (*at != s) {
    before = *at;
    at = &(*at)->sibling;
  }
  *at = s->sibling;
  s->sibling = NULL;
  if (c->group != NULL && c->group->last == s)
    c->group->last = before;
}

/* Takes it out of its connection and its channel. */
static void leave(es_subscription *s) {
  unlink_sibling(s);
  es_fanout_leave(s);
}

static void discard(es_subscription *s) {
  es_channel *ch = s->channel;
  leave(s);
  free(s);
  es_channel_rest(ch);
}

/* It counts no more; the layer above will be told. */
static void retire(es_subscription *s, es_exchange *x, es_subscription *record) {
  es_channel *ch = s->channel;
  x->subscribed--;
  x->server->stats.subscribers--;
  if (ch->subscribers > 0)
    ch->subscribers--;
  if (record == s)
    leave(s);
  else
    *record = (es_subscription){.channel = ch, .told = s->told};
  record->connection = NULL;
  es_channel_ref(ch);
  es_subscription **at = &x->gone;
  while (*at != NULL)
    at = &(*at)->sibling;
  *at = record;
}

/* Ends one whose stream goes on or is ending; deliver: it still gets what was published before, and where there is no
 * memory for that, its connection is cut, so that nothing is lost in silence. */
static void finish(es_subscription *s, es_exchange *x, bool deliver) {
  bool waits = deliver && (s->pending || es_due_behind(s));
  es_subscription *record = waits ? malloc(sizeof *record) : NULL;
  if (waits && record == NULL) {
    es_connection_close(s->connection, ES_END_ERROR);
    return;
  }
  s->ended = waits;
  retire(s, x, waits ? record : s);
}

bool es_unsubscribe(es_exchange *x, es_channel *ch) {
  if (x->reason != ES_OPEN)
    return false;
  es_subscription *s = es_subscription_of(x->connection, ch);
  if (s == NULL || s->ended)
    return false;
  es_marks_drop_gap(x->connection, ch);
  finish(s, x, false);
  es_exchange_note(x);
  return true;
}

/* False when memory is out. */
static bool tell_gap(es_connection *c, es_subscription *s) {
  if (s->ended || s->gap)
    return true;
  es_event event = es_channel_gap(s->channel);
  size_t size = es_chunk_size(&event, c->chunked);
  es_mark *mark = es_mark_new(c, c->server->sequence);
  es_log_block *block = mark != NULL ? es_log_block_new(size) : NULL;
  if (block == NULL)
    return false;
  es_chunk_write(block->bytes, &event, c->chunked);
  block->used = (uint32_t)size;
  mark->block = block;
  mark->gap = s->channel;
  s->gap = true;
  c->server->stats.gaps++;
  return true;
}

void es_subscriptions_tell_gap(es_connection *c) {
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    if (!tell_gap(c, s)) {
      es_connection_close(c, ES_END_ERROR);
      return;
    }
  }
  es_connection_dirty(c);
}

void es_channel_tell_gap(es_channel *ch) {
  bool whole;
  do { /* an end may take others out of the walk: those that were told are passed over */
    es_subscription *s = ch->at;
    whole = true;
    if (s != NULL)
      do {
        whole = tell_gap(s->connection, s);
        if (whole && !s->ended && s->cursor < ch->log.gone)
          es_due_skip(s, ch->log.gone); /* it is not late: else it would be taken for a slow reader */
        if (whole)
          es_connection_dirty(s->connection);
        else
          es_connection_close(s->connection, ES_END_ERROR);
      } while (whole && (s = s->next) != ch->at);
  } while (!whole);
}

void es_subscription_close(es_subscription *s) {
  es_connection *c = s->connection;
  es_exchange *x = c->exchange;
  if (s->ended || x == NULL)
    return; /* its stream ends already */
  finish(s, x, true);
  if (x->reason == ES_OPEN)
    es_exchange_note(x);
}

bool es_subscriptions_end(es_connection *c, bool deliver) {
  bool left = false;
  if (deliver)
    es_group_settle(c);
  es_exchange *x = c->exchange;
  if (x == NULL)
    return false; /* there was no memory for it: it is closed */
  for (es_subscription *s = c->subscriptions, *next; s != NULL; s = next) {
    next = s->sibling;
    if (s->ended)
      continue;
    finish(s, x, deliver);
    if (c->exchange == NULL)
      return false;
  }
  for (es_subscription *s = c->subscriptions; s != NULL; s = s->sibling)
    left = true;
  return left;
}

void es_subscriptions_drop(es_connection *c) {
  es_group_drop(c);
  while (c->subscriptions != NULL)
    discard(c->subscriptions);
}

void es_subscriptions_release(es_connection *c) {
  for (const es_subscription *s = c->subscriptions; s != NULL; s = s->sibling) {
    const es_log *live = s->channel->live;
    if (s->channel->server != NULL && (es_log_is_over(&s->channel->log) || (live != NULL && es_log_count(live) > 0)))
      es_fanout_add(s->channel);
  }
}

void es_subscriptions_sweep(es_connection *c) {
  for (es_subscription *s = c->subscriptions, *next; s != NULL; s = next) {
    next = s->sibling;
    if (s->ended && s->channel->server == NULL && !s->pending && !es_due_behind(s))
      discard(s);
  }
}

es_channel *es_exchange_gone(es_exchange *x) {
  for (es_subscription *record; (record = x->gone) != NULL;) {
    es_channel *ch = record->channel;
    bool told = record->told;
    x->gone = record->sibling;
    free(record);
    if (told)
      return ch;
    es_channel_unref(ch);
  }
  return NULL;
}
