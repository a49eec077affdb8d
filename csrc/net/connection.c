#include "net/connection.h"

#include "net/hosted.h"
#include "net/intake.h"
#include "net/platform.h"
#include "net/server.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define DELIVER_SECONDS 5     /* what was sent before a close has this long to go out */
#define LINGER_SECONDS 2      /* and the client this long to shut its side, or to send more of what is dropped */
#define LINGER_MAX_SECONDS 10 /* but no longer than this */
#define SHED_SECONDS 2        /* who is only told to come back has this long to say what it wants */
#define PATIENCE_SECONDS 10   /* the kernel waits so much longer than the limit for slow readers */
#define FLUSH_BYTES 1048576   /* a connection's share of a turn: the others wait meanwhile */
#define FLUSH_WRITES 64
#define AGE_JITTER 0.2 /* a stream's age is up to so much shorter than the limit */

static void on_poll(uv_poll_t *poll, int status, int events);
static void on_due(es_deadline *deadline);

void es_connection_set_due(es_connection *c, double seconds) {
  uint64_t due = c->since + (uint64_t)(seconds * 1000), now = es_loop_time(c->server->loop);
  if (due <= now)
    due = now + 1; /* a deadline that is set while it is due must differ */
  if (es_loop_set_deadline(c->server->loop, &c->deadline, due) != 0)
    es_connection_close(c, ES_END_ERROR); /* what cannot be bounded in time is not served */
}

/* Tells libuv what to watch: what the state reads for, and room to write where bytes were refused. */
void es_connection_watch(es_connection *c) {
  if (c->is_hosted)
    return;
  int events = c->writing ? UV_WRITABLE : 0;
  if (!c->gone) {
    if (c->state == ES_READING) /* the next request waits until the answer before it is with the kernel */
      events |= (c->held != NULL && !c->proxied) || c->writing ? 0 : UV_READABLE;
    else if (c->state == ES_ANSWERING && !c->exchange->streaming)
      events |= UV_DISCONNECT; /* the next request stays with the kernel until this one is answered */
    else
      events |= UV_READABLE;
  } else if (c->state == ES_ANSWERING) {
    events |=
        ES_WATCH_SHUT; /* its half is shut, which would be told for ever; that it leaves is told along with this */
  }
  if (events == 0)
    uv_poll_stop(&c->poll);
  else
    uv_poll_start(&c->poll, events, on_poll);
}

static bool is_inet(const es_connection *c) {
  return c->peer.family == ES_IPV4 || c->peer.family == ES_IPV6;
}

void es_connection_enter(es_connection *c, es_connection_state state) {
  c->state = (uint8_t)state;
  c->gone = false; /* what the state reads for will tell again */
  c->since = es_loop_now(c->server->loop);
}

/* Makes it one of the server's, which awaits a request. */
static void begin(es_connection *c, es_server *server, bool shed) {
  c->server = server;
  c->out.pool = &server->pool;
  c->expires = ES_NEVER;
  c->shed = shed;
  c->patience = c->is_hosted || !is_inet(c) ? INFINITY : ES_PATIENCE_SECONDS;
  c->deadline.on_due = on_due;
  c->next = server->connections;
  if (c->next != NULL)
    c->next->prev = c;
  server->connections = c;
  server->stats.connections++;
  es_loop_hold(server->loop);
  es_connection_enter(c, ES_READING);
}

es_connection *es_connection_new_hosted(es_server *server, const es_peer *peer, bool shed) {
  es_connection *c = calloc(1, sizeof *c);
  if (c == NULL)
    return NULL;
  c->fd = -1;
  c->peer = *peer;
  c->is_hosted = c->last = true; /* its host keeps connections, or does not */
  server->stats.accepted++;
  begin(c, server, shed);
  return c;
}

void es_connection_new(es_server *server, int fd, const es_accepted *accepted) {
  es_connection *c = calloc(1, sizeof *c);
  if (c == NULL || uv_poll_init_socket(&server->loop->uv, &c->poll, fd) != 0) {
    free(c);
    close(fd);
    if (accepted->spare)
      es_loop_spare(server->loop);
    return;
  }
  c->poll.data = c;
  c->fd = fd;
  c->peer = accepted->peer;
  c->proxied = accepted->proxied;
  c->spare = accepted->spare;
  if (is_inet(c))
    es_platform_tune(fd);
  begin(c, server, accepted->shed);
  double patience = server->limits.header_seconds;
  if (!c->proxied && !es_connection_count(c)) {
    server->stats.rejected[ES_REFUSED_ADDRESS]++;
    es_connection_close(c, ES_END_SERVER);
    return;
  }
  es_connection_watch(c);
  es_connection_set_due(c, c->shed && patience > SHED_SECONDS ? SHED_SECONDS : patience);
}

