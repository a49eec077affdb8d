#include "net/slow.h"

#include "net/connection.h"
#include "net/due.h"
#include "net/server.h"

/* Whether the frames above one sequence, up to another, are more than half of what the log may hold. */
static bool is_much(const es_log *log, uint64_t after, uint64_t upto, const es_channel *ch, uint64_t now) {
  const es_channel_options *options = &ch->options;
  uint64_t place = es_log_seek(log, after), end = es_log_seek(log, upto);
  size_t bytes = 0;
  if (place >= end)
    return false;
  if (2 * (end - place) > options->history)
    return true;
  const es_log_frame *oldest = es_log_at(log, place);
  bool offered = oldest->sequence <= ch->passed; /* by a pass before this one: else it is not the reader that is late */
  if (options->history_seconds > 0 && offered && (double)(now - oldest->time) > options->history_seconds * 500)
    return true;
  while (place < end) {
    es_slice stretch;
    place = es_log_stretch(log, place, end, &stretch);
    bytes += stretch.len;
  }
  return 2 * bytes > options->history_bytes;
}

/* It finishes the frame under way, is told of the gap, and goes on at the newest frame. */
static void skip(es_subscription *s) {
  es_connection *c = s->connection;
  es_channel *ch = s->channel;
  if (!s->gap) {
    es_event event = es_channel_gap(ch);
    size_t size = es_chunk_size(&event, c->chunked);
    es_mark *mark = es_mark_new_first(c);
    es_log_block *block = mark != NULL ? es_log_block_new(size) : NULL;
    if (block == NULL) {
      es_connection_close(c, ES_END_ERROR);
      return;
    }
    es_chunk_write(block->bytes, &event, c->chunked);
    block->used = (uint32_t)size;
    mark->block = block;
    mark->gap = ch;
    s->gap = true;
    c->server->stats.gaps++;
    c->server->stats.skipped++;
  }
  uint64_t newest = ch->live != NULL && ch->live->last > ch->log.last ? ch->live->last : ch->log.last;
  uint64_t before = newest - 1 > ch->log.gone ? newest - 1 : ch->log.gone; /* it is behind, so there is a newest */
  if (before > s->cursor)
    es_due_skip(s, before);
  s->catches = false;
}

void es_slow_overrun(es_subscription *s) {
  es_connection *c = s->connection;
  if (s->channel->options.skip && !s->ended) {
    skip(s);
    return;
  }
  es_connection_close(c, ES_END_SLOW);
}

void es_slow_check(es_subscription *s) {
  const es_channel *ch = s->channel;
  if (s->pending || s->ended)
    return;
  if (s->cursor < ch->log.gone) {
    es_slow_overrun(s);
    return;
  }
  uint64_t now = es_loop_now(s->connection->server->loop), after, upto;
  es_channel_judge(ch, s->cursor, &after, &upto);
  bool far = is_much(&ch->log, after, upto, ch, now) || (ch->live != NULL && is_much(ch->live, after, upto, ch, now));
  if (!far)
    s->catches = false;
  else if (!s->catches)
    es_slow_overrun(s);
}
