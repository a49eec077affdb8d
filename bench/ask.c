#include "ask.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int ask_end(ask *a, int result) {
  close(a->fd);
  a->fd = -1;
  return result;
}

int ask_send(ask *a, const struct sockaddr_in *address, const char *target) {
  char request[512];
  int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n",
                        target, ntohs(address->sin_port));
  memset(a, 0, sizeof *a);
  a->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (a->fd < 0 || length < 0 || (size_t)length >= sizeof request)
    return -1;
  if (connect(a->fd, (const struct sockaddr *)address, sizeof *address) != 0 ||
      send(a->fd, request, (size_t)length, MSG_NOSIGNAL) != length)
    return ask_end(a, -1);
  return 0;
}

/* The answer is complete when the server closes, as it was asked to. */
int ask_poll(ask *a, int milliseconds) {
  struct pollfd ready = {.fd = a->fd, .events = POLLIN};
  while (poll(&ready, 1, milliseconds) == 1) {
    ssize_t got = read(a->fd, a->answer + a->length, sizeof a->answer - 1 - a->length);
    if (got > 0) {
      a->length += (size_t)got;
      continue;
    }
    return ask_end(a, got == 0 && a->length > 12 && memcmp(a->answer + 8, " 200", 4) == 0 ? 1 : -1);
  }
  return 0;
}