bool es_connection_count(es_connection *c) {
  es_caller caller = es_callers_enter(c->server, &c->peer);
  c->counted = caller == ES_CALLER_COUNTED || caller == ES_CALLER_OVER;
  c->crowded = caller == ES_CALLER_OVER;
  c->shed = c->shed || c->crowded;
  return caller != ES_CALLER_REFUSED;
}

static void on_closed(uv_handle_t *handle) {
  free(handle->data);
}

static void drop_dirty(es_connection *c) {
  es_connection **at = &c->server->loop->dirty;
  while (*at != c)
    at = &(*at)->next_dirty;
  *at = c->next_dirty;
  c->dirty = false;
}

void es_connection_close(es_connection *c, es_reason reason) {
  es_server *server = c->server;
  if (c->state == ES_CLOSED)
    return;
  c->state = ES_CLOSED;
  if (c->exchange != NULL)
    es_exchange_end(c->exchange, reason);
  if (c->unsent != NULL)
    es_exchange_unsent(c, reason);
  es_subscriptions_drop(c);
  es_due_clear(c);
  es_loop_remove_deadline(server->loop, &c->deadline);
  if (c->dirty)
    drop_dirty(c);
  es_intake_drop_held(c);
  es_queue_clear(&c->out);
  es_parser_free(c->parser);
  c->parser = NULL;
  if (c->prev != NULL)
    c->prev->next = c->next;
  else
    server->connections = c->next;
  if (c->next != NULL)
    c->next->prev = c->prev;
  server->stats.connections--;
  if (c->counted)
    es_callers_leave(server, &c->peer);
  es_loop_release(server->loop);
  if (c->is_hosted) {
    es_hosted_closed(c);
  } else {
    uv_close((uv_handle_t *)&c->poll, on_closed);
    if (reason == ES_END_SLOW)
      es_platform_reset(c->fd); /* the kernel forgets what it still holds for it */
    close(c->fd);
    if (c->spare)
      es_loop_spare(server->loop);
  }
  es_loop_wake(server->loop);
  es_server_check_closed(server);
}

void es_connection_dirty(es_connection *c) {
  if (c->is_hosted && c->hosted.coming)
    return;
  if (c->dirty || c->writing) /* while the kernel refuses bytes, its word that there is room starts the next flush */
    return;
  c->dirty = true;
  c->next_dirty = c->server->loop->dirty;
  c->server->loop->dirty = c;
  es_loop_wake(c->server->loop);
}

/* Whether the peer was not heard of any more. When its time is over, the kernel tells the last error that the network
 * reported meanwhile, where there was one, instead of ETIMEDOUT. */
static bool is_silence(int err) {
  return err == ETIMEDOUT || err == EHOSTUNREACH || err == ENETUNREACH || err == EHOSTDOWN || err == ENETDOWN;
}

/* The socket failed: which end of the exchange is that? */
static void broken(es_connection *c, int err) {
  es_reason reason = ES_END_CLIENT;
  if (is_silence(err))
    reason = c->writing || es_queue_bytes(&c->out) > 0 ? ES_END_SLOW : ES_END_TIMEOUT;
  es_connection_close(c, reason);
}

static void start_lingering(es_connection *c) {
  if (c->is_hosted)
    c->hosted.ended = true; /* the rest is its host's */
  if (c->is_hosted || c->gone || shutdown(c->fd, SHUT_WR) != 0) {
    es_connection_close(c, ES_END_SERVER);
    return;
  }
  es_connection_enter(c, ES_LINGERING);
  es_connection_watch(c);
  es_connection_set_due(c, LINGER_SECONDS);
}

/* More comes of what is dropped: the client would not see its answer behind a reset (RFC 9112, 9.6). Of those that are
 * one too many each holds a place, or a spare descriptor, of which the next one could be told. */
static void linger_on(es_connection *c) {
  if (c->shed)
    return;
  double seconds = (double)(es_loop_time(c->server->loop) - c->since) / 1000 + LINGER_SECONDS;
  es_connection_set_due(c, seconds < LINGER_MAX_SECONDS ? seconds : LINGER_MAX_SECONDS);
}

/* Everything that was queued is with the kernel. */
static void drained(es_connection *c) {
  if (c->state == ES_CLOSING || (c->state == ES_READING && c->last && c->held == NULL))
    start_lingering(c);
  else if (c->state == ES_READING && c->held != NULL)
    es_intake_post_held(c);
}

