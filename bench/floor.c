/*
 * floor: the least that a server can do for the same bytes, to hold the others against.
 *
 *   floor PORT
 *
 * GET /idle: the head and a first frame. GET /ping: the same, then the unix time as a frame every 500 ms, each client
 * at its own phase. All intervals are equal, so the clients stand in one queue in the order in which they fall due; a
 * frame is made once a second and written as it is. Its clock has milliseconds, as libuv's. What it leaves out is what
 * a server is for: it parses nothing but the path, and drops a client whose socket does not take a frame at once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL 500 /* ms */
#define BACKLOG 4096
#define MAX_READY 1024
#define MAX_CLIENTS 20000
#define HEAD_BYTES 4096

typedef struct client {
  struct client *previous, *next; /* in the queue, if `due` is not 0 */
  int64_t due;
  int fd;
  uint8_t matched; /* bytes of the blank line that ends the head */
  uint8_t answered;
  uint8_t path_length;
  char path[7]; /* as far as it is needed: "/ping" or "/idle" */
  uint16_t head_bytes;
} client;

static struct {
  int epoll, listener;
  client *first, *last;
  client *clients[MAX_CLIENTS]; /* by descriptor */
  time_t made;                  /* when these were made */
  size_t head_length, frame_length;
  char head[512], frame[128];
} it;

static const char head_format[] = "HTTP/1.1 200 OK\r\n"
                                  "Date: %a, %d %b %Y %H:%M:%S GMT\r\n"
                                  "Content-Type: text/event-stream\r\n"
                                  "Cache-Control: no-cache, no-transform\r\n"
                                  "X-Accel-Buffering: no\r\n"
                                  "Transfer-Encoding: chunked\r\n"
                                  "Connection: keep-alive\r\n"
                                  "\r\n"
                                  "d\r\nretry: 3000\n\n\r\n";

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

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

static void client_close(client *c) {
  queue_remove(c);
  it.clients[c->fd] = NULL;
  close(c->fd);
  free(c);
}

static int client_write(client *c, const char *bytes, size_t length) {
  if (write(c->fd, bytes, length) == (ssize_t)length)
    return 0;
  client_close(c);
  return -1;
}

static void accept_all(void) {
  for (;;) {
    int fd = accept4(it.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
      return;
    client *c = fd < MAX_CLIENTS ? calloc(1, sizeof *c) : NULL;
    if (c == NULL) {
      close(fd);
      continue;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->fd = fd;
    it.clients[fd] = c;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(it.epoll, EPOLL_CTL_ADD, fd, &event) != 0)
      client_close(c);
  }
}

/* Makes the head and the frame of the present second. */
static void make_bytes(void) {
  time_t t = time(NULL);
  if (t == it.made)
    return;
  char text[96];
  int length = snprintf(text, sizeof text, "id: %lld\nevent: ping\ndata: %lld\n\n", (long long)t, (long long)t);
  it.frame_length = (size_t)snprintf(it.frame, sizeof it.frame, "%x\r\n%s\r\n", (unsigned)length, text);
  it.head_length = strftime(it.head, sizeof it.head, head_format, gmtime(&t));
  it.made = t;
}

/* Reads the head until its blank line, then answers; later bytes are dropped. */
static void client_read(client *c) {
  static const char blank[] = "\r\n\r\n";
  char buffer[4096];
  ssize_t got = read(c->fd, buffer, sizeof buffer);
  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (got <= 0) {
    client_close(c);
    return;
  }
  for (ssize_t i = 0; i < got && !c->answered; i++) {
    if (c->head_bytes >= 4 && c->path_length < 5)
      c->path[c->path_length++] = buffer[i];
    if (++c->head_bytes > HEAD_BYTES) {
      client_close(c);
      return;
    }
    if (buffer[i] == blank[c->matched])
      c->answered = ++c->matched == 4;
    else
      c->matched = buffer[i] == '\r';
    if (!c->answered)
      continue;
    make_bytes();
    if (client_write(c, it.head, it.head_length) != 0)
      return;
    if (memcmp(c->path, "/ping", 5) == 0)
      queue_add(c, now() + INTERVAL);
  }
}

static void write_due(void) {
  int64_t present = now();
  if (it.first == NULL || it.first->due > present)
    return;
  make_bytes();
  while (it.first != NULL && it.first->due <= present) {
    client *c = it.first;
    int64_t due = c->due + INTERVAL;
    if (due <= present)
      due += (present - due) / INTERVAL * INTERVAL + INTERVAL;
    queue_remove(c);
    if (client_write(c, it.frame, it.frame_length) == 0)
      queue_add(c, due);
  }
}

static int listen_on(int port) {
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, BACKLOG) == 0)
    return fd;
  close(fd);
  return -1;
}

int main(int argc, char **argv) {
  int port = argc == 2 ? atoi(argv[1]) : 0;
  if (port < 1 || port > 65535) {
    fprintf(stderr, "usage: floor PORT\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  it.listener = listen_on(port);
  it.epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = it.listener};
  if (it.listener < 0 || it.epoll < 0 || epoll_ctl(it.epoll, EPOLL_CTL_ADD, it.listener, &event) != 0) {
    perror("floor");
    return 1;
  }
  printf("%d %ld\n", port, (long)getpid());
  fflush(stdout);

  for (;;) {
    struct epoll_event ready[MAX_READY];
    int64_t wait = it.first != NULL ? it.first->due - now() : -1;
    int count = epoll_wait(it.epoll, ready, MAX_READY, it.first == NULL ? -1 : wait > 0 ? (int)wait : 0);
    for (int i = 0; i < count; i++) {
      int fd = ready[i].data.fd;
      if (fd == it.listener)
        accept_all();
      else if (it.clients[fd] != NULL)
        client_read(it.clients[fd]);
    }
    write_due();
  }
}
