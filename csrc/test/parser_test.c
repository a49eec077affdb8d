#include "core/parser.h"
#include "core/text.h"

#include "check.h"

static int same(es_slice slice, const char *wanted) {
  return slice.len == strlen(wanted) && memcmp(slice.ptr, wanted, slice.len) == 0;
}

/* Feeds a text in two pieces, cut at `cut`, each flush against the end of its memory, so that the sanitizer sees a read
 * beyond it. */
static es_parse feed(es_parser *parser, const char *bytes, size_t size, size_t cut, size_t *taken) {
  es_parse result = ES_PARSE_MORE;
  *taken = 0;
  for (int piece = 0; piece < 2; piece++) {
    size_t from = piece == 0 ? 0 : cut, len = piece == 0 ? cut : size - cut, n;
    if (len == 0)
      continue;
    char *copy = malloc(len);
    memcpy(copy, bytes + from, len);
    result = es_parser_feed(parser, copy, len, &n);
    free(copy);
    *taken += n;
    if (result == ES_PARSE_DONE || result == ES_PARSE_ERROR)
      return result;
  }
  return result;
}

static void reads_in_any_cut(void) {
  static const char text[] = "POST /a%20b/c?x=1&y=2 HTTP/1.1\r\nHost: h\r\nX-Two:  one \t\r\nX-TWO: two\r\n"
                             "Content-Length: 5\r\n\r\nhello";
  static const char next[] = "GET / HTTP/1.1\r\n";
  char both[sizeof text + sizeof next];
  snprintf(both, sizeof both, "%s%s", text, next);
  for (size_t cut = 0; cut <= strlen(both); cut++) {
    es_parser *parser = es_parser_new(1024, 1024, NULL);
    size_t taken;
    CHECK(feed(parser, both, strlen(both), cut, &taken) == ES_PARSE_DONE);
    CHECK(taken == strlen(text)); /* what follows is the next request's */
    es_request *r = es_parser_take(parser);
    CHECK(same(r->method, "POST") && same(r->target, "/a%20b/c?x=1&y=2"));
    CHECK(same(r->path, "/a%20b/c") && same(r->query, "x=1&y=2") && same(r->body, "hello"));
    CHECK(r->header_count == 4 && same(es_request_header(r, "x-two")->value, "one"));
    CHECK(same(r->headers[2].name, "x-two") && same(r->headers[2].value, "two"));
    CHECK(es_request_header(r, "x") == NULL && r->minor == 1 && r->keep_alive && !r->head);
    CHECK(!es_parser_begun(parser));
    es_parser_free(parser);
    es_request_unref(r); /* lives longer than its parser */
  }
}

static int status_of(const char *text, size_t header_bytes, size_t body_bytes) {
  int status = -1;
  for (size_t cut = 0; cut <= strlen(text); cut++) {
    es_parser *parser = es_parser_new(header_bytes, body_bytes, NULL);
    size_t taken;
    es_parse result = feed(parser, text, strlen(text), cut, &taken);
    int now = result == ES_PARSE_ERROR ? es_parser_status(parser) : result == ES_PARSE_DONE ? 200 : 0;
    CHECK(status == -1 || status == now); /* the cut makes no difference */
    status = now;
    CHECK(strlen(es_parser_reason(parser)) > 0);
    es_parser_free(parser);
  }
  return status;
}

