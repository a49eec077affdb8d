#include "net/exchange.h"

#include "net/connection.h"
#include "net/group.h"
#include "net/head.h"
#include "net/server.h"
#include "net/subscription.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_FLOOR_MS 100 /* below it a browser reconnects in a hot loop: also of who is sent away */
#define AWAY_RETRY_MS 3000 /* for those who are sent away, where the app tells no retry */

static es_exchange *of_end_job(es_job *job) {
  return (es_exchange *)((char *)job - offsetof(es_exchange, end_job));
}

static es_exchange *of_note_job(es_job *job) {
  return (es_exchange *)((char *)job - offsetof(es_exchange, note_job));
}

static void run_end(es_job *job) {
  es_exchange *x = of_end_job(job);
  if (x->server != NULL)
    x->server->handlers->on_end(x);
  x->server = NULL;
  es_exchange_unref(x);
}

static void run_note(es_job *job) {
  es_exchange *x = of_note_job(job);
  if (x->reason == ES_OPEN)
    es_group_settle(x->connection);
  if (x->reason == ES_OPEN && x->has_room) {
    x->has_room = false;
    x->server->handlers->on_room(x);
  }
  if (x->reason == ES_OPEN && x->gone != NULL)
    x->server->handlers->on_gone(x);
  es_exchange_unref(x);
}

void es_exchange_note(es_exchange *x) {
  if (x->note_job.posted)
    return;
  es_exchange_ref(x); /* the job's */
  es_loop_post(x->server->loop, &x->note_job);
}

void es_exchange_forget_server(es_server *server) {
  for (es_job *job = server->loop->first_job; job != NULL; job = job->next) {
    if (job->run == run_end && of_end_job(job)->server == server)
      of_end_job(job)->server = NULL;
  }
}

es_exchange *es_exchange_new(es_connection *connection, es_request *request) {
  es_exchange *x = calloc(1, sizeof *x);
  if (x == NULL)
    return NULL;
  x->server = connection->server;
  x->connection = connection;
  x->request = request;
  x->peer = connection->peer;
  x->refs = 1;
  x->end_job.run = run_end;
  x->note_job.run = run_note;
  return x;
}

int es_exchange_keep_account(es_exchange *x) {
  x->account = malloc(sizeof *x->account);
  if (x->account == NULL)
    return UV_ENOMEM;
  *x->account = (es_account){.began = uv_hrtime()};
  return 0;
}

/* Its end is told, by a job that takes the connection's reference over. */
static void post_end(es_exchange *x) {
  x->server->pool.budget.used -= x->request->body.len; /* from now on it is the script's, if anybody's */
  es_loop_post(x->server->loop, &x->end_job);
}

/* Its end is told when its last byte is with the kernel. */
static void await_sent(es_exchange *x, es_connection *c) {
  es_exchange **at = &c->unsent;
  while (*at != NULL)
    at = &(*at)->account->next;
  *at = x;
  x->account->unsent = es_queue_bytes(&c->out);
}

void es_exchange_sent(es_connection *c, size_t size) {
  for (es_exchange *x = c->unsent; x != NULL; x = x->account->next)
    x->account->unsent -= size < x->account->unsent ? size : x->account->unsent;
  for (es_exchange *x; (x = c->unsent) != NULL && x->account->unsent == 0;) {
    c->unsent = x->account->next;
    post_end(x);
  }
}

void es_exchange_unsent(es_connection *c, es_reason reason) {
  for (es_exchange *x; (x = c->unsent) != NULL;) {
    es_account *account = x->account;
    c->unsent = account->next;
    account->bytes -=
        account->unsent < account->bytes ? account->unsent : account->bytes; /* the body is the last of it */
    x->reason = (uint8_t)reason;
    post_end(x);
  }
}

es_exchange *es_exchange_ref(es_exchange *x) {
  x->refs++;
  return x;
}

void es_exchange_unref(es_exchange *x) {
  if (x == NULL || --x->refs > 0)
    return;
  for (es_channel *ch; (ch = es_exchange_gone(x)) != NULL;)
    es_channel_unref(ch);
  es_request_unref(x->request);
  free(x->account);
  free(x);
}

