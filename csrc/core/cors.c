#include "core/cors.h"

#include "core/text.h"

#include <stdlib.h>
#include <string.h>

#define OUR_LINES_MAX 192 /* all of our lines, without the origin and the names that are exposed */

void es_cors_clear(es_cors *cors) {
  free(cors->origins);
  free(cors->exposed);
  *cors = (es_cors){0};
}

static bool is_label_char(char c) {
  c = es_lower(c);
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

static bool matches(const char *pattern, es_slice origin) {
  size_t len = strlen(pattern);
  const char *star = strchr(pattern, '*');
  if (star == NULL)
    return len == origin.len && es_same_text(pattern, origin.ptr, len);
  size_t before = (size_t)(star - pattern), after = len - before - 1;
  if (origin.len <= before + after || !es_same_text(pattern, origin.ptr, before) ||
      !es_same_text(star + 1, origin.ptr + origin.len - after, after))
    return false;
  for (size_t i = before; i < origin.len - after; i++) {
    if (!is_label_char(origin.ptr[i]))
      return false;
  }
  return true;
}

bool es_cors_lists(const es_cors *cors, es_slice origin) {
  if (origin.ptr == NULL)
    return false;
  const char *pattern = cors->origins;
  for (size_t i = 0; i < cors->count; i++) {
    if (matches(pattern, origin))
      return true;
    pattern += strlen(pattern) + 1;
  }
  return false;
}

size_t es_cors_room(const es_cors *cors, es_slice origin) {
  if (!cors->on)
    return 0;
  return OUR_LINES_MAX + origin.len + (cors->exposed != NULL ? strlen(cors->exposed) : 0);
}

static char *add(char *at, const char *text, size_t len) {
  memcpy(at, text, len);
  return at + len;
}

#define ADD(at, text) add(at, text, sizeof text - 1)

char *es_cors_write(char *at, const es_cors *cors, es_slice origin, bool own) {
  if (!cors->on)
    return at;
  if (!cors->any) /* a cache must not give one origin's answer to another, nor what none asked for */
    at = ADD(at, "Vary: Origin\r\n");
  if (own || !(cors->any || es_cors_lists(cors, origin)))
    return at;
  at = ADD(at, "Access-Control-Allow-Origin: ");
  at = cors->any ? ADD(at, "*") : add(at, origin.ptr, origin.len);
  at = ADD(at, "\r\n");
  if (cors->credentials)
    at = ADD(at, "Access-Control-Allow-Credentials: true\r\n");
  if (cors->exposed != NULL) {
    at = ADD(at, "Access-Control-Expose-Headers: ");
    at = add(at, cors->exposed, strlen(cors->exposed));
    at = ADD(at, "\r\n");
  }
  return at;
}
