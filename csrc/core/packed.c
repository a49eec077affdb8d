#include "core/packed.h"

#include <string.h>

/* retry, then each field: whether it is there with its length plus 1, or 0; and its bytes. */
#define FIELDS 4

static void fields_of(const es_event *event, es_slice *fields) {
  fields[0] = event->comment;
  fields[1] = event->id;
  fields[2] = event->event;
  fields[3] = event->data;
}

size_t es_packed_size(const es_event *event) {
  es_slice fields[FIELDS];
  size_t size = sizeof event->retry + FIELDS * sizeof(uint64_t);
  fields_of(event, fields);
  for (size_t i = 0; i < FIELDS; i++)
    size += fields[i].ptr != NULL ? fields[i].len : 0;
  return size;
}

char *es_packed_write(char *out, const es_event *event) {
  es_slice fields[FIELDS];
  fields_of(event, fields);
  memcpy(out, &event->retry, sizeof event->retry);
  out += sizeof event->retry;
  for (size_t i = 0; i < FIELDS; i++) {
    uint64_t head = fields[i].ptr != NULL ? (uint64_t)fields[i].len + 1 : 0;
    memcpy(out, &head, sizeof head);
    out += sizeof head;
    if (head > 1)
      memcpy(out, fields[i].ptr, fields[i].len);
    out += head > 1 ? fields[i].len : 0;
  }
  return out;
}

bool es_packed_read(es_slice bytes, es_event *event) {
  es_slice *fields[FIELDS] = {&event->comment, &event->id, &event->event, &event->data};
  const char *at = bytes.ptr, *end = bytes.ptr + bytes.len;
  *event = ES_EVENT_INIT;
  if (bytes.len < sizeof event->retry)
    return false;
  memcpy(&event->retry, at, sizeof event->retry);
  at += sizeof event->retry;
  for (size_t i = 0; i < FIELDS; i++) {
    uint64_t head;
    if ((size_t)(end - at) < sizeof head)
      return false;
    memcpy(&head, at, sizeof head);
    at += sizeof head;
    if (head == 0)
      continue;
    if (head - 1 > (uint64_t)(end - at))
      return false;
    *fields[i] = (es_slice){at, (size_t)(head - 1)};
    at += head - 1;
  }
  return at == end;
}
