#include "core/reader.h"

#include "check.h"
#include "memory.h"

/* What a reader tells, as one text: "type|data|id" for each event, "retry=N" for each time, "!" for an end. */
typedef struct told {
  char text[4096];
  size_t len;
} told;

static void put(told *t, const char *bytes, size_t len) {
  CHECK(len < sizeof t->text - t->len);
  if (len > 0)
    memcpy(t->text + t->len, bytes, len);
  t->len += len;
}

static void feed(es_reader *r, const char *bytes, size_t size, told *t) {
  for (;;) {
    size_t taken;
    es_read what = es_reader_feed(r, bytes, size, &taken);
    CHECK(taken <= size);
    bytes += taken;
    size -= taken;
    if (what == ES_READ_EVENT) {
      es_read_event e = es_reader_event(r);
      put(t, e.type.ptr, e.type.len);
      put(t, "|", 1);
      put(t, e.data.ptr, e.data.len);
      put(t, "|", 1);
      put(t, e.id.ptr, e.id.len);
      put(t, ";", 1);
    } else if (what == ES_READ_RETRY) {
      char number[32];
      int number_len = snprintf(number, sizeof number, "retry=%u;", es_reader_retry(r));
      put(t, number, (size_t)number_len);
    } else if (what == ES_READ_MORE) {
      CHECK(size == 0);
      return;
    } else {
      put(t, what == ES_READ_LARGE ? "!" : "?", 1);
      return;
    }
  }
}

#define BYTES(literal) literal, sizeof(literal) - 1

/* The same however it is cut: in two at each byte, and into single bytes, each in memory of its own. */
static void reads_bytes(const char *bytes, size_t size, const char *wanted, size_t wanted_len) {
  for (size_t cut = 0; cut <= size + 1; cut++) {
    es_reader *r = es_reader_new(1000);
    told t = {.len = 0};
    size_t step = cut > size ? 1 : cut;
    for (size_t at = 0; at < size;) {
      size_t len = cut > size ? 1 : at == 0 && step > 0 ? step : size - at;
      char *piece = malloc(len);
      memcpy(piece, bytes + at, len);
      feed(r, piece, len, &t);
      free(piece);
      at += len;
    }
    if (t.len != wanted_len || memcmp(t.text, wanted, t.len) != 0)
      fprintf(stderr, "cut at %zu: %.*s\n", cut, (int)t.len, t.text);
    CHECK(t.len == wanted_len && memcmp(t.text, wanted, t.len) == 0);
    es_reader_free(r);
  }
}

static void reads(const char *text, const char *wanted) {
  reads_bytes(text, strlen(text), wanted, strlen(wanted));
}

static void tells_times(void) {
  reads("retry: 10\n", "retry=10;");
  reads("retry:0\r\rretry:007\r\n", "retry=0;retry=7;");
  reads("retry: 99999999999999999999999\n", "retry=2147483647;");
  reads("retry: 2147483648\nretry: 4294967297\n", "retry=2147483647;retry=2147483647;");
  reads("retry\nretry:\nretry: \nretry:  1\nretry: 1 \nretry: +1\nretry: 1x1\nretry: -1\nretry:1.5\n", "");
  reads("data: a\nretry: 5\n\n", "retry=5;message|a|;");
}

static void keeps_ids(void) {
  reads("id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", "message|a|1;message|b|1;message|c|;");
  reads("id: 1\nid: 2\n\ndata: a\n\n", "message|a|2;");
  reads_bytes(BYTES("id: 1\nid: a\0b\ndata: c\n\n"), BYTES("message|c|1;"));
  reads_bytes(BYTES("id: \0\ndata: c\n\n"), BYTES("message|c|;"));
  reads("id: 1\n\nid: 2\ndata: a", "");
  es_reader *r = es_reader_new(100);
  told t = {.len = 0};
  CHECK(es_reader_set_last_id(r, (es_slice){"x", 1}) == 0);
  feed(r, BYTES("data: a\n\nid: y\ndata"), &t);
  CHECK(es_reader_last_id(r).len == 1 && es_reader_last_id(r).ptr[0] == 'x'); /* y is of an event that is not over */
  es_reader_reset(r);
  feed(r,
       BYTES("\xEF\xBB\xBF"
             "data: b\n\nid: z\n\n"),
       &t); /* the mark may stand at each connection's start */
  CHECK(es_reader_last_id(r).len == 1 && es_reader_last_id(r).ptr[0] == 'z');
  CHECK(t.len == 24 && memcmp(t.text, "message|a|x;message|b|x;", 24) == 0);
  es_reader_free(r);
}

