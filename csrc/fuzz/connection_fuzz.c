/* One connection without Lua, from its first byte to its last: what a client sends comes in any cut, the kernel takes what it
 * likes of the answers, time passes, and the client may leave at any place. The requests that arrive are those that the
 * parser finds in the whole, in their order; what goes out is made of whole answers, each to one of them; and nothing is
 * left behind. */
#include "net/head.h"
#include "net/server.h"
#include "test/check.h"
#include "test/memory.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUESTS_MAX 64
#define OUT_MAX (1 << 18)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static es_loop loop;
static es_server *server;
static uint64_t clock_ms;
static const uint8_t *script; /* what happens, and in what order */
static size_t script_left;

/* The kernel's side. */
static size_t room;
static int failure;
static char out[OUT_MAX];
static size_t out_size;
static bool fails; /* memory did */

/* What the whole of the input holds, and what came of it. */
typedef struct asked {
  bool head;
  uint32_t hash;
} asked;

static asked expected[REQUESTS_MAX];
static size_t expected_count, arrived;
static bool any; /* who speaks first a proxy's header, or nothing of the kind, is not understood beforehand */
static es_exchange *pending;

ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
uint64_t __wrap_uv_now(const uv_loop_t *uv);
uint64_t __wrap_uv_hrtime(void);

uint64_t __wrap_uv_now(const uv_loop_t *uv) {
  (void)uv;
  return clock_ms;
}

uint64_t __wrap_uv_hrtime(void) {
  return clock_ms * 1000000;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
  size_t taken = 0;
  (void)fd;
  (void)flags;
  if (failure != 0) {
    errno = failure;
    failure = 0;
    return -1;
  }
  for (size_t i = 0; i < (size_t)message->msg_iovlen; i++) {
    size_t len = message->msg_iov[i].iov_len, n = len < room ? len : room;
    if (n > sizeof out - out_size)
      n = sizeof out - out_size;
    memcpy(out + out_size, message->msg_iov[i].iov_base, n);
    out_size += n;
    room -= n;
    taken += n;
    if (n < len)
      break;
  }
  if (taken > 0)
    return (ssize_t)taken;
  errno = EAGAIN;
  return -1;
}

ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags) {
  struct iovec slice = {(void *)(uintptr_t)bytes, size};
  struct msghdr message = {.msg_iov = &slice, .msg_iovlen = 1};
  return __wrap_sendmsg(fd, &message, flags);
}

static unsigned next(void) {
  if (script_left == 0)
    return 0;
  script_left--;
  return *script++;
}

static uint32_t mix(uint32_t hash, es_slice text) {
  for (size_t i = 0; i < text.len; i++)
    hash = (hash ^ (uint8_t)text.ptr[i]) * 16777619u;
  return (hash ^ (uint32_t)text.len) * 16777619u;
}

static asked look(const es_request *r) {
  uint32_t hash = mix(mix(mix(2166136261u, r->method), r->target), r->body);
  for (size_t i = 0; i < r->header_count; i++)
    hash = mix(mix(hash, r->headers[i].name), r->headers[i].value);
  return (asked){r->head, hash};
}

/* --- What a script might do --- */

static void let_go(void) {
  if (pending == NULL)
    return;
  pending->user = NULL;
  es_exchange_unref(pending);
  pending = NULL;
}

static void act(unsigned what) {
  static const char text[] = "an answer of some length";
  es_exchange *x = pending;
  if (x == NULL)
    return;
  if (x->streaming && x->head_sent) {
    es_event event = ES_EVENT_INIT;
    event.data = (es_slice){text, what % sizeof text};
    if (what & 128)
      es_exchange_end(x, ES_END_SERVER);
    else if (what & 64)
      es_exchange_expire(x, what % 8);
    else
      (void)es_exchange_send(x, &event);
    return;
  }
  switch (what % 8) {
  case 0:
  case 1:
  case 2:
    es_exchange_answer(x, 200, (es_slice){"", 0}, (es_slice){text, what / 8 % sizeof text});
    break;
  case 3:
    es_exchange_answer(x, 204, (es_slice){"", 0}, (es_slice){"", 0});
    break;
  case 4:
  case 5:
    es_exchange_stream(x);
    if (what & 64) /* its handler waits before it begins */
      es_exchange_expire(x, what / 8 % 8);
    else if (x->reason == ES_OPEN)
      (void)es_exchange_open(x, (es_slice){"", 0});
    break;
  case 6:
    es_exchange_fail(x, 500, (es_slice){"", 0}, (es_slice){text, 5});
    break;
  default:
    es_exchange_come_back(x, ES_END_SERVER);
  }
}

