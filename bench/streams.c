#include "streams.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_READY 1024

double streams_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void streams_sleep(double milliseconds) {
  struct timespec t = {(time_t)(milliseconds / 1e3), 0};
  t.tv_nsec = (long)((milliseconds - (double)t.tv_sec * 1e3) * 1e6);
  nanosleep(&t, NULL);
}

/* ---- one stream ---- */

/* The request of a stream, by its place; -1 where it is too long. */
static int compose(streams *s, int place) {
  char query[32] = "";
  if (s->channels > 0)
    snprintf(query, sizeof query, "?channel=%d", place % s->channels);
  int length = snprintf(s->request, sizeof s->request,
                        "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", s->path, query,
                        ntohs(s->address.sin_port));
  if (length < 0 || (size_t)length >= sizeof s->request)
    return -1;
  s->request_length = (size_t)length;
  return 0;
}

/* Closes with a reset, so that no port lingers in TIME_WAIT. */
static void stream_close(stream *one) {
  struct linger reset = {1, 0};
  setsockopt(one->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(one->fd);
  one->fd = -1;
}

static void stream_end(streams *s, stream *one) {
  if (one->reader.opened)
    s->lost++;
  else
    s->failed++;
  stream_close(one);
}

static void stream_request(streams *s, stream *one) {
  if (s->channels > 0 && compose(s, (int)(one - s->all)) != 0) {
    stream_end(s, one);
    return;
  }
  if (send(one->fd, s->request, s->request_length, MSG_NOSIGNAL) != (ssize_t)s->request_length) {
    stream_end(s, one);
    return;
  }
  one->sent = 1;
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = one};
  epoll_ctl(s->epoll, EPOLL_CTL_MOD, one->fd, &event);
}

static void stream_start(streams *s) {
  stream *one = &s->all[s->started++];
  reader_init(&one->reader);
  one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (one->fd < 0) {
    s->failed++;
    return;
  }
  int connected = connect(one->fd, (struct sockaddr *)&s->address, sizeof s->address) == 0;
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = one};
  if ((!connected && errno != EINPROGRESS) || epoll_ctl(s->epoll, EPOLL_CTL_ADD, one->fd, &event) != 0)
    stream_end(s, one);
  else if (connected)
    stream_request(s, one);
}

static void take_data(reader *r, void *context, const char *data, size_t length) {
  streams *s = context;
  stream *one = (stream *)((char *)r - offsetof(stream, reader));
  ledger_take(s->ledger, &one->last, data, length);
}

static void stream_read(streams *s, stream *one) {
  ssize_t got = read(one->fd, s->buffer, sizeof s->buffer);
  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (s->ledger != NULL)
    s->ledger->received = nanoseconds();
  int was_open = one->reader.opened;
  int bad = got <= 0 || reader_feed(&one->reader, s->buffer, (size_t)got, s->ledger != NULL ? take_data : NULL, s) != 0;
  if (one->reader.opened && one->reader.status != 200) {
    one->reader.opened = 0;
    bad = 1;
  }
  if (one->reader.opened && !was_open)
    s->opened++;
  if (got > 0)
    s->bytes += (uint64_t)got;
  if (bad || one->reader.ended)
    stream_end(s, one);
}

/* ---- all ---- */

/* One look at the sockets; waits at most so many milliseconds. Returns how many were ready. */
static int turn(streams *s, int milliseconds) {
  struct epoll_event ready[MAX_READY];
  int count = epoll_wait(s->epoll, ready, MAX_READY, milliseconds);
  for (int i = 0; i < count; i++) {
    stream *one = ready[i].data.ptr;
    if (one->fd < 0)
      continue;
    if (!one->sent)
      stream_request(s, one);
    else
      stream_read(s, one);
  }
  return count < 0 ? 0 : count;
}

static void raise_descriptor_limit(int count) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
    return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < (rlim_t)count + 16)
    fprintf(stderr, "client: only %lu descriptors for %d streams\n", (unsigned long)limit.rlim_max, count);
}

int streams_init(streams *s) {
  if (compose(s, 0) != 0) {
    errno = ENAMETOOLONG;
    return -1;
  }
  raise_descriptor_limit(s->count);
  s->all = calloc((size_t)s->count, sizeof *s->all);
  s->epoll = epoll_create1(EPOLL_CLOEXEC);
  return s->all == NULL || s->epoll < 0 ? -1 : 0;
}

void streams_release(streams *s) {
  for (int i = 0; i < s->started; i++)
    if (s->all[i].fd >= 0)
      stream_close(&s->all[i]);
  free(s->all);
  s->all = NULL;
  s->started = 0;
}

int streams_await_server(const streams *s, double seconds) {
  double until = streams_now() + seconds;
  do {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int there = fd >= 0 && connect(fd, (const struct sockaddr *)&s->address, sizeof s->address) == 0;
    if (fd >= 0)
      close(fd);
    if (there) {
      streams_sleep(300); /* for the server to see the end of it */
      return 0;
    }
    streams_sleep(20);
  } while (streams_now() < until);
  return -1;
}

void streams_open(streams *s, double over, double limit) {
  double start = streams_now();
  while (s->opened + s->failed < s->count && streams_now() < start + limit) {
    double due = over > 0 ? (streams_now() - start) / over * s->count : s->count;
    while (s->started < s->count && s->started < due && s->started - s->opened - s->failed < s->in_flight)
      stream_start(s);
    turn(s, over > 0 ? 1 : 100);
  }
}

void streams_read(streams *s, double seconds) {
  double until = streams_now() + seconds;
  for (double left = seconds; left > 0; left = until - streams_now()) {
    if (s->nap > 0) {
      streams_sleep(s->nap < left * 1e3 ? s->nap : left * 1e3);
      int ready;
      do {
        ready = turn(s, 0);
      } while (ready == MAX_READY && streams_now() < until);
    } else {
      turn(s, left < 0.1 ? (int)(left * 1e3) + 1 : 100);
    }
  }
}

uint64_t streams_events(const streams *s) {
  uint64_t sum = 0;
  for (int i = 0; i < s->started; i++)
    sum += s->all[i].reader.events;
  return sum;
}
