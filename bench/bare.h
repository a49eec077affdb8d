/*
 * bare: what the floors have in common, a server that does the least that a server can do.
 *
 * It listens on 127.0.0.1, reads a request's head, and hands its target over. What it leaves out is what a server is
 * for: it parses nothing but the target, and drops a client whose head does not come in one piece.
 */
#ifndef BENCH_BARE_H
#define BENCH_BARE_H

#include <stddef.h>
#include <stdint.h>

#define BARE_MAX_CLIENTS 20000

/* A client's own struct begins with it. */
typedef struct bare_client {
  int fd;
  uint8_t answered;
} bare_client;

typedef struct bare_server {
  size_t client_size;                                     /* zeroed memory for each */
  void (*on_request)(bare_client *c, const char *target); /* `target` is terminated, and gone after the call */
  void (*on_close)(bare_client *c);                       /* before it is freed */
  int64_t (*due)(void);                                   /* when run_due is to be called; negative: never */
  void (*run_due)(void);                                  /* may be called early */
} bare_server;

/* The clock of `due`: milliseconds, as libuv's. */
int64_t bare_now(void);

/* Writes all, or closes the client and returns -1. */
int bare_write(bare_client *c, const char *bytes, size_t length);

/* Writes the head of a stream and its first frame; otherwise as bare_write. */
int bare_begin(bare_client *c);

/* Writes a whole answer with a text, and closes. */
void bare_answer(bare_client *c, int status, const char *text);

void bare_close(bare_client *c);

/* Serves until the process is ended. Returns the exit status where it cannot. */
int bare_serve(const char *name, int port, const bare_server *server);

#endif