static void on_request(es_exchange *x) {
  asked now = look(x->request);
  if (!any) {
    CHECK(arrived < expected_count);
    CHECK(expected[arrived].hash == now.hash);
  } else if (arrived < REQUESTS_MAX) {
    expected[arrived] = now;
  }
  arrived++;
  CHECK(pending == NULL || pending->reason != ES_OPEN); /* one at a time, in order */
  let_go();
  pending = es_exchange_ref(x);
  unsigned what = next();
  if (what & 1)
    act(what >> 1);
}

static void on_nothing(es_exchange *x) {
  (void)x;
}

static void on_end(es_exchange *x) {
  if (x == pending)
    let_go();
}

static void on_closed(es_server *closed) {
  (void)closed;
}

static const es_handlers handlers = {
    .on_request = on_request, .on_room = on_nothing, .on_gone = on_nothing, .on_end = on_end, .on_closed = on_closed};

/* --- What must hold --- */

static void expect(const uint8_t *bytes, size_t size) {
  es_parser *parser = es_parser_new(server->limits.header_bytes, server->limits.body_bytes, NULL);
  expected_count = 0;
  for (size_t at = 0; at < size && expected_count < REQUESTS_MAX;) {
    size_t taken;
    es_parse result = es_parser_feed(parser, (const char *)bytes + at, size - at, &taken);
    at += taken;
    if (result != ES_PARSE_DONE && result != ES_PARSE_CONTINUE)
      break;
    if (result == ES_PARSE_DONE) {
      es_request *r = es_parser_take(parser);
      expected[expected_count++] = look(r);
      es_request_unref(r);
    }
  }
  es_parser_free(parser);
}

/* The length of a chunked body; -1: it goes on. */
static long chunks(const char *at, const char *end) {
  const char *start = at;
  for (;;) {
    const char *line = memchr(at, '\n', (size_t)(end - at));
    if (line == NULL)
      return -1;
    char *stop;
    unsigned long len = strtoul(at, &stop, 16);
    CHECK(stop > at && stop + 1 == line && *stop == '\r');
    at = line + 1;
    if (len + 2 > (unsigned long)(end - at))
      return -1;
    CHECK(at[len] == '\r' && at[len + 1] == '\n');
    at += len + 2;
    if (len == 0)
      return at - start;
  }
}

static bool has(const char *head, const char *end, const char *text) {
  size_t len = strlen(text);
  for (; (size_t)(end - head) >= len; head++) {
    if (memcmp(head, text, len) == 0)
      return true;
  }
  return false;
}

/* What went out is a row of answers, of which the last may be cut. */
static void check_out(void) {
  static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
  const char *at = out, *end = out + out_size;
  size_t answers = 0;
  while (at < end) {
    size_t left = (size_t)(end - at), known = left < sizeof go_on - 1 ? left : sizeof go_on - 1;
    if (memcmp(at, go_on, known) == 0 && known > 9) {
      at += known;
      continue;
    }
    CHECK(memcmp(at, "HTTP/1.1 ", left < 9 ? left : 9) == 0);
    const char *body = at;
    while (body + 4 <= end && memcmp(body, "\r\n\r\n", 4) != 0)
      body++;
    if (body + 4 > end)
      return;
    body += 4;
    answers++;
    CHECK(answers <= arrived + 1); /* one may refuse what is no request */
    bool bare = answers <= arrived && answers <= REQUESTS_MAX && expected[answers - 1].head;
    long length = 0;
    const char *name = at;
    while (name < body && strncmp(name, "\r\nContent-Length: ", 18) != 0)
      name++;
    if (has(at, body, "\r\nTransfer-Encoding: chunked\r\n"))
      length = bare ? 0 : chunks(body, end);
    else if (name < body)
      length = bare ? 0 : strtol(name + 18, NULL, 10);
    else if (!bare && memcmp(at + 9, "204", 3) != 0)
      return; /* until the connection is closed */
    if (length < 0 || length > end - body)
      return;
    at = body + length;
  }
}

/* --- The run --- */