/* Hands over what is due; tells whether the kernel took all of it. */
static bool write_due(es_connection *c, size_t *sent) {
  es_due due;
  unsigned writes = 0;
  c->full = false;
  for (es_due_gather(c, &due); due.bytes > 0; es_due_gather(c, &due)) {
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)due.slices, .msg_iovlen = due.count};
    /* one stretch is the common case, and the plain call the cheaper one */
    ssize_t n = due.count == 1 ? send(c->fd, due.slices[0].iov_base, due.slices[0].iov_len, MSG_NOSIGNAL)
                               : sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR)
        continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS) {
        int err = errno;
        if (c->unsent != NULL)
          es_exchange_sent(c, *sent);
        broken(c, err);
      } else
        c->full = true;
      return false;
    }
    *sent += (size_t)n;
    es_due_sent(c, &due, (size_t)n);
    c->full = (size_t)n < due.bytes; /* asking again would only be refused */
    if (c->full || *sent >= FLUSH_BYTES || ++writes == FLUSH_WRITES)
      return false;
  }
  return true;
}

void es_connection_wrote(es_connection *c, size_t sent, bool writing) {
  c->server->stats.bytes_out += sent;
  if (c->unsent != NULL)
    es_exchange_sent(c, sent);
  if (c->state == ES_CLOSED)
    return;
  if (sent > 0)
    c->since = es_loop_time(c->server->loop);
  es_exchange *x = c->exchange;
  if (x != NULL && x->account != NULL)
    x->account->bytes += sent;
  if (x != NULL && x->wants_room && es_queue_bytes(&c->out) <= c->server->limits.backlog_bytes / 2) {
    x->wants_room = false;
    x->has_room = true;
    es_exchange_note(x);
  }
  if (c->subscriptions != NULL)
    es_subscriptions_sweep(c);
  if (writing != c->writing) {
    c->writing = writing;
    es_connection_watch(c);
  }
  if (!writing)
    drained(c);
}

void es_connection_flush(es_connection *c) {
  size_t sent = 0;
  if (c->is_hosted) {
    es_hosted_offer(c);
    return;
  }
  bool writing = !write_due(c, &sent);
  es_connection_wrote(c, sent, writing);
}

void es_connection_flush_now(es_connection *c) {
  if (!c->writing || !c->full)
    es_connection_flush(c);
}

void es_connection_be_patient(es_connection *c, double seconds) {
  double limit = seconds + PATIENCE_SECONDS;
  if (limit <= c->patience)
    return;
  c->patience = (float)limit;
  es_platform_set_patience(c->fd, limit);
}

static void close_when_sent(es_connection *c) {
  es_connection_enter(c, ES_CLOSING);
  es_connection_watch(c);
  es_connection_set_due(c, DELIVER_SECONDS);
}

static void on_readable(es_connection *c) {
  char *buffer = c->server->loop->read_buffer;
  ssize_t n = recv(c->fd, buffer, ES_READ_BYTES, 0);
  if (n < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
      broken(c, errno);
    return;
  }
  if (n > 0) {
    c->server->stats.bytes_in += (uint64_t)n;
    c->pipelined = 0;
    if (c->state == ES_READING)
      es_intake_take(c, buffer, (size_t)n);
    else if (c->state == ES_LINGERING)
      linger_on(c);
    return; /* else: bytes after a stream's request, or after the last one, are read and dropped */
  }
  /* it sends no more, but may still read what it was promised */
  if (c->state == ES_READING && es_queue_bytes(&c->out) > 0)
    close_when_sent(c);
  if (c->state == ES_CLOSING) {
    c->gone = true;
    es_connection_watch(c);
    return;
  }
  es_connection_close(c, ES_END_CLIENT);
}

static int socket_error(const es_connection *c) {
  int err = 0;
  socklen_t len = sizeof err;
  getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
  return err;
}

/* A client that has shut its half sends nothing more but, maybe, what it called urgent before, which nobody wants: all else
 * is the connection's end. A Unix socket's has no error. */
static void on_prioritized(es_connection *c) {
  char byte;
  if (recv(c->fd, &byte, 1, MSG_OOB | MSG_DONTWAIT) <= 0)
    broken(c, socket_error(c));
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  es_connection *c = poll->data;
  es_loop *loop = c->server->loop;
  if (status < 0) {
    broken(c, socket_error(c));
  } else {
    if (events & UV_WRITABLE)
      es_connection_flush(c);
    if ((events & UV_READABLE) && c->state != ES_CLOSED)
      on_readable(c);
    else if ((events & UV_DISCONNECT) && c->state != ES_CLOSED) {
      c->gone = true; /* no more requests; the answer under way may still be read */
      es_connection_watch(c);
    } else if ((events & UV_PRIORITIZED) && c->state != ES_CLOSED)
      on_prioritized(c);
  }
  es_loop_settle(loop);
}

void es_connection_streams(es_connection *c) {
  es_intake_drop_held(c); /* bytes after a stream's request are no request */
  c->last = c->streamed = true;
  if (c->gone)
    es_connection_close(c, ES_END_CLIENT);
  else
    es_connection_watch(c);
}