void es_exchange_stream(es_exchange *x) {
  if (x->reason != ES_OPEN || x->streaming)
    return;
  x->streaming = true;
  x->connection->serial = ++x->server->serial;
  x->server->stats.streams++;
  es_connection_streams(x->connection);
}

/* The app's retry, different for each connection: browsers add no jitter of their own. Below 0: none is told. */
static int64_t jittered_retry(es_server *server, double otherwise) {
  double ms = server->retry_ms < 0 ? otherwise : server->retry_ms;
  if (ms < 0)
    return ES_NO_RETRY;
  double retry = ms * (1 + es_loop_random(server->loop) / 2);
  return (int64_t)(retry < RETRY_FLOOR_MS ? RETRY_FLOOR_MS : floor(retry));
}

/* When who is sent away is to come back. A crowd must not come at once. */
static int64_t away_retry(es_server *server) {
  if (!server->closing)
    return jittered_retry(server, AWAY_RETRY_MS);
  double ms = es_loop_random(server->loop) * server->spread * 1000;
  return (int64_t)(ms < RETRY_FLOOR_MS ? RETRY_FLOOR_MS : ms);
}

static es_slice origin_of(const es_exchange *x) {
  const es_header *origin = es_request_header(x->request, "origin");
  return origin != NULL ? origin->value : (es_slice){NULL, 0};
}

int es_exchange_open(es_exchange *x, es_slice extra) {
  if (x->reason != ES_OPEN || x->head_sent)
    return 0;
  es_connection *c = x->connection;
  bool chunked = x->request->minor > 0 && !c->is_hosted;
  es_head head = {.status = 200,
                  .date = es_loop_date(x->server->loop),
                  .extra = extra,
                  .cors = &x->server->cors,
                  .origin = origin_of(x),
                  .content_length = -1,
                  .keep_alive = chunked && x->request->keep_alive,
                  .stream = true,
                  .chunked = chunked};
  if (es_head_write(&c->out, &head) != 0)
    return UV_ENOMEM;
  x->chunked = c->chunked = chunked;
  x->head_sent = true;
  x->status = 200;
  if (!x->request->head) {
    es_event first = ES_EVENT_INIT;
    first.retry = jittered_retry(x->server, -1);
    if (first.retry == ES_NO_RETRY)
      first.comment = (es_slice){"", 0};
    if (es_queue_event(&c->out, &first, x->chunked) != 0)
      return UV_ENOMEM;
  }
  es_connection_opened(c);
  if (x->request->head)
    es_exchange_end(x, ES_END_DONE);
  return 0;
}

bool es_exchange_has_room(es_exchange *x, size_t size) {
  for (int tries = 0; tries < 2; tries++) {
    size_t waiting = es_queue_bytes(&x->connection->out);
    if (waiting == 0 || (waiting + es_marks_cost(x->connection) + size <= x->server->limits.backlog_bytes &&
                         es_budget_allows(&x->server->pool.budget, size)))
      return true;
    if (tries == 0) { /* a burst within one turn: a reader is only slow when its socket has refused bytes */
      es_connection_flush_now(x->connection);
      if (x->reason != ES_OPEN)
        return false;
    }
  }
  x->wants_room = true;
  return false;
}

int es_exchange_queue(es_exchange *x, const es_event *event) {
  es_connection *c = x->connection;
  size_t before = es_queue_bytes(&c->out);
  if (es_marks_begin(c) != 0 || es_queue_event(&c->out, event, x->chunked) != 0)
    return UV_ENOMEM;
  es_marks_commit(c, es_queue_bytes(&c->out) - before);
  es_connection_dirty(c);
  return 0;
}

int es_exchange_send(es_exchange *x, const es_event *event) {
  if (!es_exchange_has_room(x, es_frame_size(event)))
    return x->reason == ES_OPEN ? UV_ENOBUFS : UV_ECANCELED;
  int err = es_exchange_queue(x, event);
  if (err == 0)
    x->server->stats.events++;
  return err;
}

