#include "net/channel.h"

#include "net/connection.h"
#include "net/server.h"
#include "net/subscription.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPIRY_REST_MS 1000 /* between two looks for frames that are too old */

static void on_expiry(es_deadline *deadline);

es_channel *es_channel_find(const es_server *server, es_slice name) {
  es_node *node = es_table_find(&server->channels, name);
  return node != NULL ? (es_channel *)((char *)node - offsetof(es_channel, node)) : NULL;
}

static void set_bounds(es_log *log, const es_channel_options *options) {
  log->max_count = options->history;
  log->max_bytes = options->history_bytes;
  log->max_age = (uint64_t)ceil(options->history_seconds * 1000); /* 0 is no bound */
}

es_channel *es_channel_new(es_server *server, es_slice name, const es_channel_options *options) {
  es_channel *ch = calloc(1, sizeof *ch + name.len);
  if (ch == NULL)
    return NULL;
  char *copy = (char *)(ch + 1);
  memcpy(copy, name.ptr, name.len);
  ch->node.key = (es_slice){copy, name.len};
  if (es_table_add(&server->channels, &ch->node) != 0) {
    free(ch);
    return NULL;
  }
  ch->server = server;
  ch->epoch = server->epoch;
  ch->options = *options;
  ch->log.ids = &server->ids;
  ch->log.gone = ch->log.last = server->gone;
  ch->log.given_gone = server->given_gone;
  ch->offered = ch->fresh = server->sequence;
  ch->expiry.on_due = on_expiry;
  set_bounds(&ch->log, options);
  server->stats.channels++;
  return ch;
}

void es_channel_set(es_channel *ch, const es_channel_options *options) {
  bool longer = options->history_seconds > ch->options.history_seconds; /* others brought their own patience along */
  ch->options = *options;
  set_bounds(&ch->log, options);
  if (ch->live != NULL)
    set_bounds(ch->live, options);
  if (ch->server == NULL)
    return;
  es_subscription *s = ch->at;
  if (s != NULL && longer)
    do
      es_connection_be_patient(s->connection, options->history_seconds / 2);
    while ((s = s->next) != ch->at);
  es_fanout_pace(ch);
  es_loop_remove_deadline(ch->server->loop, &ch->expiry); /* it is set anew */
  es_channel_evict(ch);
}

es_channel *es_channel_ref(es_channel *ch) {
  ch->refs++;
  return ch;
}

void es_channel_unref(es_channel *ch) {
  ch->refs--;
  es_channel_rest(ch);
}

static void clear_live(es_channel *ch) {
  if (ch->live != NULL)
    es_log_clear(ch->live);
  free(ch->live);
  ch->live = NULL;
}

/* Lets the server forget it: what comes back under its name must not take its frames for never written. */
static void detach(es_channel *ch) {
  es_server *server = ch->server;
  if (ch->log.last > server->gone)
    server->gone = ch->log.last;
  if (ch->gives && ch->log.last > server->given_gone)
    server->given_gone = ch->log.last;
  es_fanout_remove(ch);
  es_loop_remove_deadline(server->loop, &ch->expiry);
  es_table_remove(&server->channels, &ch->node);
  server->stats.channels--;
  ch->server = NULL;
  ch->passing = false;
}

void es_channel_rest(es_channel *ch) {
  if (ch->at != NULL)
    return;
  clear_live(ch); /* nobody is there to whom it would be live */
  if (ch->server == NULL)
    es_log_clear(&ch->log);
  else
    es_channel_evict(ch); /* nobody is waited for any more */
  if (ch->refs > 0 || es_log_count(&ch->log) > 0)
    return;
  if (ch->server != NULL)
    detach(ch);
  es_log_clear(&ch->log);
  free(ch);
}

/* --- Expiry --- */

static void set_expiry(es_channel *ch) {
  es_loop *loop = ch->server->loop;
  uint64_t now = es_loop_now(loop), due = ES_NEVER;
  bool bursts = es_log_is_over(&ch->log) && now < ch->burst_until;
  if (ch->expiry.place != 0 && !bursts && es_log_count(&ch->log) > 0)
    return;
  if (es_log_count(&ch->log) > 0 && ch->log.max_age > 0) {
    uint64_t rest = ch->log.max_age / 8 < EXPIRY_REST_MS ? ch->log.max_age / 8 : EXPIRY_REST_MS;
    due = es_log_at(&ch->log, ch->log.first)->time + ch->log.max_age;
    if (due < now + rest + 1)
      due = now + rest + 1; /* many that grow old one by one are seen to together */
  }
  if (bursts && ch->burst_until < due)
    due = ch->burst_until;
  if (due == ES_NEVER)
    es_loop_remove_deadline(loop, &ch->expiry);
  else
    (void)es_loop_set_deadline(loop, &ch->expiry, due); /* without memory for it, the next publish evicts */
}

