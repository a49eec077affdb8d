/* head: the status line and headers of an answer, written into a connection's queue. */
#ifndef ES_NET_HEAD_H
#define ES_NET_HEAD_H

#include "core/cors.h"
#include "core/queue.h"

#include <stdbool.h>
#include <stdint.h>

/* The standard's reason phrase (RFC 9110, 15), or "" for a status that it does not name. */
const char *es_status_text(int status);

typedef struct es_head {
  int status;
  const char *date;
  es_slice extra;         /* lines ended by CRLF, checked already; they win over ours */
  const es_cors *cors;    /* or NULL */
  es_slice origin;        /* the request's, or ptr NULL */
  int64_t content_length; /* below 0: none is told */
  bool keep_alive;        /* the connection is kept; for a stream: kept for as long as it runs */
  bool stream;            /* text/event-stream with what belongs to it */
  bool chunked;
} es_head;

/* Appends the head; 0, or -1 when memory is out. */
int es_head_write(es_queue *queue, const es_head *head);

/* Whether a block of header lines has that name (lower case). */
bool es_head_has(es_slice lines, const char *name);

#endif
