/* replies: the replies of a connection, built by hiredis' reader in an arena: one allocation for many of their parts, of
 * which an XREAD has ten for each event. */
#ifndef ES_REDIS_REPLIES_H
#define ES_REDIS_REPLIES_H

#include <hiredis.h>

typedef struct es_replies {
  struct es_replies_block *blocks; /* the newest first */
  redisReplyObjectFunctions functions;
} es_replies;

/* Has a reader's replies built here, which must outlive it. One reply is there at a time: freeing it frees all. */
void es_replies_attach(es_replies *replies, redisReader *reader);

void es_replies_free(es_replies *replies);

#endif
