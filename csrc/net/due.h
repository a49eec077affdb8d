/* due: what a connection has to send now, in order: the rest of a frame, its own bytes, and the frames between its
 * cursors and the heads of their channels.
 *
 * Own bytes lie in the connection's queue; marks.h tells what they wait for. Frames are never copied: what the kernel takes of a
 * frame and not of the next moves the cursor, and the rest of that frame keeps its block. */
#ifndef ES_NET_DUE_H
#define ES_NET_DUE_H

#include "net/marks.h"

#include <sys/uio.h>

#define ES_DUE_SLICES 64

/* The rest of a frame of which the kernel took a part. */
typedef struct es_rest {
  es_log_block *block; /* one reference */
  uint32_t offset, size;
} es_rest;

typedef struct es_due_piece {
  es_subscription *subscription;
  const es_log *log;
  uint64_t place, end;
  size_t bytes;
} es_due_piece;

typedef struct es_due {
  const struct iovec *slices;
  size_t count, bytes;
  /* private */
  size_t own, pieces;
  struct iovec room[ES_DUE_SLICES];
  es_due_piece piece[ES_DUE_SLICES];
} es_due;

/* Gathers what is due next; due->bytes is 0 when nothing is. May end the connection, where frames are gone that it should
 * have got. */
void es_due_gather(struct es_connection *connection, es_due *due);

/* The kernel took so many bytes of it. */
void es_due_sent(struct es_connection *connection, const es_due *due, size_t bytes);

/* Whether anything may be due. */
bool es_due_any(const struct es_connection *connection);

/* Whether frames wait for a subscription that is no longer pending. */
bool es_due_behind(const es_subscription *subscription);

/* Sets a cursor ahead. */
void es_due_skip(es_subscription *subscription, uint64_t sequence);

/* Frees marks and rest. */
void es_due_clear(struct es_connection *connection);

#endif
