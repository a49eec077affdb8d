#include "core/frame.h"

#include <string.h>

/* Walks the lines of a text that end at LF, CRLF or CR. The next LF and the next CR are remembered, so that a text of
 * many CRs and no LF is still read once and not once a line. */
typedef struct lines {
  const char *at, *end;
  const char *lf, *cr; /* next of each at or after `at`; `end` where there is none */
} lines;

static const char *seek(const char *from, const char *end, char c) {
  const char *found = from < end ? memchr(from, c, (size_t)(end - from)) : NULL;
  return found != NULL ? found : end;
}

static lines lines_of(es_slice text) {
  lines l = {.at = text.ptr, .end = text.ptr + text.len};
  l.lf = seek(l.at, l.end, '\n');
  l.cr = seek(l.at, l.end, '\r');
  return l;
}

/* Gives the next line; 0 when the text is over. A text has one line more than it has line ends. */
static int next_line(lines *l, es_slice *line) {
  if (l->at == NULL)
    return 0;
  const char *stop = l->lf < l->cr ? l->lf : l->cr;
  line->ptr = l->at;
  line->len = (size_t)(stop - l->at);
  if (stop == l->end) {
    l->at = NULL;
    return 1;
  }
  int crlf = *stop == '\r' && stop + 1 < l->end && stop[1] == '\n';
  l->at = stop + 1 + crlf;
  if (l->lf < l->at)
    l->lf = seek(l->at, l->end, '\n');
  if (l->cr < l->at)
    l->cr = seek(l->at, l->end, '\r');
  return 1;
}

static int has_control(es_slice text) {
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.ptr[i];
    if (c < 0x20 || c == 0x7F)
      return 1;
  }
  return 0;
}

es_event_error es_event_check(const es_event *event) {
  es_slice id = event->id, name = event->event;
  if (id.ptr != NULL) {
    if (id.len > ES_ID_MAX)
      return ES_EVENT_LONG_ID;
    if (has_control(id))
      return ES_EVENT_BAD_ID;
    if (id.len > 0 && (id.ptr[0] == ' ' || id.ptr[id.len - 1] == ' '))
      return ES_EVENT_BAD_ID;
  }
  if (name.ptr != NULL) {
    if (seek(name.ptr, name.ptr + name.len, '\n') != name.ptr + name.len ||
        seek(name.ptr, name.ptr + name.len, '\r') != name.ptr + name.len)
      return ES_EVENT_BAD_NAME;
    if (event->data.ptr == NULL)
      return ES_EVENT_NEEDS_DATA;
  }
  if (event->comment.ptr == NULL && id.ptr == NULL && event->data.ptr == NULL && event->retry == ES_NO_RETRY)
    return ES_EVENT_EMPTY;
  return ES_EVENT_OK;
}

static size_t decimal_size(uint64_t n) {
  size_t size = 1;
  for (; n >= 10; n /= 10)
    size++;
  return size;
}

static size_t lines_size(size_t name, es_slice text) {
  size_t size = 0;
  es_slice line;
  if (text.ptr == NULL)
    return 0;
  for (lines l = lines_of(text); next_line(&l, &line);)
    size += name + 2 + line.len + 1;
  return size;
}

size_t es_frame_size(const es_event *event) {
  size_t size = lines_size(0, event->comment) + lines_size(4, event->data) + 1;
  if (event->id.ptr != NULL)
    size += 4 + event->id.len + 1;
  if (event->event.ptr != NULL)
    size += 7 + event->event.len + 1;
  if (event->retry != ES_NO_RETRY)
    size += 7 + decimal_size((uint64_t)event->retry) + 1;
  return size;
}

static char *put(char *at, const char *bytes, size_t len) {
  if (len > 0)
    memcpy(at, bytes, len);
  return at + len;
}

static char *put_field(char *at, const char *name, size_t name_len, es_slice value) {
  at = put(at, name, name_len);
  at = put(at, ": ", 2);
  at = put(at, value.ptr, value.len);
  *at++ = '\n';
  return at;
}

static char *put_lines(char *at, const char *name, size_t name_len, es_slice text) {
  es_slice line;
  if (text.ptr == NULL)
    return at;
  for (lines l = lines_of(text); next_line(&l, &line);)
    at = put_field(at, name, name_len, line);
  return at;
}

static char *put_decimal(char *at, uint64_t n) {
  char *end = at + decimal_size(n);
  for (char *p = end; p > at; n /= 10)
    *--p = (char)('0' + n % 10);
  return end;
}

char *es_frame_write(char *at, const es_event *event) {
  at = put_lines(at, "", 0, event->comment);
  if (event->id.ptr != NULL)
    at = put_field(at, "id", 2, event->id);
  if (event->event.ptr != NULL)
    at = put_field(at, "event", 5, event->event);
  if (event->retry != ES_NO_RETRY) {
    at = put(at, "retry: ", 7);
    at = put_decimal(at, (uint64_t)event->retry);
    *at++ = '\n';
  }
  at = put_lines(at, "data", 4, event->data);
  *at++ = '\n';
  return at;
}

static size_t hex_size(size_t n) {
  size_t size = 1;
  for (; n >= 16; n /= 16)
    size++;
  return size;
}

size_t es_chunk_overhead(size_t size) {
  return hex_size(size) + 4;
}

char *es_chunk_head(char *at, size_t size) {
  char *end = at + hex_size(size);
  for (char *p = end; p > at; size /= 16)
    *--p = "0123456789abcdef"[size % 16];
  return put(end, "\r\n", 2);
}

char *es_chunk_tail(char *at) {
  return put(at, "\r\n", 2);
}

size_t es_chunk_size(const es_event *event, int chunked) {
  size_t size = es_frame_size(event);
  return size + (chunked ? es_chunk_overhead(size) : 0);
}

char *es_chunk_write(char *at, const es_event *event, int chunked) {
  if (!chunked)
    return es_frame_write(at, event);
  at = es_chunk_head(at, es_frame_size(event));
  at = es_frame_write(at, event);
  return es_chunk_tail(at);
}
