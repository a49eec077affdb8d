#include "core/response.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>

#define LINES_MAX 256

typedef struct line {
  size_t name, name_len, value, value_len; /* places in the text */
} line;

struct es_response {
  llhttp_t http;
  const es_response_hooks *hooks;
  void *owner;
  size_t header_bytes;
  char *text; /* names and values, side by side */
  size_t len, size;
  line *lines;
  size_t count, room;
  bool in_value, has_head, done, stopped;
  const char *reason;
};

static int refuse(es_response *r, const char *reason) {
  if (r->reason == NULL)
    r->reason = reason;
  return HPE_USER;
}

static int add(es_response *r, const char *at, size_t len) {
  if (len == 0)
    return 0;
  if (len > r->header_bytes - r->len)
    return refuse(r, "the answer's headers are too large");
  if (len > r->size - r->len) {
    size_t size = r->size > 0 ? r->size : 1024;
    while (size - r->len < len)
      size *= 2;
    char *text = realloc(r->text, size);
    if (text == NULL)
      return refuse(r, "out of memory");
    r->text = text;
    r->size = size;
  }
  memcpy(r->text + r->len, at, len);
  r->len += len;
  return 0;
}

static int on_name(llhttp_t *http, const char *at, size_t len) {
  es_response *r = http->data;
  if (r->has_head)
    return 0; /* trailers are dropped */
  if (r->in_value || r->count == 0) {
    if (r->count == LINES_MAX)
      return refuse(r, "the answer has too many headers");
    if (r->count == r->room) {
      size_t room = r->room > 0 ? r->room * 2 : 16;
      line *lines = realloc(r->lines, room * sizeof *lines);
      if (lines == NULL)
        return refuse(r, "out of memory");
      r->lines = lines;
      r->room = room;
    }
    r->lines[r->count++] = (line){.name = r->len};
    r->in_value = false;
  }
  r->lines[r->count - 1].name_len += len;
  return add(r, at, len);
}

static int on_value(llhttp_t *http, const char *at, size_t len) {
  es_response *r = http->data;
  if (r->has_head || r->count == 0)
    return 0;
  line *last = &r->lines[r->count - 1];
  if (!r->in_value)
    last->value = r->len;
  r->in_value = true;
  last->value_len += len;
  return add(r, at, len);
}

static int on_value_end(llhttp_t *http) {
  es_response *r = http->data;
  if (!r->has_head && r->count > 0 && !r->in_value) { /* an empty one */
    r->lines[r->count - 1].value = r->len;
    r->in_value = true;
  }
  return 0;
}

static int on_head(llhttp_t *http) {
  es_response *r = http->data;
  if (http->status_code < 200 && http->status_code != 101) { /* only an announcement of the answer */
    r->count = r->len = 0;
    r->in_value = false;
    return 0;
  }
  if (http->status_code == 101)
    return refuse(r, "the server has changed the protocol, unasked");
  r->has_head = true;
  if (!r->hooks->head(r->owner, r)) {
    r->stopped = true;
    return HPE_USER;
  }
  return 0;
}

static int on_body(llhttp_t *http, const char *at, size_t len) {
  es_response *r = http->data;
  if (r->hooks->body(r->owner, at, len))
    return 0;
  r->stopped = true;
  return HPE_USER;
}

static int on_done(llhttp_t *http) {
  es_response *r = http->data;
  if (!r->has_head)
    return 0;
  r->done = true;
  return HPE_PAUSED;
}

static llhttp_settings_t settings;

es_response *es_response_new(size_t header_bytes, const es_response_hooks *hooks, void *owner) {
  es_response *r = calloc(1, sizeof *r);
  if (r == NULL)
    return NULL;
  if (settings.on_body == NULL) {
    llhttp_settings_init(&settings);
    settings.on_header_field = on_name;
    settings.on_header_value = on_value;
    settings.on_header_value_complete = on_value_end;
    settings.on_headers_complete = on_head;
    settings.on_message_complete = on_done;
    settings.on_body = on_body;
  }
  llhttp_init(&r->http, HTTP_RESPONSE, &settings);
  r->http.data = r;
  r->hooks = hooks;
  r->owner = owner;
  r->header_bytes = header_bytes;
  return r;
}

void es_response_free(es_response *r) {
  if (r == NULL)
    return;
  free(r->text);
  free(r->lines);
  free(r);
}

static es_answer outcome(es_response *r, llhttp_errno_t err) {
  if (r->stopped)
    return ES_ANSWER_STOP;
  if (r->done)
    return ES_ANSWER_DONE;
  if (err == HPE_OK)
    return ES_ANSWER_MORE;
  if (r->reason == NULL)
    r->reason = "the answer is not HTTP/1.1 as it should be";
  return ES_ANSWER_ERROR;
}

es_answer es_response_feed(es_response *r, const char *bytes, size_t size) {
  es_answer answer = outcome(r, r->reason != NULL ? HPE_USER : HPE_OK);
  return answer == ES_ANSWER_MORE ? outcome(r, llhttp_execute(&r->http, bytes, size)) : answer;
}

es_answer es_response_finish(es_response *r) {
  es_answer answer = outcome(r, r->reason != NULL ? HPE_USER : HPE_OK);
  if (answer != ES_ANSWER_MORE)
    return answer;
  if (r->has_head && llhttp_message_needs_eof(&r->http)) {
    r->done = true;
    return ES_ANSWER_DONE;
  }
  r->reason = r->has_head ? "the connection was cut within the answer" : "the connection was closed before an answer";
  return ES_ANSWER_ERROR;
}

int es_response_status(const es_response *r) {
  return r->has_head ? r->http.status_code : 0;
}

bool es_response_header(const es_response *r, size_t i, es_slice *name, es_slice *value) {
  if (i >= r->count)
    return false;
  const line *l = &r->lines[i];
  const char *text = r->text != NULL ? r->text : "";
  *name = (es_slice){text + l->name, l->name_len};
  *value = (es_slice){text + l->value, l->value_len};
  return true;
}

const char *es_response_reason(const es_response *r) {
  return r->reason;
}
