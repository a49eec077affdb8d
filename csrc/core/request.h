/* request: a client's request, understood.
 *
 * Made by the parser, immutable, and reference-counted: the exchange holds it while it is answered, and a script may hold
 * that longer. One allocation holds it with its headers and their text. */
#ifndef ES_CORE_REQUEST_H
#define ES_CORE_REQUEST_H

#include "core/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct es_header {
  es_slice name; /* lower case */
  es_slice value;
} es_header;

typedef struct es_request {
  /* read-only */
  es_slice method; /* static text, as sent: "GET" */
  es_slice target; /* as sent */
  es_slice path;   /* of the target, as it came; at least "/", or "*" */
  es_slice query;  /* behind the "?", still encoded; ptr NULL where there is none */
  es_slice body;
  const es_header *headers;
  size_t header_count;
  uint8_t minor;   /* 0 or 1: HTTP/1.0 or HTTP/1.1 */
  bool keep_alive; /* the client wants the connection kept */
  bool head;       /* the method is HEAD: an answer has no body */
  /* private */
  uint32_t refs;
  char *body_memory;
} es_request;

es_request *es_request_ref(es_request *request);
void es_request_unref(es_request *request); /* NULL is allowed */

/* The first header of that name (lower case), or NULL. */
const es_header *es_request_header(const es_request *request, const char *name);

#endif
