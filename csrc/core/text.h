/* text: decoding what a URL or a header carries. Pure functions over borrowed slices. */
#ifndef ES_CORE_TEXT_H
#define ES_CORE_TEXT_H

#include "core/frame.h"

#include <stdbool.h>

/* A letter of ASCII's as a small one. */
static inline char es_lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* Whether two texts of that length are the same, but for the case of ASCII's letters. */
bool es_same_text(const char *a, const char *b, size_t len);

/* Decodes %XX (and "+" as a space, if plus: WHATWG URL, 5.1) into out, which has room for text.len bytes. Returns the
 * decoded length. A "%" that two hexadecimal digits do not follow stays as it is, and *bad, if given, becomes true. */
size_t es_percent_decode(es_slice text, char *out, bool plus, bool *bad);

/* A path as it is written where only what must be is percent-encoded, in large letters (RFC 3986, 6.2.2): two that name
 * the same are the same. out has room for three times text.len bytes. Returns its length, or 0 if it is malformed. */
size_t es_path_normalize(es_slice text, char *out);

/* Takes the next "name=value" off *rest, which is cut at separator; false when nothing is left. Empty pieces are passed
 * over; a piece without "=" has an empty value. White space around a piece is dropped if trim. */
bool es_next_pair(es_slice *rest, char separator, bool trim, es_slice *name, es_slice *value);

/* Whether a header's name is a token, and a value free of controls but TAB (RFC 9110, 5.1 and 5.5): what is written
 * into a head must pass these, or an answer could be split. */
bool es_is_token(es_slice text);
bool es_is_field_value(es_slice text);

/* Whether it is UTF-8; and writes it with U+FFFD in the place of what is not (WHATWG Encoding, 8.1.1): returns the length,
 * at most three times the text's. Nothing is written where out is NULL. */
bool es_is_utf8(es_slice text);
size_t es_utf8_repair(es_slice text, char *out);

#endif
