/* streams: many event streams of one server, on 127.0.0.1, opened and read by one thread. */
#ifndef BENCH_STREAMS_H
#define BENCH_STREAMS_H

#include "ledger.h"
#include "reader.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#define STREAMS_MAX 20000
#define STREAMS_READ_BYTES 262144

typedef struct stream {
  int fd;        /* -1 when closed */
  uint32_t last; /* the number of the last event, where a ledger is kept */
  uint8_t sent;
  reader reader;
} stream;

typedef struct streams {
  /* to be set before streams_init */
  struct sockaddr_in address;
  const char *path;
  int channels;   /* over which they are spread: each asks for PATH?channel=0 and so on, in turn; 0: for PATH */
  int count;      /* how many to open */
  int in_flight;  /* how many may be on their way */
  double nap;     /* ms between two looks at the sockets, so that no server pays for waking the reader; 0: none */
  ledger *ledger; /* borrowed; NULL where events have no numbers */
  /* read-only */
  int started, opened;
  int failed; /* did not open */
  int lost;   /* ended after they had opened */
  uint64_t bytes;
  stream *all;
  /* private */
  int epoll;
  size_t request_length;
  char request[512];
  char buffer[STREAMS_READ_BYTES];
} streams;

/* CLOCK_MONOTONIC in seconds. */
double streams_now(void);
void streams_sleep(double milliseconds);

/* Makes room; -1 where that fails, with errno. Raises the limit of descriptors. */
int streams_init(streams *s);
void streams_release(streams *s);

/* Waits until something listens; -1 after so many seconds. */
int streams_await_server(const streams *s, double seconds);

/*
 * Opens all: as fast as the server answers, or evenly within `over` seconds. A stream is open when the head and a first
 * byte of the body are there. Gives up after `limit` seconds.
 */
void streams_open(streams *s, double over, double limit);

/* Reads for so many seconds. */
void streams_read(streams *s, double seconds);

/* Complete events so far, on all. */
uint64_t streams_events(const streams *s);

#endif
