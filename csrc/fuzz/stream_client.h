/* stream_client: the clients of the stream fuzzer with their kernel and clock: what the linker sends here instead.
 *
 * A kernel that takes a part of the bytes, or none, or fails, is a number, and so is the time: the whole is
 * deterministic. What is "sent" is kept here and held against the oracle; the socketpairs only tell the loop of requests
 * and of clients that leave. */
#ifndef ES_FUZZ_STREAM_CLIENT_H
#define ES_FUZZ_STREAM_CLIENT_H

#include "fuzz/stream_oracle.h"

typedef struct client {
  int fd, server_fd; /* -1: closed */
  es_connection *connection;
  uint32_t serial;       /* of its stream; 0: it is none yet */
  es_exchange *exchange; /* one reference, or NULL */
  bool over;             /* the exchange is; the oracle knows */
  bool gone;             /* the connection is closed */
  bool left, cut_ok;     /* the client went; the stream may end in the middle */
  /* the kernel's side */
  size_t room;      /* so many bytes are taken, and then none */
  int error;        /* of the next write; 0: none */
  bool full;        /* the last write was not taken as a whole */
  unsigned refused; /* when it was full last */
  /* what came */
  char *bytes;
  size_t size, capacity, read;
  bool head, chunked;
  char id[64]; /* its last */
  expectation expected;
} client;

extern client clients[CLIENTS];
extern es_loop loop;
extern es_server *server; /* NULL once it is freed */
extern bool running;      /* the core may write */
extern bool relaxed;      /* memory was made to fail */
extern uint64_t clock_ns, clock_step_ns;
extern uint64_t grace_ns; /* when the server's end cuts what is left */

/* With FUZZ_SAYS in the environment an input tells what it does. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
int number_of(const client *c);

bool is_open(const client *c);

/* Whether its connection is there still. */
bool is_connected(const client *c);

/* Whether the socket was full when the step began, or since. */
bool was_full(const client *c);

/* Tells the oracle what the core did of itself since the last look: groups that are complete, streams that have ended. */
void sync_all(void);

/* The same, and holds what came against the oracle. */
void read_all(void);

/* Makes its place free, closing its socket; where the server has not seen that yet, only that. */
void forget(client *c);

#endif
