/* The encoder against any bytes: the input's first bytes say which fields there are and how long each is. Whatever is
 * not refused must be read back, by the simplest reader of the standard's rules, as one event with those values. */
#include "core/frame.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const char *input_at;
static size_t input_left;

static size_t number(void) {
  if (input_left == 0)
    return 0;
  input_left--;
  return (uint8_t)*input_at++;
}

static es_slice field(int present) {
  size_t len = number();
  if (!present)
    return (es_slice){NULL, 0};
  if (len > input_left)
    len = input_left;
  es_slice slice = {input_at, len};
  input_at += len;
  input_left -= len;
  return slice;
}

/* Compares a text, its line ends made LF, with the values of the lines that start with a prefix. */
static void compare(const char *bytes, const char *end, const char *prefix, es_slice text) {
  size_t prefix_len = strlen(prefix), at = 0;
  int lines = 0;
  while (bytes < end) {
    const char *stop = memchr(bytes, '\n', (size_t)(end - bytes));
    if (stop == NULL)
      abort();
    if ((size_t)(stop - bytes) >= prefix_len && memcmp(bytes, prefix, prefix_len) == 0) {
      if (lines++ > 0) { /* the text must have a line end here */
        if (at >= text.len || (text.ptr[at] != '\n' && text.ptr[at] != '\r'))
          abort();
        at += text.ptr[at] == '\r' && at + 1 < text.len && text.ptr[at + 1] == '\n' ? 2 : 1;
      }
      size_t len = (size_t)(stop - bytes) - prefix_len;
      if (len > text.len - at || memcmp(bytes + prefix_len, text.ptr + at, len) != 0)
        abort();
      at += len;
    }
    bytes = stop + 1;
  }
  if (at != text.len || (lines > 0) != (text.ptr != NULL))
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  input_at = (const char *)input;
  input_left = size;
  size_t which = number();
  es_event event = ES_EVENT_INIT;
  event.comment = field(which & 1);
  event.id = field(which & 2);
  event.event = field(which & 4);
  event.data = field(which & 8);
  if (which & 16)
    event.retry = (int64_t)(number() * 256 + number());
  if (es_event_check(&event) != ES_EVENT_OK)
    return 0;
  size_t want = es_frame_size(&event);
  char *bytes = malloc(want);
  char *end = es_frame_write(bytes, &event);
  if (end != bytes + want || end[-1] != '\n' || memchr(bytes, '\r', want) != NULL)
    abort();
  for (const char *p = bytes; p + 1 < end; p++) { /* one event: no blank line but the last */
    if (p[0] == '\n' && p[1] == '\n' && p + 2 != end)
      abort();
  }
  compare(bytes, end - 1, ": ", event.comment);
  compare(bytes, end - 1, "id: ", event.id);
  compare(bytes, end - 1, "event: ", event.event);
  compare(bytes, end - 1, "data: ", event.data);
  free(bytes);
  return 0;
}
