/*
 * hub_floor: the least that a server can do to bring the same events to many, to hold the others against.
 *
 *   hub_floor PORT [MILLISECONDS]
 *
 * GET /events: the head and a first frame, then every event. GET /start?rate=R&count=N publishes. An event is encoded
 * once, into a ring. Without MILLISECONDS it is written to every subscriber at once, by one write each. With them, a
 * subscriber gets by one write what has fallen due in so many milliseconds. What a socket does not take goes with the
 * next write; a subscriber that falls behind by the whole ring is dropped.
 */
#include "bare.h"
#include "schedule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RING_BYTES (1u << 22)
#define MILLISECOND 1000000

typedef struct client {
  bare_client base;
  int place;       /* in `subscribers`, counted from 1; 0 where it is none */
  uint64_t cursor; /* bytes of the ring's history that it has */
} client;

static struct {
  schedule schedule;
  int64_t batch; /* ns; 0: none */
  int64_t tick;  /* when the next batch is due, in ns */
  int count;
  client *subscribers[BARE_MAX_CLIENTS];
  uint64_t head; /* bytes ever written to the ring */
  char ring[RING_BYTES];
} it;

static void on_close(bare_client *base) {
  client *c = (client *)base;
  if (c->place == 0)
    return;
  client *last = it.subscribers[--it.count];
  it.subscribers[c->place - 1] = last;
  last->place = c->place;
}

static void on_request(bare_client *base, const char *target) {
  client *c = (client *)base;
  if (strcmp(target, "/events") == 0) {
    if (bare_begin(base) != 0)
      return;
    c->cursor = it.head;
    it.subscribers[it.count++] = c;
    c->place = it.count;
  } else if (schedule_start(&it.schedule, target) == 0) {
    it.tick = it.schedule.start + it.batch;
    bare_answer(base, 200, "ok\n");
  } else {
    bare_answer(base, 404, "not found\n");
  }
}

/* The id is as long as one of eventstream's, so that the bytes are as many. */
static void publish(const char *data) {
  char text[160], frame[192];
  int length =
      snprintf(text, sizeof text, "id: 0123456789abcdef-%lld\ndata: %s\n\n", (long long)it.schedule.next, data);
  size_t left = (size_t)snprintf(frame, sizeof frame, "%x\r\n%s\r\n", (unsigned)length, text);
  for (const char *p = frame; left > 0;) {
    size_t at = it.head % RING_BYTES;
    size_t some = left < RING_BYTES - at ? left : RING_BYTES - at;
    memcpy(it.ring + at, p, some);
    it.head += some;
    p += some;
    left -= some;
  }
}

/* Brings a subscriber to the head: one write, or two where the ring wraps. */
static void subscriber_write(client *c) {
  if (it.head - c->cursor > RING_BYTES) {
    bare_close(&c->base);
    return;
  }
  while (c->cursor < it.head) {
    size_t at = c->cursor % RING_BYTES, length = (size_t)(it.head - c->cursor);
    if (length > RING_BYTES - at)
      length = RING_BYTES - at;
    ssize_t written = write(c->base.fd, it.ring + at, length);
    if (written < 0) {
      if (errno != EAGAIN)
        bare_close(&c->base);
      return;
    }
    c->cursor += (uint64_t)written;
    if ((size_t)written < length)
      return;
  }
}

/* From the last one, because a subscriber that is closed is replaced by the last. */
static void pass(void) {
  for (int i = it.count - 1; i >= 0; i--)
    subscriber_write(it.subscribers[i]);
}

static int64_t due(void) {
  int64_t next = schedule_due(&it.schedule);
  if (next >= 0 && it.batch > 0)
    next = it.tick;
  return next < 0 ? -1 : (next + MILLISECOND - 1) / MILLISECOND;
}

static void run_due(void) {
  char data[SCHEDULE_DATA + 1];
  if (it.batch == 0) {
    while (schedule_take(&it.schedule, schedule_now(), data)) {
      publish(data);
      pass();
    }
    return;
  }
  int64_t now = schedule_now();
  if (schedule_due(&it.schedule) < 0 || now < it.tick)
    return;
  while (schedule_take(&it.schedule, now, data))
    publish(data);
  it.tick += ((now - it.tick) / it.batch + 1) * it.batch;
  pass();
}

int main(int argc, char **argv) {
  static const bare_server server = {sizeof(client), on_request, on_close, due, run_due};
  int port = argc >= 2 ? atoi(argv[1]) : 0;
  int batch = argc == 3 ? atoi(argv[2]) : 0;
  if (argc > 3 || port < 1 || port > 65535 || batch < 0 || batch > 1000) {
    fprintf(stderr, "usage: hub_floor PORT [MILLISECONDS]\n");
    return 2;
  }
  it.batch = (int64_t)batch * MILLISECOND;
  return bare_serve("hub_floor", port, &server);
}
