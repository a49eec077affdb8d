#include "bare.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 4096
#define MAX_READY 1024
#define HEAD_BYTES 4096

static struct {
  const bare_server *server;
  int epoll, listener;
  bare_client *clients[BARE_MAX_CLIENTS]; /* by descriptor */
  time_t made;                            /* when the head was made */
  size_t head_length;
  char head[512];
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

int64_t bare_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void bare_close(bare_client *c) {
  it.server->on_close(c);
  it.clients[c->fd] = NULL;
  close(c->fd);
  free(c);
}

int bare_write(bare_client *c, const char *bytes, size_t length) {
  if (write(c->fd, bytes, length) == (ssize_t)length)
    return 0;
  bare_close(c);
  return -1;
}

/* The head is made once a second. */
int bare_begin(bare_client *c) {
  time_t t = time(NULL);
  if (t != it.made) {
    it.head_length = strftime(it.head, sizeof it.head, head_format, gmtime(&t));
    it.made = t;
  }
  return bare_write(c, it.head, it.head_length);
}

void bare_answer(bare_client *c, int status, const char *text) {
  char answer[512];
  int length = snprintf(answer, sizeof answer, "HTTP/1.1 %d -\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                        status, strlen(text), text);
  if (bare_write(c, answer, (size_t)length) == 0)
    bare_close(c);
}

static void accept_all(void) {
  for (;;) {
    int fd = accept4(it.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
      return;
    bare_client *c = fd < BARE_MAX_CLIENTS ? calloc(1, it.server->client_size) : NULL;
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
      bare_close(c);
  }
}

/* The target of a request; NULL where it is no GET, or not all there. */
static const char *target_of(char *head, size_t length) {
  if (length < 8 || memcmp(head, "GET /", 5) != 0 || memcmp(head + length - 4, "\r\n\r\n", 4) != 0)
    return NULL;
  char *end = memchr(head + 4, ' ', length - 4);
  if (end == NULL)
    return NULL;
  *end = '\0';
  return head + 4;
}

/* Bytes after the request are dropped. */
static void client_read(bare_client *c) {
  char buffer[HEAD_BYTES];
  ssize_t got = read(c->fd, buffer, sizeof buffer);
  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  const char *target = got > 0 && !c->answered ? target_of(buffer, (size_t)got) : NULL;
  if (got <= 0 || (target == NULL && !c->answered)) {
    bare_close(c);
  } else if (target != NULL) {
    c->answered = 1;
    it.server->on_request(c, target);
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

static int milliseconds_left(void) {
  int64_t due = it.server->due();
  if (due < 0)
    return -1;
  int64_t left = due - bare_now();
  return left > 0 ? (int)left : 0;
}

int bare_serve(const char *name, int port, const bare_server *server) {
  it.server = server;
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
    perror(name);
    return 1;
  }
  printf("%d %ld\n", port, (long)getpid());
  fflush(stdout);

  for (;;) {
    struct epoll_event ready[MAX_READY];
    int count = epoll_wait(it.epoll, ready, MAX_READY, milliseconds_left());
    for (int i = 0; i < count; i++) {
      int fd = ready[i].data.fd;
      if (fd == it.listener)
        accept_all();
      else if (it.clients[fd] != NULL)
        client_read(it.clients[fd]);
    }
    server->run_due();
  }
}
