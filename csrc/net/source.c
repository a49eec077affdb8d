#include "net/source.h"

#include <stdlib.h>

#define HEADER_BYTES 65536

static void on_timer(es_timer *timer);

es_source *es_source_new(es_loop *loop, size_t event_bytes, const es_source_hooks *hooks) {
  es_source *s = calloc(1, sizeof *s);
  if (s == NULL)
    return NULL;
  s->reader = es_reader_new(event_bytes);
  if (s->reader == NULL) {
    free(s);
    return NULL;
  }
  s->loop = loop;
  s->hooks = hooks;
  s->refs = 1;
  es_timer_init(loop, &s->timer, on_timer);
  return s;
}

void es_source_unref(es_source *s) {
  if (s == NULL || --s->refs > 0)
    return;
  es_reader_free(s->reader);
  free(s);
}

static void set_busy(es_source *s) {
  if (s->busy)
    return;
  s->busy = true;
  s->refs++;
  s->prev = NULL;
  s->next = s->loop->sources;
  if (s->next != NULL)
    s->next->prev = s;
  s->loop->sources = s;
  es_loop_hold(s->loop);
}

void es_source_stop(es_source *s) {
  if (!s->busy)
    return;
  s->busy = false;
  es_timer_stop(&s->timer);
  if (s->dial != NULL)
    es_dial_close(s->dial);
  s->dial = NULL;
  if (!s->in_body) { /* else whoever feeds it frees it */
    es_response_free(s->response);
    s->response = NULL;
  }
  if (s->prev != NULL)
    s->prev->next = s->next;
  else
    s->loop->sources = s->next;
  if (s->next != NULL)
    s->next->prev = s->prev;
  es_loop_release(s->loop);
  es_source_unref(s);
}

static void end(es_source *s, const char *why) {
  s->refs++;
  es_source_stop(s); /* the text may be the dial's, which stays until the callback is over */
  s->hooks->ended(s, why);
  es_source_unref(s);
}

static void on_timer(es_timer *timer) {
  es_source *s = (es_source *)((char *)timer - offsetof(es_source, timer));
  bool begun = s->dial != NULL && es_response_status(s->response) != 0;
  if (begun && s->paused && s->idle_seconds > 0 && es_timer_start(timer, s->idle_seconds, false) == 0)
    return; /* it is we who do not read */
  if (s->dial == NULL) {
    s->refs++;
    es_source_stop(s);
    s->hooks->due(s);
    es_source_unref(s);
  } else if (!es_dial_is_up(s->dial)) {
    end(s, "connect: it took too long");
  } else if (es_response_status(s->response) == 0) {
    end(s, "the server has not answered in time");
  } else {
    end(s, "the server was silent for too long");
  }
}

static bool on_head(void *owner, const es_response *response) {
  es_source *s = owner;
  const es_dial *dial = s->dial;
  if (!s->hooks->head(s, response) || s->dial != dial)
    return false;
  es_timer_stop(&s->timer);
  es_dial_pause(s->dial, s->paused);
  return true;
}

static bool on_body(void *owner, const char *bytes, size_t size) {
  es_source *s = owner;
  const es_dial *dial = s->dial;
  for (;;) {
    size_t taken;
    es_read what = es_reader_feed(s->reader, bytes, size, &taken);
    bytes += taken;
    size -= taken;
    if (what == ES_READ_MORE)
      return true;
    if (what == ES_READ_EVENT) {
      es_read_event event = es_reader_event(s->reader);
      s->hooks->event(s, &event);
    } else if (what == ES_READ_RETRY) {
      s->hooks->retry(s, es_reader_retry(s->reader));
    } else {
      end(s, what == ES_READ_LARGE ? "an event is larger than event_bytes" : "out of memory");
    }
    if (s->dial != dial)
      return false;
  }
}

static void on_bytes(void *owner, const char *bytes, size_t size) {
  es_source *s = owner;
  es_dial *dial = s->dial;
  es_response *response = s->response;
  s->refs++;
  s->in_body = true;
  es_answer answer = es_response_feed(response, bytes, size);
  s->in_body = false;
  if (s->dial != dial) { /* it was stopped */
    s->response = NULL;
    es_response_free(response);
  } else if (answer == ES_ANSWER_ERROR) {
    end(s, es_response_reason(response));
  } else if (answer != ES_ANSWER_MORE) {
    end(s, NULL);
  } else if (s->idle_seconds > 0 && es_response_status(response) != 0 &&
             es_timer_start(&s->timer, s->idle_seconds, false) != 0) {
    end(s, "out of memory");
  }
  es_source_unref(s);
}

static void on_ended(void *owner, const char *why) {
  es_source *s = owner;
  if (why == NULL && es_response_finish(s->response) == ES_ANSWER_ERROR)
    why = es_response_reason(s->response);
  end(s, why);
}

int es_source_open(es_source *s, const char *host, int port, es_tls_context *tls, es_slice text, double head_seconds,
                   double idle_seconds) {
  static const es_dial_hooks dial_hooks = {on_bytes, on_ended};
  static const es_response_hooks response_hooks = {on_head, on_body};
  int err = UV_ENOMEM;
  es_response *response = es_response_new(HEADER_BYTES, &response_hooks, s);
  if (response == NULL || es_timer_start(&s->timer, head_seconds, false) != 0) {
    es_response_free(response);
    return UV_ENOMEM;
  }
  es_dial *dial = es_dial_open(s->loop, host, port, tls, text, &dial_hooks, s, &err);
  if (dial == NULL) {
    es_timer_stop(&s->timer);
    es_response_free(response);
    return err;
  }
  s->response = response;
  s->dial = dial;
  s->idle_seconds = idle_seconds;
  es_reader_reset(s->reader);
  set_busy(s); /* paused or not: the head is read */
  return 0;
}

int es_source_wait(es_source *s, double seconds) {
  if (es_timer_start(&s->timer, seconds, false) != 0)
    return -1;
  set_busy(s);
  return 0;
}

void es_source_pause(es_source *s, bool pause) {
  s->paused = pause;
  if (s->dial != NULL && es_response_status(s->response) != 0)
    es_dial_pause(s->dial, pause);
}
