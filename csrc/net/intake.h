/* intake: a connection's bytes become requests, and requests exchanges; what is no request is refused. */
#ifndef ES_NET_INTAKE_H
#define ES_NET_INTAKE_H

#include "net/connection.h"

/* Takes bytes that were read while a request was awaited. A whole request begins an exchange; what stands behind it is
 * held until that is answered. */
void es_intake_take(es_connection *connection, const char *bytes, size_t size);

/* The server is full, or closes: a request whose head is there is told so, and its body is not awaited. */
void es_intake_turn_away(es_connection *connection);

/* Answers with an error and closes. */
void es_intake_refuse(es_connection *connection, int status, const char *reason);

/* Goes on, when the callback has returned, with what was held; or drops it. */
void es_intake_post_held(es_connection *connection);
void es_intake_drop_held(es_connection *connection);

#endif
