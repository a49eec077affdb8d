/*
 * floor: the least that a server can do for the same bytes, to hold the others against.
 *
 *   floor PORT
 *
 * GET /idle: the head and a first frame. GET /ping: the same, then the unix time as a frame every 500 ms, each client
 * at its own phase. All intervals are equal, so the clients stand in one queue in the order in which they fall due; a
 * frame is made once a second and written as it is. A client whose socket does not take a frame at once is dropped.
 */
#include "bare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INTERVAL 500 /* ms */

typedef struct client {
  bare_client base;
  struct client *previous, *next; /* in the queue, if `due` is not 0 */
  int64_t due;
} client;

static struct {
  client *first, *last;
  time_t made; /* when the frame was made */
  size_t frame_length;
  char frame[128];
} it;

static void queue_remove(client *c) {
  if (c->due == 0)
    return;
  *(c->previous != NULL ? &c->previous->next : &it.first) = c->next;
  *(c->next != NULL ? &c->next->previous : &it.last) = c->previous;
  c->due = 0;
}

/* Equal intervals: the newest due time belongs at the end. Only one that missed ticks may stand before others. */
static void queue_add(client *c, int64_t due) {
  client *before = it.last;
  while (before != NULL && before->due > due)
    before = before->previous;
  c->due = due;
  c->previous = before;
  c->next = before != NULL ? before->next : it.first;
  *(c->previous != NULL ? &c->previous->next : &it.first) = c;
  *(c->next != NULL ? &c->next->previous : &it.last) = c;
}

static void on_close(bare_client *base) {
  queue_remove((client *)base);
}

static void on_request(bare_client *base, const char *target) {
  if (bare_begin(base) == 0 && strcmp(target, "/ping") == 0)
    queue_add((client *)base, bare_now() + INTERVAL);
}

/* Makes the frame of the present second. */
static void make_frame(void) {
  time_t t = time(NULL);
  if (t == it.made)
    return;
  char text[96];
  int length = snprintf(text, sizeof text, "id: %lld\nevent: ping\ndata: %lld\n\n", (long long)t, (long long)t);
  it.frame_length = (size_t)snprintf(it.frame, sizeof it.frame, "%x\r\n%s\r\n", (unsigned)length, text);
  it.made = t;
}

static int64_t due(void) {
  return it.first != NULL ? it.first->due : -1;
}

static void write_due(void) {
  if (it.first == NULL)
    return;
  int64_t present = bare_now();
  if (it.first->due <= present)
    make_frame();
  while (it.first != NULL && it.first->due <= present) {
    client *c = it.first;
    int64_t next = c->due + INTERVAL;
    if (next <= present)
      next += (present - next) / INTERVAL * INTERVAL + INTERVAL;
    queue_remove(c);
    if (bare_write(&c->base, it.frame, it.frame_length) == 0)
      queue_add(c, next);
  }
}

int main(int argc, char **argv) {
  static const bare_server server = {sizeof(client), on_request, on_close, due, write_due};
  int port = argc == 2 ? atoi(argv[1]) : 0;
  if (port < 1 || port > 65535) {
    fprintf(stderr, "usage: floor PORT\n");
    return 2;
  }
  return bare_serve("floor", port, &server);
}
