#include "core/packed.h"

#include "check.h"

#include <stdlib.h>

static es_slice random_text(char *room, size_t size) {
  if (test_random(3) == 0)
    return (es_slice){NULL, 0};
  size_t len = test_random((unsigned)size);
  for (size_t i = 0; i < len; i++)
    room[i] = (char)test_random(256);
  return (es_slice){room, len};
}

static bool same(es_slice a, es_slice b) {
  if ((a.ptr == NULL) != (b.ptr == NULL))
    return false;
  return a.ptr == NULL || (a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0);
}

int main(void) {
  char texts[4][64];
  for (int round = 0; round < 20000; round++) {
    es_event event = ES_EVENT_INIT, back;
    event.comment = random_text(texts[0], sizeof texts[0]);
    event.id = random_text(texts[1], sizeof texts[1]);
    event.event = random_text(texts[2], sizeof texts[2]);
    event.data = random_text(texts[3], sizeof texts[3]);
    if (test_random(2) == 0)
      event.retry = (int64_t)test_random(100000);
    size_t size = es_packed_size(&event);
    char *bytes = malloc(size); /* exact: a byte read behind it is seen by the sanitizer */
    CHECK(es_packed_write(bytes, &event) == bytes + size);
    CHECK(es_packed_read((es_slice){bytes, size}, &back));
    CHECK(same(event.comment, back.comment) && same(event.id, back.id) && same(event.event, back.event) &&
          same(event.data, back.data) && event.retry == back.retry);
    for (size_t len = 0; len < size; len++) {
      char *cut = malloc(len > 0 ? len : 1);
      memcpy(cut, bytes, len);
      CHECK(!es_packed_read((es_slice){cut, len}, &back));
      free(cut);
    }
    bytes[test_random((unsigned)size)] ^=
        (char)(1 << test_random(8)); /* whatever it says then, nothing is read outside */
    (void)es_packed_read((es_slice){bytes, size}, &back);
    free(bytes);
  }
  return 0;
}
