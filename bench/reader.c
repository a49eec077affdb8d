#include "reader.h"

#include <string.h>

enum { HEAD, PLAIN, SIZE, EXTENSION, DATA, AFTER, TRAILER };

#define MISMATCH UINT8_MAX
#define CHUNK_LIMIT (1u << 30)

static const char encoding[] = "transfer-encoding:";
#define ENCODING_LENGTH (sizeof encoding - 1)

/* Where the values of `data` lines go. */
typedef struct sink {
  reader_on_data *on_data;
  void *context;
} sink;

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
    r->in_line = 1;
    return 0;
  }
  if (c == '\n') {
    if (!r->in_line) {
      r->state = r->chunked ? SIZE : PLAIN;
      r->left = 0;
    }
    r->in_line = r->matched = 0;
    return 0;
  }
  if (c == '\r')
    return 0;
  r->in_line = 1;
  if (r->matched == MISMATCH || r->matched == ENCODING_LENGTH)
    return 0;
  r->matched = lower(c) == encoding[r->matched] ? (uint8_t)(r->matched + 1) : MISMATCH;
  if (r->matched == ENCODING_LENGTH)
    r->chunked = 1;
  return 0;
}

/* A line without its LF; of one that was cut, the first bytes. */
static void take_line(reader *r, const char *line, size_t length, const sink *to) {
  if (length == 0) {
    r->events += r->has_data;
    r->has_data = 0;
    return;
  }
  if (length < 4 || memcmp(line, "data", 4) != 0 || (length > 4 && line[4] != ':'))
    return;
  r->has_data = 1;
  if (to->on_data == NULL)
    return;
  size_t start = length > 5 && line[5] == ' ' ? 6 : length > 4 ? 5 : 4;
  to->on_data(r, to->context, line + start, length - start);
}

static void keep(reader *r, const char *p, size_t length) {
  size_t room = READER_KEPT - r->kept;
  size_t some = length < room ? length : room;
  memcpy(r->line + r->kept, p, some);
  r->kept = (uint8_t)(r->kept + some);
}

/* Bytes of the body, out of their chunks. */
static void feed_body(reader *r, const char *p, const char *end, const sink *to) {
  r->opened = 1;
  while (p < end) {
    const char *line_end = memchr(p, '\n', (size_t)(end - p));
    if (line_end == NULL) {
      keep(r, p, (size_t)(end - p));
      return;
    }
    if (r->kept == 0) {
      take_line(r, p, (size_t)(line_end - p), to);
    } else {
      keep(r, p, (size_t)(line_end - p));
      take_line(r, r->line, r->kept, to);
      r->kept = 0;
    }
    p = line_end + 1;
  }
}

int reader_feed(reader *r, const char *p, size_t length, reader_on_data *on_data, void *context) {
  const sink to = {on_data, context};
  const char *end = p + length;
  while (p < end) {
    switch (r->state) {
    case HEAD:
      if (feed_head(r, *p++) != 0)
        return -1;
      break;
    case PLAIN:
      feed_body(r, p, end, &to);
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
      feed_body(r, p, p + some, &to);
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
