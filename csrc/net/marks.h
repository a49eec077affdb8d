/* marks: what a connection's own bytes wait for.
 *
 * Where its bytes must not overtake frames, or frames not them, a mark tells at which sequence they were sent. The
 * marks are a ring in the order of their sequences; bytes of the queue that are before the first mark's wait for
 * nothing. There is none as long as nothing waits, which is nearly always. */
#ifndef ES_NET_MARKS_H
#define ES_NET_MARKS_H

#include "net/subscription.h"

/* Something that waits for all frames up to a sequence. */
typedef struct es_mark {
  struct es_mark *next; /* a ring: the last one's is the first */
  uint64_t sequence;
  size_t bytes;        /* of the connection's queue */
  es_log_block *block; /* or a chunk of its own */
  es_channel *gap;     /* which tells that channel's gap (borrowed: only compared) */
  uint16_t group;      /* or opens a group: its subscriptions go on behind it */
  bool opens, ends;    /* or is the last: after it the connection has no subscriptions */
} es_mark;

/* Says, before bytes are appended to the queue, that they follow all that was published; and after, how many they are.
 * 0, or -1 when memory is out. */
int es_marks_begin(struct es_connection *connection);
void es_marks_commit(struct es_connection *connection, size_t bytes);

/* The queue's bytes that wait; the memory that the marks take. */
size_t es_marks_bytes(const struct es_connection *connection);
size_t es_marks_cost(const struct es_connection *connection);

/* The channel's gap, if one waits to be told, is told no more. */
void es_marks_drop_gap(struct es_connection *connection, const es_channel *channel);

/* A mark behind all others, or before them; NULL when memory is out. */
es_mark *es_mark_new(struct es_connection *connection, uint64_t sequence);
es_mark *es_mark_new_first(struct es_connection *connection);

/* Moves a mark behind all others; takes it out. */
void es_mark_postpone(struct es_connection *connection, es_mark *mark);
void es_mark_free(struct es_connection *connection, es_mark *mark);

/* The first, or NULL. */
es_mark *es_mark_first(const struct es_connection *connection);

/* All that the first waited for is sent: what it stands for is due now. */
void es_mark_pass(struct es_connection *connection);

#endif
