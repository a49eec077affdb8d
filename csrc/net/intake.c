#include "net/intake.h"

#include "core/proxy.h"
#include "core/text.h"
#include "net/head.h"
#include "net/server.h"

#include <stdlib.h>
#include <string.h>

static es_refusal refusal_of(int status) {
  switch (status) {
  case 408:
    return ES_REFUSED_LATE;
  case 413:
  case 414:
  case 431:
    return ES_REFUSED_LARGE;
  case 503:
    return ES_REFUSED_FULL;
  default:
    return ES_REFUSED_MALFORMED;
  }
}

/* Answers what is no request (yet), and closes. */
void es_intake_refuse(es_connection *c, int status, const char *reason) {
  char body[256];
  size_t len = strlen(reason);
  if (len > sizeof body - 2)
    len = sizeof body - 2;
  memcpy(body, reason, len);
  body[len++] = '\n';
  static const char lines[] = "Retry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n";
  size_t skip = status == 503 ? 0 : 16; /* only who comes too early is told when to come */
  es_slice origin = {NULL, 0};
  if (c->parser != NULL)
    origin = es_parser_header(c->parser, "origin");
  es_head head = {.status = status,
                  .date = es_loop_date(c->server->loop),
                  .cors = &c->server->cors,
                  .origin = origin,
                  .extra = {lines + skip, sizeof lines - 1 - skip},
                  .content_length = (int64_t)len};
  c->server->stats.rejected[refusal_of(status)]++;
  if (es_head_write(&c->out, &head) != 0 || es_queue_append(&c->out, body, len) != 0) {
    es_connection_close(c, ES_END_ERROR);
    return;
  }
  es_connection_done(c, false);
}

/* Whether it names the type by which an EventSource asks: one that would take anything is mostly none. */
static bool wants_stream(const es_request *request) {
  static const char type[] = "text/event-stream";
  const es_header *accept = es_request_header(request, "accept");
  if (accept == NULL)
    return false;
  for (size_t i = 0; i + sizeof type - 1 <= accept->value.len; i++) {
    if (es_same_text(accept->value.ptr + i, type, sizeof type - 1)) /* RFC 9110, 8.3.1: whatever its case */
      return true;
  }
  return false;
}

/* One connection too many, or a server that closes: an EventSource is told to come back later, any other client that it
 * is refused. */
static void shed(es_exchange *x, es_refusal refusal) {
  x->connection->last = true;
  x->server->stats.rejected[refusal]++;
  if (wants_stream(x->request))
    es_exchange_come_back(x, ES_END_SERVER);
  else
    es_exchange_answer_later(x, ES_END_DONE);
}

/* Who is behind a proxy is known by its request only: it counts as long as that lasts. True where it is one too many. */
static bool is_over(es_exchange *x) {
  if (x->connection->counted)
    return false;
  if (!x->connection->unnamed)
    es_trust_client(&x->server->trust, x->request, &x->peer);
  es_caller caller = es_callers_enter(x->server, &x->peer);
  x->counted = caller == ES_CALLER_COUNTED || caller == ES_CALLER_OVER;
  return caller == ES_CALLER_OVER || caller == ES_CALLER_REFUSED;
}

/* Takes the request over; NULL: memory was out. */
static void begin_exchange(es_connection *c, es_request *request) {
  if (request == NULL) {
    es_connection_close(c, ES_END_ERROR);
    return;
  }
  es_parser_free(c->parser); /* a stream may run for days, and the next request can make its own */
  c->parser = NULL;
  c->exchange = es_exchange_new(c, request);
  if (c->exchange == NULL) {
    c->server->pool.budget.used -= request->body.len;
    es_request_unref(request);
    es_connection_close(c, ES_END_ERROR);
    return;
  }
  c->server->stats.requests++;
  es_loop_remove_deadline(c->server->loop, &c->deadline);
  es_connection_enter(c, ES_ANSWERING);
  es_exchange *x = es_exchange_ref(c->exchange);
  bool crowded = is_over(x) || c->crowded;
  if (crowded || c->shed || c->server->closing) {
    x->server->stats.requests--;
    shed(x, crowded ? ES_REFUSED_ADDRESS : c->server->closing ? ES_REFUSED_CLOSING : ES_REFUSED_FULL);
  } else {
    c->server->handlers->on_request(x);
  }
  if (x->reason == ES_OPEN)
    es_connection_watch(c);
  es_exchange_unref(x);
}

void es_intake_turn_away(es_connection *c) {
  if (c->state == ES_READING && c->parser != NULL && es_parser_has_head(c->parser))
    begin_exchange(c, es_parser_take_head(c->parser));
}

/* What stands behind the request under way; at most one read's worth, as nothing is read meanwhile. */
struct es_held {
  es_job job;
  es_connection *connection;
  size_t size;
  char bytes[];
};

