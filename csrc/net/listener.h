/* listener: one listening socket: TCP, Unix, or inherited.
 *
 * Belongs to its server until closed; reference-counted, because a script may hold it longer. */
#ifndef ES_NET_LISTENER_H
#define ES_NET_LISTENER_H

#include "core/deadlines.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

struct es_server;

typedef struct es_listener {
  /* read-only */
  struct es_server *server; /* NULL once closed */
  char host[64];            /* numeric address; "" for a Unix socket */
  int port;                 /* 0 for a Unix socket */
  char *path;               /* of a Unix socket, or NULL */
  /* private */
  uint32_t refs;
  int fd;
  dev_t device; /* of the file at path, which is its own */
  ino_t inode;
  /* set by the layer above */
  bool owned;   /* no other process has its socket, as far as we know */
  bool proxied; /* each connection begins with a proxy's header */
  /* private */
  uv_poll_t poll;
  es_deadline again;
  struct es_listener *prev, *next;
} es_listener;

/* Each gives a listener of which the caller holds one reference, or NULL and a negative libuv error in *err. A port of 0
 * takes any free one; shared: other processes may listen there, too (SO_REUSEPORT). A Unix socket's file that no one
 * listens on any more is replaced. An inherited descriptor must be a listening stream socket; it is taken over only on
 * success. */
es_listener *es_listen_tcp(struct es_server *server, const char *host, int port, bool shared, int *err);
es_listener *es_listen_unix(struct es_server *server, const char *path, int *err);
es_listener *es_listen_fd(struct es_server *server, int fd, int *err);

/* Accepts who waits in the kernel's queue, whom to close it would reset: before it is closed in good order. Where another
 * process has the socket, too, they are left to it. */
void es_listener_drain(es_listener *listener);

/* Stops accepting, and removes a Unix socket's file that it made; idempotent. Accepted connections live on. */
void es_listener_close(es_listener *listener);
void es_listener_unref(es_listener *listener); /* NULL is allowed */

#endif
