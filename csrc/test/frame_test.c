#include "core/frame.h"
#include "core/queue.h"

#include "check.h"

static es_slice text(const char *s) {
  return (es_slice){s, strlen(s)};
}

static void writes(es_event event, const char *wanted) {
  char bytes[512];
  CHECK(es_event_check(&event) == ES_EVENT_OK);
  size_t size = es_frame_size(&event);
  CHECK(size == strlen(wanted));
  CHECK((size_t)(es_frame_write(bytes, &event) - bytes) == size);
  CHECK(memcmp(bytes, wanted, size) == 0);
}

static void refuses(es_event event, es_event_error error) {
  CHECK(es_event_check(&event) == error);
}

/* The size function and the writer must agree for any bytes, and no line may start with what the event did not say. */
static void agrees_on_any_bytes(void) {
  static const char alphabet[] = "\r\n\r\n: aid\0\xff";
  for (int round = 0; round < 20000; round++) {
    char data[64];
    size_t len = test_random(sizeof data);
    for (size_t i = 0; i < len; i++)
      data[i] = alphabet[test_random(sizeof alphabet - 1)];
    es_event event = ES_EVENT_INIT;
    event.data = (es_slice){data, len};
    event.comment = (es_slice){data, len / 2};
    char *bytes = malloc(es_frame_size(&event)); /* just large enough: a byte more is seen by the sanitizer */
    size_t size = (size_t)(es_frame_write(bytes, &event) - bytes);
    CHECK(size == es_frame_size(&event));
    CHECK(bytes[size - 1] == '\n' && bytes[size - 2] == '\n');
    for (size_t i = 0; i < size; i++) {
      CHECK(bytes[i] != '\r');
      if ((i == 0 || bytes[i - 1] == '\n') && i < size - 1)
        CHECK(memcmp(bytes + i, "data: ", 6) == 0 || memcmp(bytes + i, ": ", 2) == 0);
    }
    free(bytes);
  }
}

static void frames_chunks(void) {
  static const size_t sizes[] = {1, 15, 16, 255, 256, 65535, 1048576};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char head[32], wanted[32];
    size_t len = (size_t)(es_chunk_head(head, sizes[i]) - head);
    int n = snprintf(wanted, sizeof wanted, "%zx\r\n", sizes[i]);
    CHECK(len == (size_t)n && memcmp(head, wanted, len) == 0);
    CHECK(es_chunk_overhead(sizes[i]) == len + 2);
  }
}

/* A queue gives back, in order and in any portions, what was put in. */
static void queues(void) {
  es_pool pool = {0};
  es_queue queue = {.pool = &pool};
  unsigned char next_in = 0, next_out = 0;
  size_t held = 0;
  for (int round = 0; round < 50000; round++) {
    char bytes[3000];
    size_t size = test_random(test_random(4) == 0 ? sizeof bytes : 40);
    for (size_t i = 0; i < size; i++)
      bytes[i] = (char)next_in++;
    CHECK(es_queue_append(&queue, bytes, size) == 0);
    held += size;
    CHECK(es_queue_bytes(&queue) == held);
    es_slice slices[4];
    size_t count = es_queue_gather(&queue, slices, 4), take = held > 0 ? test_random((unsigned)held + 1) : 0,
           dropped = 0;
    for (size_t i = 0; i < count && dropped < take; i++) {
      for (size_t k = 0; k < slices[i].len && dropped < take; k++, dropped++)
        CHECK((unsigned char)slices[i].ptr[k] == next_out++);
    }
    es_queue_drop(&queue, dropped);
    held -= dropped;
  }
  es_queue_clear(&queue);
  CHECK(es_queue_bytes(&queue) == 0);
  es_pool_clear(&pool);
}

static void queues_events(void) {
  es_event event = {.data = text("x"), .retry = ES_NO_RETRY};
  es_queue queue = {0};
  es_slice slice;
  CHECK(es_queue_event(&queue, &event, 1) == 0);
  CHECK(es_queue_event(&queue, &event, 0) == 0);
  CHECK(es_queue_frame(&queue, text("data: y\n\n"), 1) == 0);
  CHECK(es_queue_gather(&queue, &slice, 1) == 1);
  static const char wanted[] = "9\r\ndata: x\n\n\r\ndata: x\n\n9\r\ndata: y\n\n\r\n";
  CHECK(slice.len == sizeof wanted - 1 && memcmp(slice.ptr, wanted, slice.len) == 0);
  es_queue_clear(&queue);
}

int main(void) {
  writes((es_event){.data = text("hello"), .retry = ES_NO_RETRY}, "data: hello\n\n");
  writes((es_event){.comment = text("c"), .id = text("7"), .event = text("e"), .retry = 1500, .data = text("x")},
         ": c\nid: 7\nevent: e\nretry: 1500\ndata: x\n\n");
  writes((es_event){.data = text("a\r\nb\rc\nd"), .retry = ES_NO_RETRY}, "data: a\ndata: b\ndata: c\ndata: d\n\n");
  writes((es_event){.data = text("a\n\rb"), .retry = ES_NO_RETRY}, "data: a\ndata: \ndata: b\n\n");
  writes((es_event){.data = text("a\n"), .retry = ES_NO_RETRY}, "data: a\ndata: \n\n");
  writes((es_event){.data = text(""), .retry = ES_NO_RETRY}, "data: \n\n");
  writes((es_event){.id = text(""), .retry = ES_NO_RETRY}, "id: \n\n");
  writes((es_event){.retry = 0}, "retry: 0\n\n");
  refuses(ES_EVENT_INIT, ES_EVENT_EMPTY);
  refuses((es_event){.event = text("x"), .retry = ES_NO_RETRY}, ES_EVENT_NEEDS_DATA);
  refuses((es_event){.event = text("a\nb"), .data = text("x"), .retry = ES_NO_RETRY}, ES_EVENT_BAD_NAME);
  refuses((es_event){.event = text("a\rb"), .data = text("x"), .retry = ES_NO_RETRY}, ES_EVENT_BAD_NAME);
  refuses((es_event){.id = text("1\n2"), .retry = ES_NO_RETRY}, ES_EVENT_BAD_ID);
  refuses((es_event){.id = {"a\0b", 3}, .retry = ES_NO_RETRY}, ES_EVENT_BAD_ID);
  refuses((es_event){.id = text(" 1"), .retry = ES_NO_RETRY}, ES_EVENT_BAD_ID);
  refuses((es_event){.id = text("1 "), .retry = ES_NO_RETRY}, ES_EVENT_BAD_ID);
  agrees_on_any_bytes();
  frames_chunks();
  queues();
  queues_events();
  printf("frame: %d checks passed\n", checks);
  return 0;
}
