#include "log_model.h"

#define STEPS 1000000

static es_log_entry entry_of(uint64_t sequence, size_t size) {
  static char data[100000];
  es_log_entry entry = {.event = ES_EVENT_INIT, .sequence = sequence};
  entry.event.data = (es_slice){data, size};
  memset(data, 'x', sizeof data);
  return entry;
}

/* An empty log answers everything. */
static void empty(void) {
  es_log log = {0};
  CHECK(es_log_count(&log) == 0 && es_log_seek(&log, 0) == 0 && es_log_seek(&log, UINT64_MAX) == 0);
  es_log_evict(&log, 0, UINT64_MAX);
  es_log_clear(&log);
  CHECK(es_log_find(&(es_table){0}, (es_slice){"x", 1}) == 0);
}

/* Frames lie side by side: a long log is few stretches. */
static void lies_side_by_side(void) {
  es_log log = {.max_count = SIZE_MAX, .max_bytes = SIZE_MAX};
  for (uint64_t i = 1; i <= 10000; i++) {
    es_log_entry entry = entry_of(i, 100);
    CHECK(es_log_append(&log, &entry) == 0);
  }
  unsigned stretches = 0;
  size_t bytes = 0;
  for (uint64_t place = log.first; place < log.next; stretches++) {
    es_slice slice;
    place = es_log_stretch(&log, place, log.next, &slice);
    bytes += slice.len;
  }
  CHECK(bytes == log.bytes && stretches < 40);
  es_log_clear(&log);
}

/* What has become small gives its memory back, and a frame larger than any block is taken. */
static void gives_back(void) {
  size_t before = memory_live;
  es_log log = {.max_count = 1, .max_bytes = SIZE_MAX};
  for (uint64_t i = 1; i <= 1000; i++) {
    es_log_entry entry = entry_of(i, i % 100 == 0 ? 100000 : 10);
    CHECK(es_log_append(&log, &entry) == 0);
  }
  es_log_evict(&log, 0, 1000);
  CHECK(es_log_count(&log) == 1 && log.gone == 999);
  CHECK(memory_live <= before + 3); /* the ring, the frame's block, the block that is written to */
  es_log_evict(&log, 0, 0);
  CHECK(es_log_count(&log) == 1);
  log.max_count = 0;
  es_log_evict(&log, 0, 999); /* not offered: it stays */
  CHECK(es_log_count(&log) == 1);
  es_log_evict(&log, 0, 1000);
  CHECK(es_log_count(&log) == 0 && memory_live == before && log.last == 1000 && log.gone == 1000);
}

int main(void) {
  static log_model model;
  size_t before = memory_live;
  empty();
  lies_side_by_side();
  gives_back();
  log_model_init(&model, test_random);
  for (int step = 0; step < STEPS; step++)
    log_model_step(&model);
  log_model_free(&model);
  CHECK(memory_live == before);
  printf("log: %d checks passed\n", checks);
  return 0;
}