static void refuses(void) {
  CHECK(status_of("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 512, 16) == 200);
  CHECK(status_of("GET / HTTP/1.0\r\n\r\n", 512, 16) == 200);
  CHECK(status_of("GET / HTTP/1.1\r\n\r\n", 512, 16) == 400);
  CHECK(status_of("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 512, 16) == 400);
  CHECK(status_of("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 512, 16) == 505);
  CHECK(status_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 512, 16) == 505);
  CHECK(status_of("POST / HTTP/1.0\r\n\r\n", 512, 16) == 411);
  CHECK(status_of("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 17\r\n\r\n", 512, 16) == 413);
  CHECK(
      status_of("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n12345678901234567\r\n0\r\n\r\n",
                512, 16) == 413);
  CHECK(status_of("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", 512,
                  16) == 200);
  CHECK(status_of("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", 512, 16) == 400);
  CHECK(status_of("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 512,
                  16) == 400);
  CHECK(status_of("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 512, 16) == 400);
  CHECK(status_of("GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", 512, 16) == 400);
  CHECK(status_of("\x16\x03\x01\x02\x00\x01\x00\x01", 512, 16) == 400); /* TLS at a plain port */
}

/* However long a peer goes on, what is kept stays within the limits, and it is told. */
static void bounds_what_is_unfinished(void) {
  static const char *const starts[] = {"GET /", "GET / HTTP/1.1\r\nHost: h\r\nX: ", "GET / HTTP/1.1\r\nHost: h\r\nX"};
  static const int statuses[] = {414, 431, 431};
  for (size_t i = 0; i < 3; i++) {
    es_parser *parser = es_parser_new(512, 16, NULL);
    size_t taken, sent = 0;
    es_parse result = es_parser_feed(parser, starts[i], strlen(starts[i]), &taken);
    while (result == ES_PARSE_MORE && sent < 100000) {
      result = es_parser_feed(parser, "aaaaaaaa", 8, &taken);
      sent += 8;
    }
    CHECK(result == ES_PARSE_ERROR && sent <= 520 && es_parser_status(parser) == statuses[i]);
    CHECK(es_parser_feed(parser, "a", 1, &taken) == ES_PARSE_ERROR); /* and stays so */
    es_parser_free(parser);
  }
}

static void splits_targets(void) {
  static const struct {
    const char *target, *path, *query;
  } cases[] = {{"/", "/", NULL},        {"/a?", "/a", ""},        {"/a?b?c", "/a", "b?c"},
               {"http://h", "/", NULL}, {"http://h?x", "/", "x"}, {"http://h:1/a/b?x", "/a/b", "x"},
               {"*", "*", NULL}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[128];
    size_t taken;
    es_parser *parser = es_parser_new(512, 16, NULL);
    snprintf(text, sizeof text, "OPTIONS %s HTTP/1.1\r\nHost: h\r\n\r\n", cases[i].target);
    CHECK(es_parser_feed(parser, text, strlen(text), &taken) == ES_PARSE_DONE);
    es_request *r = es_parser_take(parser);
    CHECK(same(r->path, cases[i].path));
    CHECK(cases[i].query == NULL ? r->query.ptr == NULL : same(r->query, cases[i].query));
    es_request_unref(r);
    es_parser_free(parser);
  }
}

static void asks_to_continue(void) {
  static const char text[] = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  es_parser *parser = es_parser_new(512, 16, NULL);
  size_t taken;
  CHECK(es_parser_feed(parser, text, strlen(text), &taken) == ES_PARSE_CONTINUE);
  CHECK(es_parser_feed(parser, "ab", 2, &taken) == ES_PARSE_DONE);
  es_parser_free(parser); /* with the request still inside */
}

static void normalizes(void) {
  static const char *const cases[][2] = {{"/", "/"},
                                         {"/a/b", "/a/b"},
                                         {"/%6detrics", "/metrics"},
                                         {"/%6Det%72ics", "/metrics"},
                                         {"/a%2fb", "/a%2Fb"},
                                         {"/a%20b", "/a%20b"},
                                         {"/a\"b", "/a%22b"},
                                         {"/%c3%bc/\xc3\xbc", "/%C3%BC/%C3%BC"},
                                         {"/%25%36d", "/%256d"},
                                         {"/%00", "/%00"},
                                         {"/%3a%40%21;%2b", "/:@!;+"},
                                         {"*", "*"},
                                         {"/%", ""},
                                         {"/%2", ""},
                                         {"/%%36d", ""},
                                         {"/%6", ""},
                                         {"/%zz", ""}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char out[64];
    size_t len = es_path_normalize((es_slice){cases[i][0], strlen(cases[i][0])}, out);
    CHECK(len == strlen(cases[i][1]) && memcmp(out, cases[i][1], len) == 0);
  }
}

/* An announced body costs as much as has come of it, and not more than was announced. */
static void counts_what_has_come(void) {
  static const char head[] = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
  es_budget budget = {.limit = 150000};
  char piece[1000] = {0};
  size_t taken;
  es_parser *parser = es_parser_new(512, 200000, &budget), *other = es_parser_new(512, 200000, &budget);
  CHECK(es_parser_feed(parser, head, strlen(head), &taken) == ES_PARSE_MORE && budget.used == 0);
  for (size_t sent = 1000; sent < 100000; sent += 1000) {
    CHECK(es_parser_feed(parser, piece, sizeof piece, &taken) == ES_PARSE_MORE);
    CHECK(budget.used >= sent && budget.used <= 100000 && (budget.used <= 4096 || budget.used < 2 * sent));
  }
  CHECK(es_parser_feed(other, head, strlen(head), &taken) == ES_PARSE_ERROR && es_parser_status(other) == 503);
  CHECK(es_parser_feed(parser, piece, sizeof piece, &taken) == ES_PARSE_DONE && budget.used == 100000);
  es_request *r = es_parser_take(parser);
  CHECK(r->body.len == 100000);
  es_request_unref(r);
  es_parser_free(parser);
  es_parser_free(other);
  CHECK(budget.used == 100000); /* the request's is its owner's to count */
}

static void gives_the_head_alone(void) {
  static const char text[] = "PUT /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe";
  es_budget budget = {.limit = 5};
  size_t taken;
  es_parser *parser = es_parser_new(512, 16, &budget);
  CHECK(es_parser_feed(parser, text, strlen(text), &taken) == ES_PARSE_MORE && es_parser_has_head(parser));
  es_request *r = es_parser_take_head(parser);
  CHECK(same(r->method, "PUT") && same(r->path, "/a") && same(r->query, "b") && r->body.len == 0 && !r->keep_alive);
  CHECK(same(es_request_header(r, "host")->value, "h") && budget.used == 5);
  es_parser_free(parser);
  CHECK(budget.used == 0);
  es_request_unref(r);
}

/* A part of a header could be taken for another one. */
static void tells_whole_headers(void) {
  static const char text[] = "GET / HTTP/1.1\r\nHost: h\r\nX-One: \t a b \t \r\nx-two:\r\nx-one: c\r\n\r\n";
  for (size_t cut = 0; cut < strlen(text); cut++) {
    es_parser *parser = es_parser_new(512, 16, NULL);
    size_t taken;
    CHECK(es_parser_feed(parser, text, cut, &taken) == ES_PARSE_MORE);
    es_slice one = es_parser_header(parser, "x-one"), two = es_parser_header(parser, "x-two");
    CHECK(one.ptr == NULL || same(one, "a b"));
    CHECK(cut < 45 || one.ptr != NULL);
    CHECK(two.ptr == NULL ? cut < 55 : two.len == 0);
    CHECK(es_parser_header(parser, "x-three").ptr == NULL);
    es_parser_free(parser);
  }
}

static void decodes(void) {
  char out[32];
  bool bad = false;
  CHECK(es_percent_decode((es_slice){"a%41+%2", 7}, out, true, &bad) == 5 && bad && memcmp(out, "aA %2", 5) == 0);
  bad = false;
  CHECK(es_percent_decode((es_slice){"%e2%82%AC+", 10}, out, false, &bad) == 4 && !bad &&
        memcmp(out, "\xe2\x82\xac+", 4) == 0);
  es_slice rest = {"&a=1&&b&=c&d=e=f", 16}, name, value;
  static const char *const wanted[][2] = {{"a", "1"}, {"b", ""}, {"", "c"}, {"d", "e=f"}};
  for (int i = 0; i < 4; i++)
    CHECK(es_next_pair(&rest, '&', false, &name, &value) && same(name, wanted[i][0]) && same(value, wanted[i][1]));
  CHECK(!es_next_pair(&rest, '&', false, &name, &value));
}

int main(void) {
  reads_in_any_cut();
  refuses();
  bounds_what_is_unfinished();
  splits_targets();
  asks_to_continue();
  normalizes();
  counts_what_has_come();
  gives_the_head_alone();
  tells_whole_headers();
  decodes();
  printf("parser: %d checks passed\n", checks);
  return 0;
}