/* A quiet time after which the next heartbeat falls due: different each time, so that streams which fell silent
 * together do not beat together, and never longer than the option says. */
static double beat(es_server *server) {
  return server->heartbeat_seconds * (0.75 + es_loop_random(server->loop) / 4);
}

static void set_stream_due(es_connection *c) {
  es_server *server = c->server;
  double quiet = server->heartbeat_seconds > 0 && c->exchange->head_sent ? beat(server) : 0;
  if (c->expires != ES_NEVER) {
    double left = ((double)c->expires - (double)c->since) / 1000;
    if (quiet == 0 || left < quiet)
      quiet = left > 0 ? left : 0.001;
  }
  if (quiet > 0)
    es_connection_set_due(c, quiet);
}

void es_connection_opened(es_connection *c) {
  double age = c->server->limits.stream_seconds;
  es_connection_dirty(c);
  c->since = es_loop_now(c->server->loop);
  if (age > 0) /* streams that began together do not end, and come back, together */
    es_connection_expire(c, age * (1 - AGE_JITTER * es_loop_random(c->server->loop)));
  set_stream_due(c);
}

void es_connection_expire(es_connection *c, double seconds) {
  uint64_t due = es_loop_now(c->server->loop) + (uint64_t)(seconds * 1000);
  if (due >= c->expires)
    return;
  c->expires = due;
  set_stream_due(c);
}

static void on_stream_due(es_connection *c) {
  es_server *server = c->server;
  uint64_t now = es_loop_time(server->loop);
  es_exchange *x = c->exchange;
  if (now >= c->expires) {
    if (x->head_sent)
      es_exchange_end(x, ES_END_EXPIRED);
    else
      es_exchange_come_back(x, ES_END_EXPIRED);
    return;
  }
  double quiet = (double)(now - c->since) / 1000;
  if (server->heartbeat_seconds > 0 && x->head_sent && quiet >= server->heartbeat_seconds * 0.75 - 0.001) {
    es_event comment = ES_EVENT_INIT;
    comment.comment = (es_slice){"", 0};
    /* bytes that wait already say more than a heartbeat could */
    if (!c->writing && es_queue_bytes(&c->out) == 0 && es_queue_event(&c->out, &comment, x->chunked) == 0)
      es_connection_dirty(c);
    c->since = now;
  }
  set_stream_due(c);
}

static void on_due(es_deadline *deadline) {
  es_connection *c = (es_connection *)((char *)deadline - offsetof(es_connection, deadline));
  uint64_t quiet = es_loop_time(c->server->loop) - c->since;
  double patience = c->state == ES_READING ? c->server->limits.keep_alive_seconds : DELIVER_SECONDS;
  if (c->dirty) /* its time begins when the kernel was offered what is queued */
    es_connection_set_due(c, (double)(quiet + 1) / 1000);
  else if (c->state == ES_ANSWERING && c->exchange->streaming)
    on_stream_due(c);
  else if (c->state == ES_READING && c->parser != NULL && es_parser_begun(c->parser))
    es_intake_refuse(c, 408, "the request took too long");
  else if (!c->streamed && es_queue_bytes(&c->out) > 0 && (double)quiet < patience * 1000)
    es_connection_set_due(c, patience); /* an ordinary answer has its time as long as the client takes some of it */
  else
    es_connection_close(c, c->state == ES_CLOSING || es_queue_bytes(&c->out) > 0 ? ES_END_SLOW : ES_END_SERVER);
}

void es_connection_done(es_connection *c, bool keep) {
  if (c->state == ES_CLOSED)
    return;
  es_connection_dirty(c);
  if (keep && !c->last) {
    es_connection_enter(c, ES_READING);
    c->kept = true;
    es_connection_watch(c);
    es_connection_set_due(c, c->server->limits.keep_alive_seconds);
  } else {
    close_when_sent(c);
  }
}

static bool awaits(const es_connection *c) {
  return c->state == ES_READING && es_queue_bytes(&c->out) == 0 && (c->parser == NULL || !es_parser_begun(c->parser));
}

bool es_connection_is_idle(const es_connection *c) {
  return c->kept && c->held == NULL && awaits(c);
}

void es_connection_retire(es_connection *c) {
  c->last = true;
  if (!awaits(c)) {
    es_intake_turn_away(c);
    return;
  }
  char byte;
  bool asks = !c->is_hosted && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  if (c->kept && !asks)
    es_connection_close(c, ES_END_SERVER);
  else /* what it asks, or a new one is about to ask, would be lost with a reset */
    es_connection_set_due(c, (double)(es_loop_now(c->server->loop) - c->since) / 1000 + SHED_SECONDS);
}