static void run(int seconds) {
  clock_ms += (uint64_t)seconds * 1000 + 1;
  es_loop_turn(&loop, false);
  es_loop_tick(&loop);
}

static void step(int *fd, const uint8_t **bytes, size_t *size) {
  unsigned what = next();
  size_t len = what >> 2;
  switch (what & 3) {
  case 0: /* bytes come */
    if (what == 252)
      len = *size;
    if (len > *size)
      len = *size;
    if (*fd >= 0 && len > 0 && write(*fd, *bytes, len) == (ssize_t)len) {
      *bytes += len;
      *size -= len;
    }
    run(0);
    break;
  case 1: /* a script does something, at any time */
    act(next());
    run(0);
    break;
  case 2: /* the kernel has room, or none; time passes */
    room = what & 128 ? SIZE_MAX : len % 32 * 7;
    if ((what & 124) == 124)
      failure = EPIPE;
    run(what & 64 ? (int)len % 32 : 0);
    break;
  default: /* the client leaves; memory fails; the app ends */
    if (*fd >= 0 && (what & 12) == 0) {
      shutdown(*fd, SHUT_WR);
    } else if (*fd >= 0 && (what & 12) == 4) {
      close(*fd);
      *fd = -1;
    } else if ((what & 12) == 8) {
      memory_fails_next = what >> 4;
      fails = any = true;
    } else if (what > 240) {
      es_server_close(server, 1, 1);
    }
    run(0);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  int pair[2];
  if (size < 4)
    return 0;
  signal(SIGPIPE, SIG_IGN);
  size_t before = memory_live, script_size = input[0] < size - 4 ? input[0] : size - 4;
  unsigned options = input[1], address = input[2];
  script = input + 4;
  script_left = script_size;
  const uint8_t *bytes = script + script_size;
  size = size - 4 - script_size;
  clock_ms = 1000;
  room = SIZE_MAX;
  failure = 0;
  out_size = arrived = expected_count = 0;
  memory_fails_next = 0;
  fails = false;
  es_network loopback = {.peer = {.family = ES_IPV4, .address = {127}}, .bits = 8};
  if (es_loop_init(&loop) != 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
    abort();
  server = es_server_new(&loop);
  CHECK(server != NULL);
  server->limits = (es_limits){.connections = 1,
                               .address_connections = options & 1,
                               .loopback = true,
                               .header_bytes = options & 2 ? 300 : 2000,
                               .body_bytes = options & 4 ? 20 : 1000,
                               .backlog_bytes = 100,
                               .pipelined = options & 8 ? 2 : 100,
                               .header_seconds = 5,
                               .body_seconds = 5,
                               .keep_alive_seconds = 5,
                               .stream_seconds = options & 16 ? 8 : 0};
  server->pool.budget.limit = options & 32 ? 200 : SIZE_MAX;
  server->heartbeat_seconds = 4;
  server->retry_ms = 1000;
  server->handlers = &handlers;
  es_network *networks = malloc(sizeof *networks);
  CHECK(networks != NULL);
  *networks = loopback;
  server->trust = (es_trust){.networks = networks, .count = 1, .forwarded = options & 64};
  es_accepted accepted = {.peer = {.family = ES_IPV4, .address = {address & 1 ? 127 : 10}}};
  accepted.proxied = any = options & 128;
  if (server->pool.budget.limit != SIZE_MAX)
    any = true; /* what waits decides which bodies are taken */
  expect(bytes, size);
  es_connection_new(server, pair[0], &accepted);
  int fd = pair[1];
  while (script_left > 0)
    step(&fd, &bytes, &size);
  room = SIZE_MAX;
  memory_fails_next = 0;
  if (fd >= 0 && size > 0 && write(fd, bytes, size) != (ssize_t)size)
    any = true;
  run(0);
  act(0);
  for (int i = 0; i < 4; i++)
    run(0);
  if (!fails)
    check_out();
  if (fd >= 0)
    close(fd);
  for (int i = 0; i < 400 && server->connections != NULL; i++) { /* one pipelined request in each */
    if (pending != NULL)
      es_exchange_end(pending, ES_END_SERVER);
    run(11);
  }
  CHECK(server->connections == NULL && server->stats.connections == 0 && server->stats.streams == 0);
  CHECK(server->pool.budget.used == 0 && server->callers.count == 0);
  let_go();
  es_loop_free(&loop);
  CHECK(memory_live == before);
  return 0;
}
