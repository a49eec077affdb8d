/* group: the subscriptions of one stream that are made in one callback.
 *
 * Nothing of them is written until that has returned. Then come, behind what was sent before the last of them was made:
 * the gap events, one block with the group's lowest position as its id, and the merged frames. */
#ifndef ES_NET_GROUP_H
#define ES_NET_GROUP_H

#include "net/marks.h"

/* The one that is being made; the connection's, until it is settled. */
typedef struct es_group {
  uint64_t low;          /* the lowest cursor */
  uint64_t sequence;     /* when its first was made */
  es_subscription *last; /* of the connection's list */
  es_mark *mark;         /* where it begins, if anything was sent since; it has no block yet */
  uint16_t number;
} es_group;

/* The group that is being made, or a new one; NULL when memory is out. */
es_group *es_group_of(struct es_connection *connection);

/* Links a subscription, whose cursor is set, into its connection and the group. */
void es_group_join(es_group *group, es_subscription *subscription);

/* Whether the group that it belongs to is still being made. */
bool es_group_has(const es_subscription *subscription);

/* The sequence above which nothing is due while one is being made; UINT64_MAX when none is. */
uint64_t es_group_limit(const struct es_connection *connection);

/* Bytes are about to be sent behind it: gives it its mark. 0, or -1 when memory is out. */
int es_group_mark(struct es_connection *connection);

/* The callback has returned: writes what precedes the frames. Where memory is out, the connection is cut. */
void es_group_settle(struct es_connection *connection);

/* The connection is closed. */
void es_group_drop(struct es_connection *connection);

#endif
