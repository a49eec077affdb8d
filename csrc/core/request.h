/* request: a client's request, and the parser that makes it from bytes in any cut.
 *
 * The parser is llhttp in strict mode with bounds around it: what one unfinished request may hold is at most
 * header_bytes + body_bytes and a fixed amount. It knows no socket. A finished request is immutable and
 * reference-counted: the connection holds it while it is answered, a script may hold it longer. */
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
  es_slice path;   /* of the target, still percent-encoded; at least "/", or "*" */
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

typedef enum es_parse {
  ES_PARSE_MORE,     /* all bytes taken, the request is not complete */
  ES_PARSE_CONTINUE, /* the head is complete and the client waits for "100 Continue"; feed on */
  ES_PARSE_DONE,     /* es_parser_take has the request; the bytes behind it were not taken */
  ES_PARSE_ERROR     /* es_parser_status has the status to answer with; the parser is of no more use */
} es_parse;

typedef struct es_parser es_parser;

/* header_bytes bounds the request line and the headers, body_bytes the body. NULL when memory is out. */
es_parser *es_parser_new(size_t header_bytes, size_t body_bytes);
void es_parser_free(es_parser *parser); /* NULL is allowed */

/* Takes bytes; *taken tells how many. */
es_parse es_parser_feed(es_parser *parser, const char *bytes, size_t size, size_t *taken);

/* Whether any byte of a request has come that is not finished. */
bool es_parser_begun(const es_parser *parser);

/* After ES_PARSE_DONE: the request, which is then the caller's; the parser is ready for the next. */
es_request *es_parser_take(es_parser *parser);

/* After ES_PARSE_ERROR: an HTTP status (400, 411, 413, 414, 431, 500, 501, 505) and a short text for the answer's body. */
int es_parser_status(const es_parser *parser);
const char *es_parser_reason(const es_parser *parser);

#endif
