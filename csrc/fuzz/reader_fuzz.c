/* What a client reads, fed with any bytes: an event stream, and an answer with one inside. Whole and in pieces whose lengths
 * the input says, both must understand the same; and nothing may be kept beyond the limits. */
#include "core/reader.h"
#include "core/response.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_BYTES 300
#define HEADER_BYTES 200

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

typedef struct outcome {
  es_reader *reader;
  uint32_t hash;
  int end;
} outcome;

static void mix(outcome *o, es_slice text) {
  for (size_t i = 0; i < text.len; i++)
    o->hash = (o->hash ^ (uint8_t)text.ptr[i]) * 16777619u;
  o->hash = (o->hash ^ (uint32_t)text.len) * 16777619u;
}

static bool read_events(void *owner, const char *bytes, size_t size) {
  outcome *o = owner;
  for (;;) {
    size_t taken;
    es_read what = es_reader_feed(o->reader, bytes, size, &taken);
    if (taken > size)
      abort();
    bytes += taken;
    size -= taken;
    if (what == ES_READ_EVENT) {
      es_read_event e = es_reader_event(o->reader);
      if (e.data.len > 3 * EVENT_BYTES || e.type.len > 3 * EVENT_BYTES || e.id.len > 3 * EVENT_BYTES)
        abort();
      mix(o, e.type);
      mix(o, e.data);
      mix(o, e.id);
    } else if (what == ES_READ_RETRY) {
      o->hash = (o->hash ^ es_reader_retry(o->reader)) * 16777619u;
    } else {
      o->end = what;
      return what == ES_READ_MORE;
    }
  }
}

static bool read_head(void *owner, const es_response *r) {
  es_slice name, value;
  for (size_t i = 0; es_response_header(r, i, &name, &value); i++) {
    if (name.len + value.len > HEADER_BYTES)
      abort();
    mix(owner, name);
    mix(owner, value);
  }
  ((outcome *)owner)->hash ^= (uint32_t)es_response_status(r);
  return true;
}

static outcome run(bool answer, const uint8_t *input, size_t size, const uint8_t *cuts, size_t cut_count) {
  static const es_response_hooks hooks = {read_head, read_events};
  outcome o = {.reader = es_reader_new(EVENT_BYTES), .hash = 2166136261u};
  es_response *response = es_response_new(HEADER_BYTES, &hooks, &o);
  es_answer state = ES_ANSWER_MORE;
  bool goes_on = true;
  size_t at = 0;
  for (size_t i = 0; at < size && goes_on; i++) {
    size_t len = cut_count > 0 ? cuts[i % cut_count] % 31 + 1 : size - at;
    if (len > size - at)
      len = size - at;
    char *piece = malloc(len);
    memcpy(piece, input + at, len);
    if (answer) {
      state = es_response_feed(response, piece, len);
      goes_on = state == ES_ANSWER_MORE;
    } else {
      goes_on = read_events(&o, piece, len);
    }
    free(piece);
    at += len;
  }
  if (answer && goes_on)
    state = es_response_finish(response);
  mix(&o, es_reader_last_id(o.reader));
  o.end = o.end * 10 + (int)state;
  es_response_free(response);
  es_reader_free(o.reader);
  return o;
}

/* The first byte says what it is and how many of the next say where it is cut. */
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size < 1)
    return 0;
  size_t cut_count = input[0] % 16 + 1;
  bool answer = input[0] >= 128;
  if (size < 1 + cut_count)
    return 0;
  const uint8_t *cuts = input + 1, *rest = input + 1 + cut_count;
  size -= 1 + cut_count;
  outcome whole = run(answer, rest, size, NULL, 0), cut = run(answer, rest, size, cuts, cut_count);
  if (whole.hash != cut.hash || whole.end != cut.end)
    abort();
  return 0;
}
