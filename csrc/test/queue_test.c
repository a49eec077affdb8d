#include "core/queue.h"

#include "check.h"

#include <unistd.h>

#define FILE_SIZE 200000

/* A file whose bytes tell where they are; nobody else has its name. */
static int file_of(size_t size) {
  char name[] = "/tmp/eventstream-queue-XXXXXX";
  int fd = mkstemp(name);
  CHECK(fd >= 0 && unlink(name) == 0);
  for (size_t i = 0; i < size; i++) {
    char byte = (char)('a' + i % 23);
    CHECK(write(fd, &byte, 1) == 1);
  }
  return fd;
}

/* Takes all there is in pieces of random sizes, and compares. */
static void takes(es_queue *queue, const char *wanted, size_t size) {
  size_t at = 0;
  CHECK(es_queue_bytes(queue) == size);
  while (es_queue_bytes(queue) > 0) {
    es_slice slices[4];
    size_t count = es_queue_gather(queue, slices, 1 + test_random(4)), there = 0;
    CHECK(count > 0);
    for (size_t i = 0; i < count; i++) {
      CHECK(at + there + slices[i].len <= size && memcmp(wanted + at + there, slices[i].ptr, slices[i].len) == 0);
      there += slices[i].len;
    }
    size_t taken = test_random(3) == 0 ? there : test_random((unsigned)there + 1);
    es_queue_drop(queue, taken);
    at += taken;
    CHECK(es_queue_bytes(queue) == size - at);
  }
  CHECK(at == size && queue->first == NULL);
}

static void mixed(es_pool *pool) {
  es_queue queue = {.pool = pool};
  size_t offset = test_random(FILE_SIZE), size = test_random((unsigned)(FILE_SIZE - offset)) + 1;
  static char wanted[2 * FILE_SIZE];
  size_t at = 0;
  for (unsigned part = 0, parts = test_random(4) + 1; part < parts; part++) {
    size_t len = test_random(600);
    memset(wanted + at, 'A' + (int)part, len);
    CHECK(es_queue_append(&queue, wanted + at, len) == 0);
    at += len;
    if (part != 1)
      continue;
    for (size_t i = 0; i < size; i++)
      wanted[at + i] = (char)('a' + (offset + i) % 23);
    CHECK(es_queue_file(&queue, file_of(FILE_SIZE), (int64_t)offset, size) == 0);
    at += size;
  }
  if (test_random(4) > 0)
    takes(&queue, wanted, at);
  else
    es_queue_drop(&queue, test_random(2) == 0 || at == 0 ? 0 : test_random(at < 600 ? (unsigned)at : 1));
  es_queue_clear(&queue);
  CHECK(pool == NULL || pool->budget.used == 0);
}

int main(void) {
  es_pool pool = {.budget = {.limit = 1000000}};
  for (int i = 0; i < 40; i++)
    mixed(i % 2 == 0 ? &pool : NULL);

  es_queue queue = {.pool = &pool};
  es_slice slice;
  int fd = file_of(10);
  CHECK(es_queue_file(&queue, fd, 0, 0) == 0 && es_queue_bytes(&queue) == 0); /* nothing of it: closed at once */
  CHECK(read(fd, &(char){0}, 1) < 0);
  CHECK(es_queue_file(&queue, file_of(10), 4, 20) == 0); /* it has become shorter */
  CHECK(pool.budget.used == 20);
  CHECK(es_queue_gather(&queue, &slice, 1) == 1 && slice.len == 6);
  es_queue_drop(&queue, 6);
  CHECK(es_queue_bytes(&queue) == 14 && es_queue_gather(&queue, &slice, 1) == 0);
  es_queue_clear(&queue);
  CHECK(es_queue_file(&queue, -1, 0, 5) == 0 && es_queue_gather(&queue, &slice, 1) == 0); /* cannot be read */
  es_queue_clear(&queue);
  CHECK(pool.budget.used == 0);
  es_pool_clear(&pool);
  printf("queue: %d checks passed\n", checks);
  return 0;
}