/* They are the caller's, and count no more. */
static struct es_held *take_held(es_connection *c) {
  struct es_held *held = c->held;
  if (held != NULL)
    c->server->pool.budget.used -= held->size;
  c->held = NULL;
  return held;
}

static void run_held(es_job *job) {
  struct es_held *held = (struct es_held *)job;
  es_connection *c = held->connection;
  if (c->state != ES_READING)
    return;
  take_held(c);
  if (++c->pipelined >= c->server->limits.pipelined)
    c->last = true; /* what stands behind it is not answered, and the client knows which of its requests were */
  es_connection_watch(c);
  es_intake_take(c, held->bytes, held->size); /* may close, but frees only in a callback of libuv's */
  free(held);
}

static void hold(es_connection *c, const char *bytes, size_t size) {
  c->held = malloc(sizeof *c->held + size);
  if (c->held == NULL) {
    c->last = true; /* the next request is lost, and the connection's end tells so */
    return;
  }
  *c->held = (struct es_held){.job = {.run = run_held}, .connection = c, .size = size};
  memcpy(c->held->bytes, bytes, size);
  c->server->pool.budget.used += size;
}

void es_intake_post_held(es_connection *c) {
  es_loop_post(c->server->loop, &c->held->job);
}

void es_intake_drop_held(es_connection *c) {
  if (c->held != NULL && c->held->job.posted)
    es_loop_unpost(c->server->loop, &c->held->job);
  free(take_held(c));
}

/* The bytes that a proxy sends first. They are kept until they are whole, and what follows is a request. */
static void take_proxy(es_connection *c, const char *bytes, size_t size) {
  size_t before = c->held != NULL ? c->held->size : 0;
  struct es_held *held = realloc(c->held, sizeof *held + before + size);
  if (held == NULL) {
    es_connection_close(c, ES_END_ERROR);
    return;
  }
  if (c->held == NULL)
    *held = (struct es_held){.job = {.run = run_held}, .connection = c};
  c->held = held;
  c->server->pool.budget.used += size;
  memcpy(held->bytes + before, bytes, size);
  held->size = before + size;
  es_peer told = {.family = ES_NOWHERE};
  int length = es_trust_has(&c->server->trust, &c->peer) ? es_proxy_read(held->bytes, held->size, &told) : -1;
  if (length == 0)
    return;
  take_held(c);
  c->proxied = false;
  c->unnamed = told.family == ES_NOWHERE;
  if (!c->unnamed)
    c->peer = told;
  if (length < 0 || !es_connection_count(c)) {
    c->server->stats.rejected[length < 0 ? ES_REFUSED_MALFORMED : ES_REFUSED_ADDRESS]++;
    es_connection_close(c, ES_END_SERVER); /* it speaks another protocol, or is nobody who may say who it is */
  } else if (held->size > (size_t)length) {
    es_intake_take(c, held->bytes + length, held->size - (size_t)length);
  }
  free(held);
}

void es_intake_take(es_connection *c, const char *bytes, size_t size) {
  es_server *server = c->server;
  if (c->proxied) {
    take_proxy(c, bytes, size);
    return;
  }
  if (c->parser == NULL) {
    c->parser = es_parser_new(server->limits.header_bytes, server->limits.body_bytes, &server->pool.budget);
    if (c->parser == NULL) {
      es_connection_close(c, ES_END_ERROR);
      return;
    }
  }
  bool begun = es_parser_begun(c->parser), had_head = es_parser_has_head(c->parser);
  bool unwanted = c->shed || server->closing; /* its body changes nothing, and it gets no more time than it has */
  size_t taken;
  es_parse result = es_parser_feed(c->parser, bytes, size, &taken);
  switch (result) {
  case ES_PARSE_CONTINUE:
    if (!unwanted && es_queue_append(&c->out, "HTTP/1.1 100 Continue\r\n\r\n", 25) == 0)
      es_connection_dirty(c);
    break;
  case ES_PARSE_MORE:
    break;
  case ES_PARSE_DONE:
    if (taken < size)
      hold(c, bytes + taken, size - taken);
    begin_exchange(c, es_parser_take(c->parser));
    return;
  case ES_PARSE_ERROR:
    es_intake_refuse(c, es_parser_status(c->parser), es_parser_reason(c->parser));
    return;
  }
  if (unwanted) {
    es_intake_turn_away(c);
  } else if (!had_head && es_parser_has_head(c->parser)) {
    c->since = es_loop_time(server->loop);
    es_connection_set_due(c, server->limits.body_seconds);
  } else if (c->kept && !begun && es_parser_begun(c->parser)) { /* the first one's time began with the connection */
    c->since = es_loop_time(server->loop);
    es_connection_set_due(c, server->limits.header_seconds);
  }
}