int es_exchange_send_frame(es_exchange *x, es_slice frame) {
  es_connection *c = x->connection;
  if (!es_exchange_has_room(x, frame.len))
    return x->reason == ES_OPEN ? UV_ENOBUFS : UV_ECANCELED;
  size_t before = es_queue_bytes(&c->out);
  if (es_marks_begin(c) != 0 || es_queue_frame(&c->out, frame, x->chunked) != 0)
    return UV_ENOMEM;
  es_marks_commit(c, es_queue_bytes(&c->out) - before);
  x->server->stats.events++;
  es_connection_dirty(c);
  return 0;
}

/* The head of an ordinary answer; and for one that may have a body, whether it has. */
static int answer_head(es_exchange *x, int status, es_slice extra, uint64_t size, bool *bodied) {
  es_connection *c = x->connection;
  bool bodiless = status == 204 || status == 304;
  bool keep = !x->streaming && x->request->keep_alive && !x->server->closing && !c->last;
  es_head head = {.status = status,
                  .date = es_loop_date(x->server->loop),
                  .extra = extra,
                  .cors = &x->server->cors,
                  .origin = origin_of(x),
                  .content_length = bodiless ? -1 : (int64_t)size,
                  .keep_alive = keep};
  *bodied = !bodiless && !x->request->head;
  if (es_head_write(&c->out, &head) != 0)
    return UV_ENOMEM;
  x->head_sent = true;
  x->status = (uint16_t)status;
  if (x->account != NULL && *bodied)
    x->account->bytes = size;
  x->chunked = false;
  c->last = !keep;
  return 0;
}

/* An ordinary answer is written, or was not for want of memory: ends the exchange. */
static int answered(es_exchange *x, int err, es_reason reason) {
  if (err == 0)
    es_exchange_end(x, reason);
  else
    es_connection_close(x->connection, ES_END_ERROR);
  return err;
}

/* An ordinary answer that ends the exchange for the given reason. */
static int answer(es_exchange *x, int status, es_slice extra, es_slice body, es_reason reason) {
  bool bodied;
  int err = answer_head(x, status, extra, body.len, &bodied);
  if (err == 0 && bodied && es_queue_append(&x->connection->out, body.ptr, body.len) != 0)
    err = UV_ENOMEM;
  return answered(x, err, reason);
}

int es_exchange_answer_later(es_exchange *x, es_reason reason) {
  static const char lines[] = "Retry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n";
  if (x->reason != ES_OPEN)
    return 0;
  const char *text = "the server is full\n";
  if (reason == ES_END_EXPIRED)
    text = "its time was over before it began\n";
  else if (x->server->closing)
    text = "the server is closing\n";
  return answer(x, 503, (es_slice){lines, sizeof lines - 1}, (es_slice){text, strlen(text)}, reason);
}

/* Answers that nobody reads have taken all room. */
static int refuse_full(es_exchange *x) {
  x->server->stats.rejected[ES_REFUSED_FULL]++;
  return es_exchange_answer_later(x, ES_END_DONE);
}

int es_exchange_answer(es_exchange *x, int status, es_slice extra, es_slice body) {
  if (x->reason != ES_OPEN)
    return 0;
  if (body.len <= x->server->limits.backlog_bytes || es_budget_allows(&x->server->pool.budget, body.len))
    return answer(x, status, extra, body, ES_END_DONE);
  return refuse_full(x);
}

int es_exchange_answer_file(es_exchange *x, int status, es_slice extra, int fd, int64_t offset, uint64_t size) {
  bool bodied = false;
  if (x->reason != ES_OPEN) {
    close(fd);
    return 0;
  }
  if (!es_budget_allows(&x->server->pool.budget, ES_FILE_BYTES)) {
    close(fd);
    return refuse_full(x);
  }
  int err = answer_head(x, status, extra, size, &bodied);
  if (err != 0 || !bodied)
    close(fd);
  else if (es_queue_file(&x->connection->out, fd, offset, size) != 0)
    err = UV_ENOMEM;
  return answered(x, err, ES_END_DONE);
}