static void repairs(void) {
  reads("data: \xF0\x9F\x98\x80\n\n", "message|\xF0\x9F\x98\x80|;");
  reads("data: \xF0\x9F\x98\n\n", "message|\xEF\xBF\xBD|;");
  reads("data: \xF0\x9F\nid: \xFF\nevent: \xC0\x80\n\n", "\xEF\xBF\xBD\xEF\xBF\xBD|\xEF\xBF\xBD|\xEF\xBF\xBD;");
  reads("data: \xF4\x90\x80\x80\n\n", "message|\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD|;");
  reads("data: \xE0\x9F\x80\xE2\x82\xAC\n\n", "message|\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xE2\x82\xAC|;");
}

static void is_bounded(void) {
  es_reader *r = es_reader_new(10);
  told t = {.len = 0};
  feed(r, BYTES("data: 0123456789\n\n"), &t); /* as much as it may be */
  for (int i = 0; i < 1000; i++) {
    feed(r, BYTES(": a comment of any length "), &t);
    feed(r, i % 100 == 99 ? "\n" : "unknown: ", i % 100 == 99 ? 1 : 9, &t);
  }
  feed(r, BYTES("\ndata: a\nevent: b\ndata: c\n\n"), &t);
  CHECK(t.len == 27 && memcmp(t.text, "message|0123456789|;b|a\nc|;", 27) == 0);
  feed(r, BYTES("data: 01234\ndata: 56789\n\n"), &t);
  feed(r, BYTES("data: x\n\n"), &t); /* it does not come back by itself */
  CHECK(t.text[t.len - 2] == '!' && t.text[t.len - 1] == '!');
  es_reader_reset(r);
  t.len = 0;
  feed(r, BYTES("event: 56789\ndata: 012345\n\n"), &t);
  es_reader_reset(r);
  feed(r, BYTES("id: 0123456789a\n"), &t);
  CHECK(t.len == 2 && t.text[1] == '!');
  es_reader_free(r);
}

/* Whichever allocation fails, it is told, nothing is lost track of, and a new connection begins anew. */
static void survives_a_lack_of_memory(void) {
  static const char stream[] = "id: 1\xFF\nevent: some type\xFF\ndata: \xFF one\ndata: two\n\n";
  size_t before = memory_live;
  bool failed = true;
  for (size_t n = 1; failed; n++) {
    es_reader *r = es_reader_new(1000);
    told t = {.len = 0};
    memory_fails_next = n;
    feed(r, stream, sizeof stream - 1, &t);
    failed = memory_fails_next == 0;
    memory_fails_next = 0;
    CHECK(!failed || t.text[t.len - 1] == '?');
    es_reader_reset(r);
    t.len = 0;
    feed(r, BYTES("data: x\n\n"), &t);
    CHECK(memcmp(t.text, "message|x|", 10) == 0);
    es_reader_free(r);
    CHECK(memory_live == before);
    CHECK(n < 100);
#ifdef __APPLE__
    break;
#endif
  }
}

int main(void) {
  reads("", "");
  reads("data: a\n\n", "message|a|;");
  reads("data:a\r\n\r\ndata:b\r\rdata:c\n\r\n", "message|a|;message|b|;message|c|;");
  reads("\r\n\n\rdata\n\ndata:\ndata:\n\n", "message||;message|\n|;");
  reads("event: a\n\ndata: b\n\n", "message|b|;");
  reads("event: a\nevent\ndata: b\n\n", "message|b|;");
  reads("data:  a \nevents: x\nevent:e\n:data: c\ndat: d\n data: e\ndata : f\n\n", "e| a |;");
  reads("\xEF\xBB\xBF"
        "data: a\n\n",
        "message|a|;");
  reads("\xEF\xBB"
        "data: a\ndata: b\n\n",
        "message|b|;");
  reads("\xEF\xBB\xBF\xEF\xBB\xBF"
        "data: a\ndata: b\n\n",
        "message|b|;");
  reads("\xEF\n\ndata: b\n\n", "message|b|;");
  reads_bytes(BYTES("data\0: a\ndata: \0\n\n"), BYTES("message|\0|;"));
  tells_times();
  keeps_ids();
  repairs();
  is_bounded();
  survives_a_lack_of_memory();
  printf("reader: %d checks passed\n", checks);
  return 0;
}
