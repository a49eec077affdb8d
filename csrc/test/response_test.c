#include "core/response.h"

#include "check.h"
#include "memory.h"

/* What a response tells: "status name=value; [body]", and how it ended. */
typedef struct told {
  char text[4096];
  size_t len;
  bool refuse;
} told;

static void put(told *t, const char *bytes, size_t len) {
  CHECK(len < sizeof t->text - t->len);
  memcpy(t->text + t->len, bytes, len);
  t->len += len;
}

static bool on_head(void *owner, const es_response *r) {
  told *t = owner;
  char status[16];
  es_slice name, value;
  int status_len = snprintf(status, sizeof status, "%d ", es_response_status(r));
  put(t, status, (size_t)status_len);
  for (size_t i = 0; es_response_header(r, i, &name, &value); i++) {
    put(t, name.ptr, name.len);
    put(t, "=", 1);
    put(t, value.ptr, value.len);
    put(t, ";", 1);
  }
  put(t, "[", 1);
  return !t->refuse;
}

static bool on_body(void *owner, const char *bytes, size_t size) {
  put(owner, bytes, size);
  return true;
}

static const es_response_hooks hooks = {on_head, on_body};

/* The same however it is cut: in two at each byte, and byte by byte. ends: the connection is closed behind it. */
static void answers(const char *bytes, bool ends, const char *wanted) {
  size_t size = strlen(bytes);
  for (size_t cut = 0; cut <= size + 1; cut++) {
    told t = {.len = 0};
    es_response *r = es_response_new(200, &hooks, &t);
    es_answer answer = ES_ANSWER_MORE;
    for (size_t at = 0; at < size && answer == ES_ANSWER_MORE;) {
      size_t len = cut > size ? 1 : at == 0 && cut > 0 ? cut : size - at;
      char *piece = malloc(len);
      memcpy(piece, bytes + at, len);
      answer = es_response_feed(r, piece, len);
      free(piece);
      at += len;
    }
    if (ends && answer == ES_ANSWER_MORE)
      answer = es_response_finish(r);
    put(&t, answer == ES_ANSWER_MORE ? "+" : answer == ES_ANSWER_DONE ? "." : answer == ES_ANSWER_STOP ? "#" : "!", 1);
    if (answer == ES_ANSWER_ERROR)
      put(&t, es_response_reason(r), strlen(es_response_reason(r)));
    if (t.len != strlen(wanted) || memcmp(t.text, wanted, t.len) != 0)
      fprintf(stderr, "cut at %zu: %.*s\n", cut, (int)t.len, t.text);
    CHECK(t.len == strlen(wanted) && memcmp(t.text, wanted, t.len) == 0);
    es_response_free(r);
  }
}

static void survives_a_lack_of_memory(void) {
  static const char text[] = "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\nContent-Length: 1\r\n\r\nx";
  size_t before = memory_live;
  for (size_t n = 1; n < 50; n++) {
    told t = {.len = 0};
    memory_fails_next = n;
    es_response *r = es_response_new(200, &hooks, &t);
    es_answer answer = r != NULL ? es_response_feed(r, text, sizeof text - 1) : ES_ANSWER_ERROR;
    bool failed = memory_fails_next == 0;
    memory_fails_next = 0;
    CHECK(answer == (failed ? ES_ANSWER_ERROR : ES_ANSWER_DONE));
    if (r != NULL && failed)
      CHECK(strcmp(es_response_reason(r), "out of memory") == 0);
    es_response_free(r);
    CHECK(memory_live == before);
    if (!failed)
      return;
  }
  CHECK(false);
}

int main(void) {
  answers("HTTP/1.1 200 OK\r\nA: b\r\nEmpty:\r\nContent-Length: 3\r\n\r\nabc", false,
          "200 A=b;Empty=;Content-Length=3;[abc.");
  answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nT: u\r\n\r\nmore", false,
          "200 Transfer-Encoding=chunked;[abc.");
  answers("HTTP/1.1 200 OK\r\n\r\nabc", false, "200 [abc+");
  answers("HTTP/1.1 200 OK\r\n\r\nabc", true, "200 [abc.");
  answers("HTTP/1.0 404 \r\nA: b\r\n\r\n", true, "404 A=b;[.");
  answers("HTTP/1.1 204 No\r\nA: b\r\n\r\n", false, "204 A=b;[.");
  answers("HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 103 Early\r\nL: x\r\n\r\nHTTP/1.1 200 OK\r\nC: "
          "d\r\nContent-Length: 0\r\n\r\n",
          false, "200 C=d;Content-Length=0;[.");
  static const char *cut = "the connection was cut within the answer",
                    *none = "the connection was closed before an answer",
                    *bad = "the answer is not HTTP/1.1 as it should be";
  char wanted[200];
  snprintf(wanted, sizeof wanted, "200 Content-Length=3;[ab!%s", cut);
  answers("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", true, wanted);
  snprintf(wanted, sizeof wanted, "200 Transfer-Encoding=chunked;[ab!%s", cut);
  answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", true, wanted);
  snprintf(wanted, sizeof wanted, "!%s", none);
  answers("HTTP/1.1 200 OK\r\nA: b", true, wanted);
  answers("", true, wanted);
  snprintf(wanted, sizeof wanted, "!%s", bad);
  answers("SSH-2.0-OpenSSH_9\r\n", false, wanted);
  answers("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", false, wanted);
  answers("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false,
          "!the server has changed the protocol, unasked");

  char large[400] = "HTTP/1.1 200 OK\r\nA: ";
  memset(large + strlen(large), 'x', 300);
  answers(large, false, "!the answer's headers are too large");

  told t = {.refuse = true};
  es_response *r = es_response_new(200, &hooks, &t);
  CHECK(es_response_feed(r, "HTTP/1.1 200 OK\r\n\r\nabc", 22) == ES_ANSWER_STOP);
  CHECK(t.len == 5 && memcmp(t.text, "200 [", 5) == 0); /* no body behind that */
  es_response_free(r);
  survives_a_lack_of_memory();
  printf("response: %d checks passed\n", checks);
  return 0;
}
