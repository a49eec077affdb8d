#include "net/handover.h"

void es_handover_server(es_server *server, uint64_t epoch, uint64_t sequence, uint64_t gone, uint64_t given_gone) {
  es_server_join(server, epoch, sequence);
  server->gone = gone;
  server->given_gone = given_gone;
}

void es_handover_channel(es_channel *ch, uint64_t gone, uint64_t given_gone, bool gives) {
  ch->epoch = ch->server->epoch;
  ch->log.gone = ch->log.last = gone;
  ch->log.given_gone = given_gone;
  ch->gives = gives;
}

int es_handover_frame(es_channel *ch, const es_log_entry *entry) {
  return es_log_append(&ch->log, entry);
}

void es_handover_done(es_channel *ch) {
  ch->offered = ch->passed = ch->fresh = ch->server->sequence;
  es_channel_evict(ch);
}

void es_handover_epoch(es_server *server, uint64_t epoch) {
  server->epoch = epoch;
  for (es_node *node = NULL; (node = es_table_after(&server->channels, node)) != NULL;)
    ((es_channel *)((char *)node - offsetof(es_channel, node)))->epoch = epoch;
}

void es_handover_clear(es_channel *ch) {
  es_log_clear(&ch->log);
}

void es_handover_lose(es_channel *ch, uint64_t sequence) {
  es_log_clear(&ch->log);
  if (sequence > ch->log.gone)
    ch->log.gone = ch->log.given_gone = sequence;
  es_channel_tell_gap(ch);
}
