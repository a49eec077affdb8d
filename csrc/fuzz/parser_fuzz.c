/* The request parser fed with any bytes: whole, and in pieces whose lengths the input says. Both must understand the
 * same; nothing may be kept beyond the limits; and what is decoded from a request stays within its room. */
#include "core/parser.h"
#include "core/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 512
#define BODY_BYTES 256

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

typedef struct outcome {
  int requests, status;
  uint32_t hash;
} outcome;

static void mix(outcome *o, es_slice text) {
  for (size_t i = 0; i < text.len; i++)
    o->hash = (o->hash ^ (uint8_t)text.ptr[i]) * 16777619u;
  o->hash = (o->hash ^ (uint32_t)text.len) * 16777619u;
}

/* A path that is normalized names the same, and stays as it is. */
static void look_at_path(es_slice path) {
  char *out = malloc(path.len * 3 + 1), *again = malloc(path.len * 9 + 1), *a = malloc(path.len + 1),
       *b = malloc(path.len * 3 + 1);
  size_t len = es_path_normalize(path, out);
  if (len > 0) {
    size_t size = es_percent_decode(path, a, false, NULL);
    if (es_path_normalize((es_slice){out, len}, again) != len || memcmp(out, again, len) != 0 ||
        es_percent_decode((es_slice){out, len}, b, false, NULL) != size || memcmp(a, b, size) != 0)
      abort();
  }
  free(out);
  free(again);
  free(a);
  free(b);
}

static void look(outcome *o, const es_request *r) {
  size_t held = r->target.len;
  mix(o, r->method);
  mix(o, r->path);
  mix(o, r->query);
  mix(o, r->body);
  for (size_t i = 0; i < r->header_count; i++) {
    mix(o, r->headers[i].name);
    mix(o, r->headers[i].value);
    held += r->headers[i].name.len + r->headers[i].value.len;
  }
  if (held > HEADER_BYTES * 2 || r->body.len > BODY_BYTES || r->path.len == 0)
    abort();
  look_at_path(r->path);
  es_slice rest = r->query, name, value;
  while (es_next_pair(&rest, '&', false, &name, &value)) {
    char *out = malloc(value.len + 1);
    if (es_percent_decode(value, out, true, NULL) > value.len)
      abort();
    free(out);
  }
  const es_header *cookie = es_request_header(r, "cookie");
  for (rest = cookie != NULL ? cookie->value : (es_slice){NULL, 0}; es_next_pair(&rest, ';', true, &name, &value);)
    mix(o, name);
}

static outcome parse(const uint8_t *input, size_t size, const uint8_t *cuts, size_t cut_count) {
  outcome o = {.hash = 2166136261u};
  es_parser *parser = es_parser_new(HEADER_BYTES, BODY_BYTES, NULL);
  size_t at = 0;
  for (size_t i = 0; at < size && o.status == 0; i++) {
    size_t len = cut_count > 0 ? cuts[i % cut_count] % 31 + 1 : size - at;
    if (len > size - at)
      len = size - at;
    char *piece = malloc(len);
    memcpy(piece, input + at, len);
    size_t taken;
    es_parse result = es_parser_feed(parser, piece, len, &taken);
    free(piece);
    if (taken > len || (result != ES_PARSE_DONE && result != ES_PARSE_ERROR && taken != len))
      abort();
    if (result == ES_PARSE_ERROR) {
      o.status = es_parser_status(parser);
      if (o.status < 400 || o.status > 599)
        abort();
      break;
    }
    if (result == ES_PARSE_DONE) {
      es_request *r = es_parser_take(parser);
      look(&o, r);
      es_request_unref(r);
      o.requests++;
    }
    at += taken;
  }
  es_parser_free(parser);
  return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size < 4)
    return 0;
  outcome whole = parse(input + 4, size - 4, NULL, 0);
  outcome pieces = parse(input + 4, size - 4, input, 4);
  /* what surrounds a chunked body is measured against the body so far, and that depends on the pieces; a piece may also
   * meet the head's limit before the whole would have shown its error; all else must agree */
  bool limits = false;
  for (int i = 0; i < 2; i++) {
    int status = i == 0 ? whole.status : pieces.status;
    limits = limits || status == 413 || status == 414 || status == 431;
  }
  if (!limits && (whole.requests != pieces.requests || whole.status != pieces.status || whole.hash != pieces.hash))
    abort();
  return 0;
}
