/* ask: a short HTTP request beside the streams, by which the client tells a server what to do. */
#ifndef BENCH_ASK_H
#define BENCH_ASK_H

#include <netinet/in.h>
#include <stddef.h>

typedef struct ask {
  /* read-only */
  char answer[2048]; /* terminated; what has come so far */
  /* private */
  int fd;
  size_t length;
} ask;

/* Sends GET `target`; -1 where nothing takes it. Ended by ask_poll. */
int ask_send(ask *a, const struct sockaddr_in *address, const char *target);

/* Waits at most so many milliseconds: 1 when the answer is there and is a 200, 0 when not yet, -1 for anything else. */
int ask_poll(ask *a, int milliseconds);

#endif
