/* response: what a server answered, from bytes in any cut: the client's half of parser.
 *
 * It is llhttp in strict mode with a bound on the head; the body is handed on as it comes, without its chunks. It knows no
 * socket. */
#ifndef ES_CORE_RESPONSE_H
#define ES_CORE_RESPONSE_H

#include "core/frame.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum es_answer {
  ES_ANSWER_MORE, /* all bytes taken, the answer is not complete */
  ES_ANSWER_DONE, /* it is; what follows is not looked at */
  ES_ANSWER_STOP, /* a hook said so */
  ES_ANSWER_ERROR /* es_response_reason says why */
} es_answer;

typedef struct es_response es_response;

/* Called within es_response_feed; false: no more is to be read. They may not free the response. */
typedef struct es_response_hooks {
  bool (*head)(void *owner, const es_response *response); /* status and headers are there */
  bool (*body)(void *owner, const char *bytes, size_t size);
} es_response_hooks;

/* header_bytes bounds the headers' names and values. NULL when memory is out. */
es_response *es_response_new(size_t header_bytes, const es_response_hooks *hooks, void *owner);
void es_response_free(es_response *response); /* NULL is allowed */

es_answer es_response_feed(es_response *response, const char *bytes, size_t size);

/* The connection has ended: DONE where the answer may end so, ERROR where a part is missing. */
es_answer es_response_finish(es_response *response);

int es_response_status(const es_response *response); /* 0 before it has come */

/* The i-th header line; false: there are fewer. */
bool es_response_header(const es_response *response, size_t i, es_slice *name, es_slice *value);

const char *es_response_reason(const es_response *response);

#endif
