#include "net/dial.h"

#include "net/platform.h"
#include "net/timer.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESSES_MAX 16
#define NEXT_SECONDS 0.25 /* RFC 8305, 5: a next address is tried, too, when the last has not answered by then */
#define PIECE 16384       /* a TLS record's most */

/* One address that is tried. Frees itself when its handle is closed. */
typedef struct attempt {
  uv_tcp_t tcp;
  uv_connect_t connect;
  es_dial *dial; /* NULL: nobody waits for it */
  bool closing;
} attempt;

typedef struct writing {
  uv_write_t request;
  char bytes[];
} writing;

struct es_dial {
  es_loop *loop;
  const es_dial_hooks *hooks;
  void *owner;
  es_tls_context *context;
  es_tls *tls;
  uv_getaddrinfo_t resolve;
  es_job gone;   /* nobody is above it any more who looks at it */
  es_timer next; /* when the next address is tried */
  struct addrinfo *found;
  struct addrinfo *addresses[ADDRESSES_MAX]; /* in the order of trying, of those that were found */
  size_t count, tried;
  attempt *attempts[ADDRESSES_MAX]; /* those under way */
  attempt *up;                      /* the one that is the connection */
  int failure;                      /* the first address's */
  bool resolving, sent, paused, closed, ended;
  char *text;
  size_t text_len;
  char why[256];
  char host[];
};

static void free_dial(es_dial *d) {
  uv_freeaddrinfo(d->found);
  free(d->text);
  free(d);
}

static void run_gone(es_job *job) {
  free_dial((es_dial *)((char *)job - offsetof(es_dial, gone)));
}

static void on_attempt_closed(uv_handle_t *handle) {
  free(handle->data);
}

static void drop(attempt *a) {
  a->dial = NULL;
  if (a->closing)
    return;
  a->closing = true;
  uv_close((uv_handle_t *)&a->tcp, on_attempt_closed);
}

void es_dial_close(es_dial *d) {
  if (d->closed)
    return;
  d->closed = true;
  es_timer_stop(&d->next);
  for (size_t i = 0; i < d->tried; i++) {
    if (d->attempts[i] != NULL)
      drop(d->attempts[i]);
  }
  if (d->up != NULL)
    drop(d->up);
  if (d->tls != NULL)
    d->context->methods->close(d->tls);
  d->tls = NULL;
  if (d->resolving)
    uv_cancel((uv_req_t *)&d->resolve); /* its callback comes all the same */
  else
    es_loop_post(d->loop, &d->gone);
}

/* Tells the owner, once, who closes it. */
static void end(es_dial *d, const char *why) {
  if (d->ended || d->closed)
    return;
  d->ended = true;
  d->hooks->ended(d->owner, why);
}

static void end_with(es_dial *d, const char *what, const char *why) {
  snprintf(d->why, sizeof d->why, "%s: %s", what, why);
  end(d, d->why);
}

static void end_uv(es_dial *d, const char *what, int err) {
  snprintf(d->why, sizeof d->why, "%s: %s: %s", what, uv_err_name(err), uv_strerror(err));
  end(d, d->why);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf) {
  es_dial *d = ((attempt *)handle->data)->dial;
  (void)size;
  *buf = uv_buf_init(d->loop->read_buffer, ES_READ_BYTES);
}

static void on_written(uv_write_t *request, int status) {
  attempt *a = request->handle->data;
  es_dial *d = a->dial;
  es_loop *loop = a->tcp.loop->data;
  free(request);
  if (status != 0 && d != NULL)
    end_uv(d, "write", status);
  es_loop_settle(loop);
}

/* Sends bytes: those are few, and the socket is new. */
static bool put(es_dial *d, const char *bytes, size_t size) {
  writing *w = malloc(sizeof *w + size);
  if (w == NULL) {
    end(d, "out of memory");
    return false;
  }
  memcpy(w->bytes, bytes, size);
  uv_buf_t buf = uv_buf_init(w->bytes, (unsigned)size);
  int err = uv_write(&w->request, (uv_stream_t *)&d->up->tcp, &buf, 1, on_written);
  if (err == 0)
    return true;
  free(w);
  end_uv(d, "write", err);
  return false;
}

