/*
 * reader: counts the events of one HTTP response, fed in any cut.
 *
 * Understands the status line, chunked and plain bodies, and the line grammar of an event stream as far as counting
 * needs it: an event is a blank line after at least one `data` line. Lines end at LF, which is what every peer here
 * writes. Keeps the first bytes of a line that a read has cut, and nothing else; allocates nothing.
 */
#ifndef BENCH_READER_H
#define BENCH_READER_H

#include <stddef.h>
#include <stdint.h>

#define READER_KEPT 48 /* bytes of a line that survive a cut */

typedef struct reader {
  /* read-only */
  uint64_t events; /* complete events so far */
  uint16_t status; /* of the status line; 0 until it is there */
  uint8_t opened;  /* the head and a first byte of the body have been seen */
  uint8_t ended;   /* the last chunk has been seen */
  /* private */
  uint8_t state;
  uint8_t chunked;
  uint8_t in_line; /* of the head: bytes of the current line have been seen */
  uint8_t matched; /* of the head: bytes of the current line that agree with the name looked for */
  uint8_t has_data;
  uint8_t kept;  /* bytes in `line` */
  uint64_t left; /* bytes of the current chunk still to come */
  char line[READER_KEPT];
} reader;

/* A `data` line's value; at least its first READER_KEPT - 6 bytes, of a longer one perhaps no more. */
typedef void reader_on_data(reader *r, void *context, const char *value, size_t length);

/* Makes a zeroed reader ready; it needs no release. */
void reader_init(reader *r);

/* Takes `length` bytes as they came; `on_data` may be NULL. 0, or -1 where they are not HTTP. */
int reader_feed(reader *r, const char *bytes, size_t length, reader_on_data *on_data, void *context);

#endif
