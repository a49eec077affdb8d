/*
 * reader: counts the events of one HTTP response, fed in any cut.
 *
 * Understands the status line, chunked and plain bodies, and the line grammar of an event stream as far as counting
 * needs it: an event is a blank line after at least one `data` line. Lines end at LF, which is what every peer here
 * writes. Keeps no bytes, allocates nothing.
 */
#ifndef BENCH_READER_H
#define BENCH_READER_H

#include <stddef.h>
#include <stdint.h>

typedef struct reader {
  /* read-only */
  uint64_t events; /* complete events so far */
  uint16_t status; /* of the status line; 0 until it is there */
  uint8_t opened;  /* the head and a first byte of the body have been seen */
  uint8_t ended;   /* the last chunk has been seen */
  /* private */
  uint8_t state;
  uint8_t chunked;
  uint8_t column;  /* bytes of the current line, as far as they matter */
  uint8_t matched; /* bytes of the current line that agree with the name looked for */
  uint8_t has_data;
  uint64_t left; /* bytes of the current chunk still to come */
} reader;

/* Makes a zeroed reader ready; it needs no release. */
void reader_init(reader *r);

/* Takes `length` bytes as they came. 0, or -1 where they are not HTTP. */
int reader_feed(reader *r, const char *bytes, size_t length);

#endif
