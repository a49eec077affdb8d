/* parser: makes requests from bytes in any cut.
 *
 * It is llhttp in strict mode with bounds around it: what one unfinished request may hold is at most header_bytes +
 * body_bytes and a fixed amount. It knows no socket. */
#ifndef ES_CORE_PARSER_H
#define ES_CORE_PARSER_H

#include "core/budget.h"
#include "core/request.h"

typedef enum es_parse {
  ES_PARSE_MORE,     /* all bytes taken, the request is not complete */
  ES_PARSE_CONTINUE, /* the head is complete and the client waits for "100 Continue"; feed on */
  ES_PARSE_DONE,     /* es_parser_take has the request; the bytes behind it were not taken */
  ES_PARSE_ERROR     /* es_parser_status has the status to answer with; the parser is of no more use */
} es_parse;

typedef struct es_parser es_parser;

/* header_bytes bounds the request line and the headers, body_bytes the body. What a body occupies counts in the budget, which
 * may be NULL. NULL when memory is out. */
es_parser *es_parser_new(size_t header_bytes, size_t body_bytes, es_budget *budget);
void es_parser_free(es_parser *parser); /* NULL is allowed */

/* Takes bytes; *taken tells how many. */
es_parse es_parser_feed(es_parser *parser, const char *bytes, size_t size, size_t *taken);

/* Whether any byte of a request has come that is not finished. */
bool es_parser_begun(const es_parser *parser);

/* Whether its head is complete. */
bool es_parser_has_head(const es_parser *parser);

/* After ES_PARSE_DONE: the request, which is then the caller's, who sees to it that its body does not count for ever; the
 * parser is ready for the next. */
es_request *es_parser_take(es_parser *parser);

/* Instead, once the head is complete: a request without its body, for whom none is wanted any more. The parser is of no
 * more use. NULL when memory is out. */
es_request *es_parser_take_head(es_parser *parser);

/* The first header of that name among those that have come whole, also of a request that is refused; ptr NULL: there is
 * none. Borrowed until the parser is fed again. */
es_slice es_parser_header(const es_parser *parser, const char *name);

/* After ES_PARSE_ERROR: an HTTP status (400, 411, 413, 414, 417, 431, 500, 501, 503, 505) and a short text for the
 * answer's body. */
int es_parser_status(const es_parser *parser);
const char *es_parser_reason(const es_parser *parser);

#endif
