/* frame: an event's bytes on the wire.
 *
 * Takes a checked es_event and writes it as one frame: comment lines, id, event, retry, data lines, blank line
 * (WHATWG HTML, 9.2.5 "Parsing an event stream", read backwards). Owns nothing: slices are borrowed for the call,
 * and the caller provides the room that the size functions ask for. No value can inject a field: whatever could end
 * a line is either split into lines of its own (data, comment) or refused (id, event). */
#ifndef ES_CORE_FRAME_H
#define ES_CORE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define ES_ID_MAX 128 /* bytes: a reconnect must be able to carry the id in a header */
#define ES_NO_RETRY (-1)

typedef struct es_slice {
  const char *ptr; /* NULL: the field is absent, which differs from empty */
  size_t len;
} es_slice;

typedef struct es_event {
  es_slice comment;
  es_slice id;
  es_slice event;
  es_slice data;
  int64_t retry; /* milliseconds, or ES_NO_RETRY */
} es_event;

typedef enum es_event_error {
  ES_EVENT_OK = 0,
  ES_EVENT_EMPTY = -1,      /* no field at all */
  ES_EVENT_NEEDS_DATA = -2, /* event without data: a reader would show nothing */
  ES_EVENT_BAD_NAME = -3,   /* CR or LF in event */
  ES_EVENT_BAD_ID = -4,     /* a control byte in id, or a space at its ends */
  ES_EVENT_LONG_ID = -5     /* id longer than ES_ID_MAX */
} es_event_error;

#define ES_EVENT_INIT                                                                                                  \
  (es_event) {                                                                                                         \
    .retry = ES_NO_RETRY                                                                                               \
  }

/* Whether the event may be written; one of es_event_error. */
es_event_error es_event_check(const es_event *event);

/* Bytes that es_frame_write will write for a checked event. */
size_t es_frame_size(const es_event *event);

/* Writes the frame; returns the byte after its last. */
char *es_frame_write(char *at, const es_event *event);

/* Bytes of HTTP/1.1 chunk framing around a payload of size bytes, size > 0 (RFC 9112, 7.1). */
size_t es_chunk_overhead(size_t size);

/* Writes the chunk's head (size and CRLF), and its tail (CRLF); each returns the byte after its last. */
char *es_chunk_head(char *at, size_t size);
char *es_chunk_tail(char *at);

/* Bytes of a checked event as one frame, in a chunk of its own if chunked; writes it, and returns the byte after its last. */
size_t es_chunk_size(const es_event *event, int chunked);
char *es_chunk_write(char *at, const es_event *event, int chunked);

#endif
