/* source: an event stream that is read: one request after another to a server, and the events of its answers.
 *
 * What is asked of whom, and when again, is the layer above's to say. What lasts from one connection to the next, the last
 * event id, is here. Counted: by the loop while it is busy, and by who made it. */
#ifndef ES_NET_SOURCE_H
#define ES_NET_SOURCE_H

#include "core/reader.h"
#include "core/response.h"
#include "net/dial.h"
#include "net/timer.h"

typedef struct es_source es_source;

/* Called in a turn. Each may stop the source, and let it wait; only ended and due may open it. After es_source_stop none comes
 * until the next es_source_open or es_source_wait. */
typedef struct es_source_hooks {
  bool (*head)(es_source *source, const es_response *response); /* false: no more is to be read */
  void (*event)(es_source *source, const es_read_event *event);
  void (*retry)(es_source *source, uint32_t milliseconds);
  void (*ended)(es_source *source, const char *why); /* NULL: in good order */
  void (*due)(es_source *source);                    /* es_source_wait's time has come */
} es_source_hooks;

struct es_source {
  /* read-only */
  es_loop *loop;
  es_reader *reader;
  bool busy; /* it is open, or waits */
  /* set by the layer above */
  void *owner;
  /* private */
  const es_source_hooks *hooks;
  uint32_t refs;
  bool paused, in_body;
  double idle_seconds; /* 0: no limit */
  es_dial *dial;
  es_response *response;
  es_timer
      timer; /* until the answer's head is there; then, until bytes must come; or, between two, of es_source_wait */
  es_source *prev, *next;
};

/* NULL when memory is out. The caller holds one reference. */
es_source *es_source_new(es_loop *loop, size_t event_bytes, const es_source_hooks *hooks);
void es_source_unref(es_source *source); /* NULL is allowed */

/* Asks: text is the whole request. head_seconds is how long the answer's head may take; idle_seconds how long it may be
 * silent after that, 0 for ever. 0 or a negative libuv error. It must be neither open nor waiting. */
int es_source_open(es_source *source, const char *host, int port, es_tls_context *tls, es_slice text,
                   double head_seconds, double idle_seconds);

/* Calls due after so many seconds: 0, or -1 when memory is out. It must not be open. */
int es_source_wait(es_source *source, double seconds);

/* Reads no more for a while, also from the next connections. */
void es_source_pause(es_source *source, bool pause);

/* Ends the connection, or the waiting; idempotent. */
void es_source_stop(es_source *source);
#endif
