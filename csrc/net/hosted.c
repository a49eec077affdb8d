#include "net/hosted.h"

#include "net/platform.h"
#include "net/server.h"

#include <stdlib.h>
#include <unistd.h>

es_connection *es_hosted_new(es_server *server, const es_peer *peer, void *holder) {
  bool shed = server->stats.connections >= server->limits.connections;
  es_connection *c = es_connection_new_hosted(server, peer, shed);
  if (c != NULL)
    c->hosted = (es_hosted){.holder = holder, .loop = server->loop};
  return c;
}

/* --- The list of those whose holders are called --- */

static void unlist(es_connection *c) {
  es_loop *loop = c->hosted.loop;
  es_connection *before = NULL;
  for (es_connection *at = loop->called.first; at != c; at = at->hosted.next)
    before = at;
  if (before == NULL)
    loop->called.first = c->hosted.next;
  else
    before->hosted.next = c->hosted.next;
  if (loop->called.last == c)
    loop->called.last = before;
  c->hosted.calls = 0;
}

void es_hosted_call(es_connection *c, unsigned what) {
  es_loop *loop = c->hosted.loop;
  bool listed = c->hosted.calls != 0;
  if (what == ES_CALL_BYTES && c->hosted.coming)
    return;
  c->hosted.calls |= (uint8_t)what;
  if (listed)
    return;
  c->hosted.next = NULL;
  if (loop->called.last != NULL)
    loop->called.last->hosted.next = c;
  else
    loop->called.first = c;
  loop->called.last = c;
  es_loop_wake(loop);
}

es_connection *es_hosted_next(es_loop *loop, unsigned *what) {
  es_connection *c = loop->called.first;
  if (c == NULL)
    return NULL;
  loop->called.first = c->hosted.next;
  if (loop->called.first == NULL)
    loop->called.last = NULL;
  *what = c->hosted.calls;
  c->hosted.calls = 0;
  if (*what & ES_CALL_BYTES)
    c->hosted.coming = true;
  return c;
}

void es_hosted_forget(es_loop *loop) {
  unsigned what;
  while (es_hosted_next(loop, &what) != NULL)
    ;
  if (loop->hangups.set >= 0)
    close(loop->hangups.set);
  loop->hangups.set = -1;
}

/* --- Watching for clients that leave --- */

int es_hosted_watch(es_connection *c, int fd) {
  es_loop *loop = c->hosted.loop;
  if (loop->hangups.set < 0)
    loop->hangups.set = es_platform_hangups();
  if (loop->hangups.set < 0)
    return loop->hangups.set;
  int err = es_platform_hangups_add(loop->hangups.set, fd, c);
  if (err < 0)
    return err;
  c->fd = fd;
  loop->hangups.count++;
  return 0;
}

int es_hosted_look(es_loop *loop) {
  void *gone[64];
  size_t count = 0;
  if (loop->hangups.count == 0)
    return -1;
  uint64_t now = es_loop_now(loop);
  if (now < loop->hangups.next)
    return (int)(loop->hangups.next - now);
  do {
    count = es_platform_hangups_gone(loop->hangups.set, gone, 64);
    for (size_t i = 0; i < count; i++)
      es_connection_close(gone[i], ES_END_CLIENT); /* which removes it, and no other */
  } while (count == 64);
  loop->hangups.next = now + ES_LOOK_MS;
  return ES_LOOK_MS;
}

/* --- Offering and taking --- */

/* The holder is awaited, from the offer until it comes: the fan-out rests meanwhile. */
static void await(es_connection *c) {
  if (c->hosted.awaited)
    return;
  c->hosted.awaited = true;
  es_fanout_await(c->hosted.loop);
}

static void await_no_more(es_connection *c) {
  if (!c->hosted.awaited)
    return;
  c->hosted.awaited = false;
  es_fanout_came(c->hosted.loop);
}

void es_hosted_offer(es_connection *c) {
  if (!es_due_any(c)) {
    es_connection_wrote(c, 0, false);
    return;
  }
  c->writing = true;
  if (!c->full)
    await(c);
  es_hosted_call(c, ES_CALL_BYTES);
}

void es_hosted_take(es_connection *c, es_due *due) {
  await_no_more(c);
  due->bytes = 0;
  if (c->state == ES_CLOSED)
    return;
  c->full = false;
  es_due_gather(c, due);
  c->hosted.coming = due->bytes > 0;
  if (due->bytes > 0 || c->state == ES_CLOSED)
    return;
  es_subscriptions_release(c);
  es_connection_wrote(c, 0, false);
}

bool es_hosted_took(es_connection *c, const es_due *due, size_t bytes) {
  es_due_sent(c, due, bytes);
  c->full = true;
  es_loop_now(c->hosted.loop);
  /* at its end it has to come, so that the end waits for the socket */
  bool more = c->state != ES_ANSWERING || !c->exchange->streaming || es_due_any(c);
  c->hosted.coming = more;
  if (!more)
    es_subscriptions_release(c);
  es_connection_wrote(c, bytes, more);
  return more;
}

static void unwatch(es_connection *c) {
  if (c->fd < 0)
    return;
  es_platform_hangups_remove(c->hosted.loop->hangups.set, c->fd);
  c->hosted.loop->hangups.count--;
  c->fd = -1;
}

void es_hosted_closed(es_connection *c) {
  await_no_more(c);
  unwatch(c);
  es_hosted_call(c, ES_CALL_NEWS | ES_CALL_BYTES);
}

void es_hosted_free(es_connection *c) {
  if (c->state != ES_CLOSED)
    es_connection_close(c, ES_END_CLIENT);
  if (c->hosted.calls != 0)
    unlist(c);
  free(c);
}
