#include "fuzz/stream_client.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

client clients[CLIENTS];
es_loop loop;
es_server *server;
bool running, relaxed;
uint64_t clock_ns, clock_step_ns, grace_ns;

void say(const char *format, ...) {
  static int says = -1;
  va_list arguments;
  if (says < 0)
    says = getenv("FUZZ_SAYS") != NULL;
  if (says == 0)
    return;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
}
int number_of(const client *c) {
  return (int)(c - clients);
}

/* --- What the linker sends here --- */

ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
uint64_t __wrap_uv_now(const uv_loop_t *uv);
uint64_t __wrap_uv_hrtime(void);

uint64_t __wrap_uv_now(const uv_loop_t *uv) {
  (void)uv;
  return clock_ns / 1000000;
}

uint64_t __wrap_uv_hrtime(void) {
  return clock_ns += clock_step_ns;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
  client *c = clients;
  (void)flags;
  while (c < clients + CLIENTS && c->server_fd != fd)
    c++;
  CHECK(c < clients + CLIENTS && running);
  if (c->error != 0) {
    errno = c->error;
    c->error = 0;
    if (errno != EINTR)
      c->cut_ok = true;
    return -1;
  }
  if (c->fd < 0) {
    errno = EPIPE;
    return -1;
  }
  size_t taken = 0;
  c->full = false;
  for (size_t i = 0; i < (size_t)message->msg_iovlen; i++) {
    size_t len = message->msg_iov[i].iov_len, n = len < c->room ? len : c->room;
    CHECK(len > 0);
    if (c->size + n > c->capacity) {
      c->capacity = (c->size + n) * 2;
      c->bytes = own(c->bytes, c->capacity);
    }
    if (n > 0)
      memcpy(c->bytes + c->size, message->msg_iov[i].iov_base, n);
    c->size += n;
    taken += n;
    if (c->room != SIZE_MAX)
      c->room -= n;
    if (n < len) {
      c->full = true;
      c->refused = step_now;
      break;
    }
  }
  say("  client %d takes %zu%s\n", number_of(c), taken, c->full ? ", and is full" : "");
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

/* --- The client's side --- */

bool is_open(const client *c) {
  return c->exchange != NULL && c->exchange->reason == ES_OPEN;
}

bool is_connected(const client *c) {
  const es_connection *at = server != NULL ? server->connections : NULL;
  while (at != NULL && at != c->connection)
    at = at->next;
  return c->connection != NULL && at != NULL && at->fd == c->server_fd;
}

bool was_full(const client *c) {
  return c->full || (c->refused > 0 && c->refused + 1 >= step_now);
}

static void take_event(client *c, const char *bytes, size_t size) {
  char text[TEXT_MAX];
  CHECK(size > 2 && size < sizeof text && memcmp(bytes + size - 2, "\n\n", 2) == 0);
  memcpy(text, bytes, size);
  text[size] = '\0';
  CHECK(strlen(text) == size && strstr(text, "\n\n") == text + size - 2); /* one event, and a whole one */
  if (strncmp(text, "id: ", 4) == 0) {
    size_t len = strcspn(text + 4, "\n");
    CHECK(len < sizeof c->id);
    memcpy(c->id, text + 4, len);
    c->id[len] = '\0';
  }
  say("  client %d receives %.40s", number_of(c), text);
  say("%s", size > 40 ? "...\n" : "");
  if (!relaxed)
    receive(&c->expected, text, c->refused);
}

/* One piece of what came; false when it is not whole yet. */
static bool take_piece(client *c) {
  if (c->serial == 0)
    c->read = c->size; /* it came too late, and was refused */
  if (c->read == c->size)
    return false;
  char *at = c->bytes + c->read, *end = c->bytes + c->size;
  if (!c->head) {
    char *blank = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
    if (blank == NULL)
      return false;
    CHECK((size_t)(end - at) > 12 && memcmp(at, "HTTP/1.1 200", 12) == 0);
    c->chunked = memmem(at, (size_t)(blank - at), "Transfer-Encoding: chunked", 26) != NULL;
    c->head = true;
    c->read += (size_t)(blank + 4 - at);
    return true;
  }
  CHECK(!c->expected.ended);
  if (!c->chunked) {
    char *blank = memmem(at, (size_t)(end - at), "\n\n", 2);
    if (blank == NULL)
      return false;
    c->read += (size_t)(blank + 2 - at);
    take_event(c, at, (size_t)(blank + 2 - at));
    return true;
  }
  char *line = memchr(at, '\n', (size_t)(end - at)), *behind;
  if (line == NULL)
    return false;
  size_t size = strtoul(at, &behind, 16);
  CHECK(behind > at && behind == line - 1 && *behind == '\r');
  if ((size_t)(end - line - 1) < size + 2)
    return false;
  CHECK(memcmp(line + 1 + size, "\r\n", 2) == 0);
  c->read += (size_t)(line + 1 + size + 2 - at);
  if (size > 0)
    take_event(c, line + 1, size);
  else if (!relaxed)
    receive(&c->expected, "(the last chunk)\n", c->refused);
  else
    c->expected.ended = true;
  return true;
}

/* What the core did of itself since the last look: groups that are complete, streams that have ended. */
static void sync_client(client *c) {
  es_exchange *x = c->exchange;
  expectation *e = &c->expected;
  if (c->full)
    c->refused = step_now; /* it still does */
  if (c->serial != 0 && !c->gone && !is_connected(c)) {
    c->gone = true;
    c->cut_ok = c->cut_ok || was_full(c) || clock_ns >= grace_ns;
  }
  if (x == NULL || c->over || relaxed)
    return;
  bool cut = x->reason == ES_END_CLIENT || x->reason == ES_END_TIMEOUT || x->reason == ES_END_SLOW;
  if (e->open != 0 && (x->reason != ES_OPEN || x->connection->group == NULL))
    expect_header(e, server->epoch);
  if (x->reason == ES_OPEN)
    return;
  say("  client %d is over: %s\n", number_of(c), es_reason_name(x->reason));
  c->over = true;
  if (x->reason == ES_END_SLOW)
    CHECK(was_full(c) || c->cut_ok); /* nobody is slow whose socket takes all */
  if (x->reason == ES_END_CLIENT)
    CHECK(c->left || c->cut_ok);
  c->cut_ok = c->cut_ok || cut;
  for (unsigned i = 0; i < e->member_count; i++) {
    if (e->members[i].active)
      expect_leave(e, &e->members[i], false);
  }
  if (!cut && c->chunked)
    expect_text(e, "(the last chunk)\n", ITEM_END);
}

void sync_all(void) {
  for (client *c = clients; c < clients + CLIENTS; c++)
    sync_client(c);
}

void read_all(void) {
  sync_all();
  for (client *c = clients; c < clients + CLIENTS; c++) {
    while (take_piece(c))
      ;
    /* a stream that is no more has come to its end, but where its socket was full */
    if (c->serial != 0 && !is_connected(c) && !c->left && !c->cut_ok && !relaxed) {
      CHECK(c->read == c->size);
      CHECK(!c->chunked || c->expected.ended);
      expect_nothing(&c->expected, c->refused);
    }
  }
}

void forget(client *c) {
  if (c->fd >= 0) {
    close(c->fd);
    c->fd = -1;
    c->left = true;
  }
  if (is_connected(c))
    return; /* its place is free when the server has seen that it went */
  es_exchange_unref(c->exchange);
  expect_free(&c->expected);
  free(c->bytes);
  char id[sizeof c->id];
  memcpy(id, c->id, sizeof id);
  *c = (client){.fd = -1, .server_fd = -1, .room = SIZE_MAX};
  memcpy(c->id, id, sizeof id);
}