static bool send_text(es_dial *d) {
  d->sent = true;
  if (d->tls == NULL)
    return put(d, d->text, d->text_len);
  if (d->paused)
    uv_read_stop((uv_stream_t *)&d->up->tcp);
  if (d->context->methods->write(d->tls, d->text, d->text_len) == 0)
    return true;
  end_with(d, "tls", d->context->methods->error(d->tls));
  return false;
}

/* Sends what TLS has to say. */
static bool put_cipher(es_dial *d) {
  char bytes[4096];
  for (;;) {
    size_t size = d->context->methods->take(d->tls, bytes, sizeof bytes);
    if (size == 0)
      return true;
    if (!put(d, bytes, size))
      return false;
  }
}

/* Goes on with TLS, until it needs bytes of the peer's. */
static void step_tls(es_dial *d) {
  const es_tls_methods *tls = d->context->methods;
  char *plain = malloc(PIECE);
  es_tls_result result = ES_TLS_BYTES;
  if (plain == NULL) {
    end(d, "out of memory");
    return;
  }
  while (result == ES_TLS_BYTES && !d->ended && !d->closed) { /* the owner closes it where it likes */
    size_t got = 0;
    result = tls->read(d->tls, plain, PIECE, &got);
    if (result == ES_TLS_ERROR)
      snprintf(d->why, sizeof d->why, "tls: %s", tls->error(d->tls));
    else if (!d->sent && tls->ready(d->tls) && !send_text(d))
      break;
    if (!put_cipher(d)) /* also where it failed: the peer is told why */
      break;
    if (result == ES_TLS_ERROR)
      end(d, d->why);
    else if (result == ES_TLS_END)
      end(d, NULL);
    else if (result == ES_TLS_BYTES)
      d->hooks->bytes(d->owner, plain, got);
  }
  free(plain);
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buf) {
  es_dial *d = ((attempt *)stream->data)->dial;
  es_loop *loop = d->loop;
  if (size > 0 && d->tls != NULL) {
    if (d->context->methods->feed(d->tls, buf->base, (size_t)size) != 0)
      end(d, "out of memory");
    else
      step_tls(d);
  } else if (size > 0) {
    d->hooks->bytes(d->owner, buf->base, (size_t)size);
  } else if (size == UV_EOF && d->tls != NULL) {
    end(d, "tls: the connection was cut");
  } else if (size < 0) {
    if (size == UV_EOF)
      end(d, NULL);
    else
      end_uv(d, "read", (int)size);
  }
  es_loop_settle(loop);
}

static int start_reading(es_dial *d) {
  return uv_read_start((uv_stream_t *)&d->up->tcp, on_alloc, on_read);
}

/* One has answered: it is the connection, and the others are not waited for. */
static void begin(es_dial *d, attempt *a) {
  es_timer_stop(&d->next);
  for (size_t i = 0; i < d->tried; i++) {
    if (d->attempts[i] != NULL && d->attempts[i] != a)
      drop(d->attempts[i]);
    d->attempts[i] = NULL;
  }
  d->up = a;
  uv_os_fd_t fd;
  if (uv_fileno((uv_handle_t *)&a->tcp, &fd) == 0)
    es_platform_tune(fd);
  if (d->context != NULL) {
    d->tls = d->context->methods->open(d->context, d->host);
    if (d->tls == NULL) {
      end(d, "out of memory");
      return;
    }
  } else if (!send_text(d)) {
    return;
  }
  int err = d->paused && d->context == NULL ? 0 : start_reading(d);
  if (err != 0)
    end_uv(d, "read", err);
  else if (d->tls != NULL)
    step_tls(d);
}

static void try_next(es_dial *d);

static void on_connected(uv_connect_t *request, int status) {
  attempt *a = request->handle->data;
  es_dial *d = a->dial;
  if (d == NULL)
    return;
  es_loop *loop = d->loop;
  if (status == 0) {
    begin(d, a);
  } else {
    if (d->failure == 0)
      d->failure = status;
    for (size_t i = 0; i < d->tried; i++) {
      if (d->attempts[i] == a)
        d->attempts[i] = NULL;
    }
    drop(a);
    try_next(d);
  }
  es_loop_settle(loop);
}

