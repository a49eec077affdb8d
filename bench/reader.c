#include "reader.h"

#include <string.h>

enum { HEAD, PLAIN, SIZE, EXTENSION, DATA, AFTER, TRAILER };

#define MISMATCH UINT8_MAX
#define CHUNK_LIMIT (1u << 30)

static const char encoding[] = "transfer-encoding:";
static const char data[] = "data";
#define ENCODING_LENGTH (sizeof encoding - 1)
#define DATA_LENGTH (sizeof data - 1)

void reader_init(reader *r) {
  memset(r, 0, sizeof *r);
  r->state = HEAD;
}

static char lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c = lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte of the head. The status is the three digits after "HTTP/1.x "; `left` counts the bytes up to there. */
static int feed_head(reader *r, char c) {
  if (r->left < 12) {
    if (r->left >= 9) {
      if (c < '0' || c > '9')
        return -1;
      r->status = (uint16_t)(r->status * 10 + (c - '0'));
    }
    r->left++;
    r->column = 1;
    return 0;
  }
  if (c == '\n') {
    if (r->column == 0) {
      r->state = r->chunked ? SIZE : PLAIN;
      r->left = 0;
    }
    r->column = r->matched = 0;
    return 0;
  }
  if (c == '\r')
    return 0;
  r->column = 1;
  if (r->matched == MISMATCH || r->matched == ENCODING_LENGTH)
    return 0;
  r->matched = lower(c) == encoding[r->matched] ? (uint8_t)(r->matched + 1) : MISMATCH;
  if (r->matched == ENCODING_LENGTH)
    r->chunked = 1;
  return 0;
}

/* Bytes of the body, out of their chunks. */
static void feed_body(reader *r, const char *p, const char *end) {
  r->opened = 1;
  while (p < end) {
    if (r->column == 0 && *p == '\n') {
      r->events += r->has_data;
      r->has_data = 0;
      p++;
      continue;
    }
    while (p < end && r->column <= DATA_LENGTH && *p != '\n') {
      if (r->column < DATA_LENGTH)
        r->matched = (uint8_t)(r->matched + (*p == data[r->column]));
      else if (r->matched == DATA_LENGTH && *p != ':')
        r->matched = 0;
      r->column++;
      p++;
    }
    if (p == end)
      return;
    if (*p != '\n') {
      p = memchr(p, '\n', (size_t)(end - p));
      if (p == NULL)
        return;
    }
    if (r->matched == DATA_LENGTH)
      r->has_data = 1;
    r->column = r->matched = 0;
    p++;
  }
}

int reader_feed(reader *r, const char *p, size_t length) {
  const char *end = p + length;
  while (p < end) {
    switch (r->state) {
    case HEAD:
      if (feed_head(r, *p++) != 0)
        return -1;
      break;
    case PLAIN:
      feed_body(r, p, end);
      return 0;
    case SIZE:
      if (*p == '\n') {
        r->state = r->left > 0 ? DATA : TRAILER;
        r->ended = r->left == 0;
      } else if (*p == ';') {
        r->state = EXTENSION;
      } else if (*p != '\r') {
        int value = digit(*p);
        if (value < 0)
          return -1;
        r->left = r->left * 16 + (uint64_t)value;
        if (r->left > CHUNK_LIMIT)
          return -1;
      }
      p++;
      break;
    case EXTENSION:
      if (*p == '\n')
        r->state = SIZE; /* the same byte closes the size */
      else
        p++;
      break;
    case DATA: {
      size_t some = (size_t)(end - p) < r->left ? (size_t)(end - p) : (size_t)r->left;
      feed_body(r, p, p + some);
      p += some;
      r->left -= some;
      if (r->left == 0)
        r->state = AFTER;
      break;
    }
    case AFTER:
      if (*p == '\n')
        r->state = SIZE;
      else if (*p != '\r')
        return -1;
      p++;
      break;
    default: /* TRAILER: nothing more is counted */
      return 0;
    }
  }
  return 0;
}
