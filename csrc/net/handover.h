/* handover: an app's sequence and histories, from one process to its successor, so that clients resume across a restart.
 *
 * What is read is the channels' logs as they stand (core/log.h); here is what they are made of again. All of it before the
 * first client comes and before anything is published. */
#ifndef ES_NET_HANDOVER_H
#define ES_NET_HANDOVER_H

#include "net/server.h"

/* The counters of es_server. */
void es_handover_server(es_server *server, uint64_t epoch, uint64_t sequence, uint64_t gone, uint64_t given_gone);

/* A channel's, which has nothing yet: what is in its log no more; and whether it was ever given ids. */
void es_handover_channel(es_channel *channel, uint64_t gone, uint64_t given_gone, bool gives);

/* The next frame of its log. 0, or -1 when memory is out. */
int es_handover_frame(es_channel *channel, const es_log_entry *entry);

/* That was all. */
void es_handover_done(es_channel *channel);

/* For a backplane whose histories are elsewhere. Ids are of another epoch from now on, positions stay. */
void es_handover_epoch(es_server *server, uint64_t epoch);

/* A part of a channel's history is missing, up to a sequence: what was before it is dropped, and its subscribers, and those who
 * come back for it, are told of a gap. */
void es_handover_lose(es_channel *channel, uint64_t sequence);

/* Drops a channel's history, which is no longer kept up to date: for es_handover_channel, when it is again. Nobody is
 * subscribed. */
void es_handover_clear(es_channel *channel);

#endif
