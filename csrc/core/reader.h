/* reader: makes events from the bytes of an event stream, in any cut (WHATWG HTML, 9.2.6).
 *
 * The opposite of frame. What is no UTF-8 becomes U+FFFD, as the standard's decoder has it. What an unfinished event may
 * hold is bounded by event_bytes; lines that mean nothing, however long, are not kept. It knows no socket. */
#ifndef ES_CORE_READER_H
#define ES_CORE_READER_H

#include "core/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ES_RETRY_MAX 2147483647 /* milliseconds; what is more becomes this */

typedef enum es_read {
  ES_READ_MORE,  /* all bytes are taken */
  ES_READ_EVENT, /* es_reader_event has an event; the bytes behind it were not taken */
  ES_READ_RETRY, /* es_reader_retry has a new reconnection time; the bytes behind it were not taken */
  ES_READ_LARGE, /* an event is larger than event_bytes; all that follows is, until es_reader_reset */
  ES_READ_MEMORY /* memory is out; the same */
} es_read;

/* Borrowed from the reader, until it is fed again. */
typedef struct es_read_event {
  es_slice type; /* "message" where the stream gives none */
  es_slice data;
  es_slice id; /* the last event id, of this event or an earlier one; may be empty */
} es_read_event;

typedef struct es_reader es_reader;

/* NULL when memory is out. */
es_reader *es_reader_new(size_t event_bytes);
void es_reader_free(es_reader *reader); /* NULL is allowed */

/* Takes bytes; *taken tells how many. To be called again with the rest until it says ES_READ_MORE. */
es_read es_reader_feed(es_reader *reader, const char *bytes, size_t size, size_t *taken);

es_read_event es_reader_event(const es_reader *reader);
uint32_t es_reader_retry(const es_reader *reader);

/* The last event id: what a reconnect sends. It moves where events end, also with those that have no data. */
es_slice es_reader_last_id(const es_reader *reader);

/* Sets it: the id to begin with. 0, or -1 when memory is out. */
int es_reader_set_last_id(es_reader *reader, es_slice id);

/* A new connection: the unfinished event is dropped, the last event id stays. */
void es_reader_reset(es_reader *reader);

#endif