/* --- Bursts --- */

static void note_fresh(es_channel *ch, size_t bytes) {
  uint64_t now = es_loop_now(ch->server->loop);
  if (ch->turn != ch->server->loop->turns) {
    ch->turn = ch->server->loop->turns;
    ch->turn_start = ch->server->sequence - 1;
    ch->turn_count = ch->turn_bytes = 0;
  }
  ch->turn_count++;
  ch->turn_bytes += bytes;
  ch->fresh_count++;
  ch->fresh_bytes += bytes;
  if (2 * ch->fresh_count <= ch->options.history && 2 * ch->fresh_bytes <= ch->options.history_bytes)
    return;
  if (ch->behind == 0) {
    ch->burst_until = now + ES_BURST_MS;
  } else if (now >= ch->burst_until) {
    es_fanout_pass(ch); /* whoever has not taken the last one is judged before the next one counts */
    ch->burst_until = now + ES_BURST_MS;
  }
  ch->burst = ch->server->sequence;
}

void es_channel_judge(const es_channel *ch, uint64_t cursor, uint64_t *after, uint64_t *upto) {
  bool bursts = es_loop_now(ch->server->loop) < ch->burst_until;
  *after = bursts && ch->burst > cursor ? ch->burst : cursor;
  *upto = ch->fresh;
}

void es_channel_settle(es_channel *ch) {
  ch->settled = ch->server->loop->turns;
  ch->fresh = ch->server->sequence;
  ch->fresh_count = ch->fresh_bytes = 0;
}

void es_channel_settle_turn(es_channel *ch) {
  if (ch->turn != ch->server->loop->turns) {
    es_channel_settle(ch);
    return;
  }
  ch->settled = ch->turn;
  ch->fresh = ch->turn_start;
  ch->fresh_count = ch->turn_count;
  ch->fresh_bytes = ch->turn_bytes;
}

/* Whether readers that refused bytes still have time to take a burst. */
static bool keeps_burst(const es_channel *ch, uint64_t now) {
  size_t bytes = ch->log.bytes + (ch->live != NULL ? ch->live->bytes : 0);
  return ch->behind > 0 && now < ch->burst_until && bytes <= ch->log.max_bytes + ES_BURST_BYTES;
}

void es_channel_evict(es_channel *ch) {
  uint64_t now = es_loop_now(ch->server->loop);
  bool keeps = keeps_burst(ch, now);
  if (!keeps)
    es_log_evict(&ch->log, now, ch->offered);
  if (ch->live != NULL && !keeps) { /* what all readers have taken is of no use to anybody */
    ch->live->max_count = ch->behind == 0 && !ch->passing ? 0 : ch->options.history;
    es_log_evict(ch->live, now, ch->offered);
  }
  set_expiry(ch);
}

static void on_expiry(es_deadline *deadline) {
  es_channel *ch = (es_channel *)((char *)deadline - offsetof(es_channel, expiry));
  es_loop_remove_deadline(ch->server->loop, deadline);
  /* what was not offered to all is kept; and readers that refuse bytes may have become slow */
  if (ch->at != NULL && (ch->offered < ch->log.last || ch->behind > 0))
    es_fanout_add(ch);
  es_channel_evict(ch);
  es_channel_rest(ch);
}

/* --- Publishing --- */

static es_log *live_log(es_channel *ch) {
  if (ch->live != NULL)
    return ch->live;
  ch->live = calloc(1, sizeof *ch->live);
  if (ch->live != NULL)
    set_bounds(ch->live, &ch->options);
  return ch->live;
}

