/* cors: which pages of other origins may read an app's answers, and the header lines that tell browsers so. (Fetch
 * Standard, 3.3, "CORS protocol".) */
#ifndef ES_CORE_CORS_H
#define ES_CORE_CORS_H

#include "core/frame.h"

#include <stdbool.h>
#include <stddef.h>

/* A zeroed one writes nothing. */
typedef struct es_cors {
  bool on;
  bool any;         /* every origin, and so without credentials */
  bool credentials; /* cookies and the like count */
  char *origins;    /* those that may, as "https://example.com", each ended by a NUL; "*." in one: any labels. Owned */
  size_t count;
  char *exposed; /* the header names that scripts may read beside the usual ones, as "A, B"; or NULL. Owned */
} es_cors;

void es_cors_clear(es_cors *cors);

/* Whether an origin is listed. It is compared without regard to case. */
bool es_cors_lists(const es_cors *cors, es_slice origin);

/* How many bytes es_cors_write may take. */
size_t es_cors_room(const es_cors *cors, es_slice origin);

/* Writes the lines for a request with that Origin header (ptr NULL: it has none): a script's own (own: it wrote an
 * Access-Control-Allow-Origin) win, but that the answer varies is said all the same. Returns their end. */
char *es_cors_write(char *at, const es_cors *cors, es_slice origin, bool own);

#endif