static attempt *attempt_new(es_dial *d, const struct addrinfo *address) {
  attempt *a = calloc(1, sizeof *a);
  if (a == NULL)
    return NULL;
  int err = uv_tcp_init(&d->loop->uv, &a->tcp);
  if (err != 0) {
    free(a);
    return NULL;
  }
  a->tcp.data = a;
  a->dial = d;
  err = uv_tcp_connect(&a->connect, &a->tcp, address->ai_addr, on_connected);
  if (err == 0)
    return a;
  if (d->failure == 0)
    d->failure = err;
  drop(a);
  return NULL;
}

/* Tries the next address, until one can be tried; where none is left and none is under way, it is over. */
static void try_next(es_dial *d) {
  es_timer_stop(&d->next);
  while (d->tried < d->count) {
    size_t i = d->tried++;
    d->attempts[i] = attempt_new(d, d->addresses[i]);
    if (d->attempts[i] == NULL)
      continue;
    if (d->tried < d->count)
      es_timer_start(&d->next, NEXT_SECONDS, false); /* without memory for it, the next waits for this one's end */
    return;
  }
  for (size_t i = 0; i < d->tried; i++) {
    if (d->attempts[i] != NULL)
      return;
  }
  end_uv(d, "connect", d->failure != 0 ? d->failure : UV_ENOMEM);
}

static void on_next(es_timer *timer) {
  try_next((es_dial *)((char *)timer - offsetof(es_dial, next)));
}

/* The system's order is RFC 6724's; the second to be tried is of the other family (RFC 8305, 4). */
static void put_in_order(es_dial *d) {
  for (struct addrinfo *a = d->found; a != NULL && d->count < ADDRESSES_MAX; a = a->ai_next)
    d->addresses[d->count++] = a;
  for (size_t i = 2; i < d->count && d->addresses[0]->ai_family == d->addresses[1]->ai_family; i++) {
    if (d->addresses[i]->ai_family == d->addresses[0]->ai_family)
      continue;
    struct addrinfo *other = d->addresses[i];
    memmove(&d->addresses[2], &d->addresses[1], (i - 1) * sizeof d->addresses[0]);
    d->addresses[1] = other;
  }
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found) {
  es_dial *d = (es_dial *)((char *)request - offsetof(es_dial, resolve));
  es_loop *loop = d->loop;
  d->resolving = false;
  d->found = found;
  if (d->closed) {
    free_dial(d);
    return;
  }
  if (status != 0) {
    snprintf(d->why, sizeof d->why, "resolve: %s: %s: %.150s", uv_err_name(status), uv_strerror(status), d->host);
    end(d, d->why);
  } else {
    put_in_order(d);
    try_next(d);
  }
  es_loop_settle(loop);
}

es_dial *es_dial_open(es_loop *loop, const char *host, int port, es_tls_context *tls, es_slice text,
                      const es_dial_hooks *hooks, void *owner, int *err) {
  size_t host_len = strlen(host);
  es_dial *d = calloc(1, sizeof *d + host_len + 1);
  *err = UV_ENOMEM;
  if (d == NULL)
    return NULL;
  memcpy(d->host, host, host_len + 1);
  d->loop = loop;
  d->hooks = hooks;
  d->owner = owner;
  d->context = tls;
  d->text = malloc(text.len);
  d->gone.run = run_gone;
  es_timer_init(loop, &d->next, on_next);
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  char service[16];
  snprintf(service, sizeof service, "%d", port);
  if (d->text != NULL)
    *err = uv_getaddrinfo(&loop->uv, &d->resolve, on_resolved, host, service, &hints);
  if (*err != 0) {
    free_dial(d);
    return NULL;
  }
  memcpy(d->text, text.ptr, text.len);
  d->text_len = text.len;
  d->resolving = true;
  return d;
}

bool es_dial_is_up(const es_dial *d) {
  return d->up != NULL && d->sent;
}

void es_dial_pause(es_dial *d, bool pause) {
  if (d->paused == pause)
    return;
  d->paused = pause;
  if (d->up == NULL || d->closed || d->ended || !d->sent)
    return;
  if (pause)
    uv_read_stop((uv_stream_t *)&d->up->tcp);
  else if (start_reading(d) != 0)
    end(d, "out of memory");
}