/* Appends what has its sequence, and tells the fan-out. */
static int append(es_channel *ch, es_log_entry *entry, es_id_kind kind, const es_exchange *except) {
  es_server *server = ch->server;
  bool heard = ch->at != NULL;
  es_log *log = kind == ES_ID_NONE ? live_log(ch) : &ch->log;
  if (log == NULL)
    return UV_ENOMEM;
  entry->given = kind == ES_ID_GIVEN;
  es_connection *spared = except != NULL ? except->connection : NULL;
  if (spared != NULL) /* also where it subscribes only later, and replays */
    entry->except = spared->serial;
  if (es_log_append(log, entry) != 0)
    return UV_ENOMEM;
  ch->gives |= kind == ES_ID_GIVEN;
  server->sequence = entry->sequence;
  server->stats.published++;
  ch->published++;
  if (spared != NULL) {
    es_subscription *s = es_subscription_of(spared, ch);
    spared->excepted = true;
    if (s != NULL)
      s->excepted = true;
  }
  if (!heard) {
    ch->offered = server->sequence;
    es_channel_settle(ch);
    es_channel_evict(ch);
    return 0;
  }
  size_t size = es_log_at(log, log->next - 1)->size;
  ch->waiting += size;
  note_fresh(ch, size);
  if (ch->waiting > server->limits.backlog_bytes) {
    es_fanout_pass(ch); /* a burst: nothing may be evicted that was not offered */
  } else {
    es_fanout_add(ch);
    es_channel_evict(ch);
  }
  return 0;
}

int es_channel_publish(es_channel *ch, es_event *event, es_id_kind kind, const es_exchange *except, char *text) {
  es_server *server = ch->server;
  if (server == NULL || server->closing)
    return UV_ECANCELED;
  if (kind == ES_ID_NONE && ch->at == NULL)
    return 0; /* it is for live readers only */
  es_log_entry entry = {.sequence = server->sequence + 1, .now = es_loop_now(server->loop)};
  if (kind == ES_ID_OWN)
    event->id = es_id_write(text, server->epoch, entry.sequence);
  entry.event = *event;
  return append(ch, &entry, kind, except);
}

int es_channel_deliver(es_channel *ch, const es_event *event, es_id_kind kind, const es_exchange *except,
                       uint64_t sequence, uint64_t age) {
  es_server *server = ch->server;
  if (server == NULL || sequence <= server->sequence)
    return UV_ECANCELED;
  if (kind == ES_ID_NONE && ch->at == NULL) {
    server->sequence = sequence;
    return 0;
  }
  uint64_t now = es_loop_now(server->loop);
  char text[ES_ID_TEXT];
  es_log_entry entry = {.event = *event, .sequence = sequence, .now = now > age ? now - age : 0};
  if (kind == ES_ID_OWN)
    entry.event.id = es_id_write(text, server->epoch, sequence);
  return append(ch, &entry, kind, except);
}

es_slice es_channel_id(const es_channel *ch, char *text) {
  return es_id_write(text, ch->epoch, ch->log.last);
}

es_event es_channel_gap(const es_channel *ch) {
  es_event event = ES_EVENT_INIT;
  event.event = (es_slice){"gap", 3};
  event.data = ch->node.key;
  return event;
}

void es_channel_join(es_channel *ch) {
  ch->epoch = ch->server->epoch;
  ch->log.gone = ch->log.last = ch->server->gone;
  ch->offered = ch->passed = ch->fresh = ch->server->sequence;
}

/* --- Closing --- */

void es_channel_close(es_channel *ch) {
  if (ch->server == NULL)
    return;
  es_channel_ref(ch);
  if (ch->at != NULL && !ch->server->closing)
    es_fanout_pass(ch); /* what is left then waits for full sockets only */
  detach(ch);
  /* those that stay are marked, so that the walk ends */
  ch->parity = !ch->parity;
  while (ch->at != NULL && ch->at->parity != ch->parity) {
    es_subscription *s = ch->at;
    s->parity = ch->parity;
    ch->at = s->next;
    es_subscription_close(s);
  }
  ch->subscribers = 0;
  es_channel_unref(ch);
}

void es_channels_free(es_server *server) {
  for (es_node *node; (node = es_table_any(&server->channels)) != NULL;) {
    es_channel *ch = (es_channel *)((char *)node - offsetof(es_channel, node));
    es_channel_ref(ch);
    es_log_clear(&ch->log);
    detach(ch);
    es_channel_unref(ch);
  }
  es_table_free(&server->channels);
  es_table_free(&server->ids);
}