void es_exchange_fail(es_exchange *x, int status, es_slice extra, es_slice body) {
  if (x->reason == ES_OPEN)
    answer(x, status, extra, body, ES_END_ERROR);
}

int es_exchange_come_back(es_exchange *x, es_reason reason) {
  static const char lines[] = "Content-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\n";
  es_slice method = x->request->method;
  bool gets = x->request->head || (method.len == 3 && memcmp(method.ptr, "GET", 3) == 0);
  if (x->reason != ES_OPEN)
    return 0;
  if (!gets) /* its 200 would say that what it brought was taken */
    return es_exchange_answer_later(x, reason);
  es_event event = ES_EVENT_INIT;
  char body[64];
  event.retry = away_retry(x->server);
  size_t size = (size_t)(es_frame_write(body, &event) - body);
  return answer(x, 200, (es_slice){lines, sizeof lines - 1}, (es_slice){body, size}, reason);
}

/* A stream's last bytes: behind all that was published before. False when memory is out. */
static bool write_end(es_exchange *x, bool behind) {
  es_connection *c = x->connection;
  es_mark *mark = NULL;
  size_t before = es_queue_bytes(&c->out);
  if (behind) {
    mark = es_mark_new(c, x->server->sequence);
    if (mark == NULL)
      return false;
    mark->ends = true;
  } else if (es_marks_begin(c) != 0) {
    return false;
  }
  if (x->chunked && !x->request->head && es_queue_append(&c->out, "0\r\n\r\n", 5) != 0)
    return false;
  es_marks_commit(c, es_queue_bytes(&c->out) - before);
  return true;
}

void es_exchange_end(es_exchange *x, es_reason reason) {
  if (x->reason != ES_OPEN)
    return;
  es_connection *c = x->connection;
  bool cut = reason == ES_END_CLIENT || reason == ES_END_TIMEOUT || reason == ES_END_SLOW || c->state == ES_CLOSED;
  bool behind = es_subscriptions_end(c, !cut);
  if (x->reason != ES_OPEN)
    return; /* memory was out, and it is cut already */
  bool broken = !cut && !write_end(x, behind);
  x->reason = reason;
  if (x->counted)
    es_callers_leave(x->server, &x->peer);
  x->connection = NULL;
  c->exchange = NULL;
  if (x->streaming) {
    x->server->stats.streams--;
    x->server->stats.slow += reason == ES_END_SLOW;
  }
  if (x->account != NULL && !x->streaming && !cut && !broken && es_queue_bytes(&c->out) > 0)
    await_sent(x, c);
  else
    post_end(x);
  if (broken)
    es_connection_close(c, reason);
  else
    es_connection_done(c, !x->streaming && x->request->keep_alive);
}

void es_exchange_send_away(es_exchange *x) {
  if (!x->head_sent) {
    es_exchange_come_back(x, ES_END_SERVER);
    return;
  }
  es_event event = ES_EVENT_INIT;
  event.retry = away_retry(x->server);
  (void)es_exchange_queue(x, &event); /* without memory it comes back after its first retry */
  es_exchange_end(x, ES_END_SERVER);
}

void es_exchange_expire(es_exchange *x, double seconds) {
  if (x->reason == ES_OPEN)
    es_connection_expire(x->connection, seconds);
}

void es_exchange_flush(es_exchange *x) {
  if (x->connection != NULL)
    es_connection_flush_now(x->connection);
}

size_t es_exchange_backlog(const es_exchange *x) {
  return x->connection != NULL ? es_queue_bytes(&x->connection->out) : 0;
}

const char *es_reason_name(es_reason reason) {
  switch (reason) {
  case ES_OPEN:
    return "open";
  case ES_END_DONE:
    return "done";
  case ES_END_CLIENT:
    return "client";
  case ES_END_SERVER:
    return "server";
  case ES_END_SLOW:
    return "slow";
  case ES_END_TIMEOUT:
    return "timeout";
  case ES_END_EXPIRED:
    return "expired";
  case ES_END_ERROR:
    return "error";
  }
  return "unknown";
}
