/* hosted: a connection whose socket is another server's: nginx's, say.
 *
 * Its holder, in the layer above, passes the request in, takes what is due as bytes, and says when the client has gone.
 * All else is as with a socket of our own: queue, cursors, marks, heartbeats, slow readers. What would be handed to the
 * kernel is offered to the holder instead: the connection is put on the loop's list, and the holder comes for it between
 * two turns. Until it has come, nothing is evicted that it was offered, up to ES_BURST_BYTES. While it is away with
 * bytes, connection->full says so: the holder clears it when the socket has taken them all, or comes for more.
 *
 * Belongs to its holder, who frees it; its server closes it, as any other. */
#ifndef ES_NET_HOSTED_H
#define ES_NET_HOSTED_H

#include "net/connection.h"

/* What a holder is called for. */
enum {
  ES_CALL_BYTES = 1, /* something may be due */
  ES_CALL_NEWS = 2,  /* the exchange, or one of its subscriptions, or the connection is over */
  ES_CALL_ROOM = 4   /* the backlog has room again */
};

/* NULL when memory is out. */
es_connection *es_hosted_new(struct es_server *server, const es_peer *peer, void *holder);

/* Closes it if need be; the client counts as gone then. */
void es_hosted_free(es_connection *connection);

/* Puts it on the list. */
void es_hosted_call(es_connection *connection, unsigned what);

/* Takes the first off the list and tells what its holder is called for; NULL when there is none. */
es_connection *es_hosted_next(es_loop *loop, unsigned *what);

/* What is due now, for the holder, who says by es_hosted_took how much it takes, and is told whether it has to come
 * again unasked. due->bytes is 0 when nothing is. May close the connection. */
void es_hosted_take(es_connection *connection, es_due *due);
bool es_hosted_took(es_connection *connection, const es_due *due, size_t bytes);

/* Watches the host's socket: once the client has left, though bytes that it sent lie unread before that, the connection
 * is closed, within ES_LOOK_MS. 0, or a negative errno. Ends with the connection. */
#define ES_LOOK_MS 50
int es_hosted_watch(es_connection *connection, int fd);

/* Looks at those that are watched, where it is time; milliseconds until it is again, or -1: none is. */
int es_hosted_look(es_loop *loop);

/* For connection.c: offers what is due to the holder; the connection is closed. */
void es_hosted_offer(es_connection *connection);
void es_hosted_closed(es_connection *connection);

/* For loop.c, which goes away. */
void es_hosted_forget(es_loop *loop);

#endif
