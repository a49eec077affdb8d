/*
 * publisher: publishes to a server that does not do it by itself (nchan), by POST on one kept connection.
 *
 *   publisher PORT SERVER_PORT
 *
 * Listens on PORT for GET /start?rate=R&count=N, then posts each event to /publish on SERVER_PORT; with &channels=C to
 * /publish?channel=0 and so on, in turn. Events that have fallen due meanwhile go out together, at most 32 before their
 * answers are awaited.
 */
#include "bare.h"
#include "schedule.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define TOGETHER 32
#define POST_BYTES 256
#define ANSWERS_BYTES 65536
#define PATIENCE 10 /* seconds */

static struct {
  schedule schedule;
  int server_port;
  int fd; /* to the server; -1 without */
} it = {.fd = -1};

static int connect_server(void) {
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)it.server_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval patience = {PATIENCE, 0};
  int on = 1;
  it.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (it.fd < 0 || connect(it.fd, (struct sockaddr *)&address, sizeof address) != 0)
    return -1;
  setsockopt(it.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return setsockopt(it.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

/* Reads until so many answers have come, and each is a success. */
static int await_answers(int wanted) {
  static char answers[ANSWERS_BYTES + 1];
  size_t length = 0;
  for (;;) {
    ssize_t got = read(it.fd, answers + length, ANSWERS_BYTES - length);
    if (got <= 0)
      return -1;
    length += (size_t)got;
    answers[length] = '\0';
    int seen = 0;
    const char *last = answers;
    for (const char *p = answers; (p = strstr(p, "HTTP/1.1 20")) != NULL; p++) {
      last = p;
      seen++;
    }
    /* The last one's body has come, too, when its end has. */
    const char *body = strstr(last, "\r\n\r\n"), *field = strstr(last, "Content-Length: ");
    if (seen == wanted && body != NULL &&
        (field == NULL || strlen(body + 4) >= (size_t)atoi(field + strlen("Content-Length: "))))
      return 0;
  }
}

static int post_due(void) {
  char posts[TOGETHER * POST_BYTES], data[SCHEDULE_DATA + 1], channel[32] = "";
  size_t length = 0;
  int count = 0;
  while (count < TOGETHER && schedule_take(&it.schedule, schedule_now(), data)) {
    if (it.schedule.channels > 0)
      snprintf(channel, sizeof channel, "?channel=%d", it.schedule.channel);
    length += (size_t)snprintf(posts + length, sizeof posts - length,
                               "POST /publish%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", channel,
                               SCHEDULE_DATA, data);
    count++;
  }
  if (count == 0)
    return 0;
  if (send(it.fd, posts, length, MSG_NOSIGNAL) != (ssize_t)length)
    return -1;
  return await_answers(count);
}

static void on_request(bare_client *c, const char *target) {
  if (schedule_start(&it.schedule, target) != 0)
    bare_answer(c, 404, "not found\n");
  else if (it.fd < 0 && connect_server() != 0)
    bare_answer(c, 502, "the server does not listen\n");
  else
    bare_answer(c, 200, "ok\n");
}

static void on_close(bare_client *c) {
  (void)c;
}

static int64_t due(void) {
  int64_t next = schedule_due(&it.schedule);
  return next < 0 ? -1 : (next + 999999) / 1000000;
}

static void run_due(void) {
  if (post_due() != 0) {
    fprintf(stderr, "publisher: the server does not answer\n");
    exit(1);
  }
}

int main(int argc, char **argv) {
  static const bare_server server = {sizeof(bare_client), on_request, on_close, due, run_due};
  int port = argc == 3 ? atoi(argv[1]) : 0;
  it.server_port = argc == 3 ? atoi(argv[2]) : 0;
  if (port < 1 || port > 65535 || it.server_port < 1 || it.server_port > 65535) {
    fprintf(stderr, "usage: publisher PORT SERVER_PORT\n");
    return 2;
  }
  return bare_serve("publisher", port, &server);
}
