#include "core/text.h"

#include <string.h>

bool es_same_text(const char *a, const char *b, size_t len) {
  for (size_t i = 0; i < len; i++) {
    if (es_lower(a[i]) != es_lower(b[i]))
      return false;
  }
  return true;
}

static int hex(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  if (c >= 'A' && c <= 'F')
    return c - 'A' + 10;
  return -1;
}

size_t es_percent_decode(es_slice text, char *out, bool plus, bool *bad) {
  size_t n = 0;
  for (size_t i = 0; i < text.len; i++) {
    char c = text.ptr[i];
    if (c == '+' && plus) {
      c = ' ';
    } else if (c == '%') {
      int high = i + 2 < text.len ? hex(text.ptr[i + 1]) : -1;
      int low = i + 2 < text.len ? hex(text.ptr[i + 2]) : -1;
      if (high >= 0 && low >= 0) {
        c = (char)(high * 16 + low);
        i += 2;
      } else if (bad != NULL) {
        *bad = true;
      }
    }
    out[n++] = c;
  }
  return n;
}

/* What may stand in a segment as it is (RFC 3986, 3.3). */
static bool is_pchar(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         (c != '\0' && strchr("-._~!$&'()*+,;=:@", c) != NULL);
}

size_t es_path_normalize(es_slice text, char *out) {
  static const char digits[] = "0123456789ABCDEF";
  size_t n = 0;
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.ptr[i];
    bool separates = c == '/';
    if (c == '%') {
      int high = i + 2 < text.len ? hex(text.ptr[i + 1]) : -1;
      int low = i + 2 < text.len ? hex(text.ptr[i + 2]) : -1;
      if (high < 0 || low < 0)
        return 0;
      c = (unsigned char)(high * 16 + low);
      i += 2;
    }
    if (separates || is_pchar(c)) {
      out[n++] = (char)c;
    } else {
      out[n++] = '%';
      out[n++] = digits[c >> 4];
      out[n++] = digits[c & 15];
    }
  }
  return n;
}

static es_slice trimmed(es_slice text) {
  while (text.len > 0 && (*text.ptr == ' ' || *text.ptr == '\t')) {
    text.ptr++;
    text.len--;
  }
  while (text.len > 0 && (text.ptr[text.len - 1] == ' ' || text.ptr[text.len - 1] == '\t'))
    text.len--;
  return text;
}

bool es_next_pair(es_slice *rest, char separator, bool trim, es_slice *name, es_slice *value) {
  while (rest->len > 0) {
    const char *stop = memchr(rest->ptr, separator, rest->len);
    es_slice piece = {rest->ptr, stop != NULL ? (size_t)(stop - rest->ptr) : rest->len};
    size_t gone = piece.len + (stop != NULL);
    rest->ptr += gone;
    rest->len -= gone;
    if (trim)
      piece = trimmed(piece);
    if (piece.len == 0)
      continue;
    const char *equals = memchr(piece.ptr, '=', piece.len);
    size_t name_len = equals != NULL ? (size_t)(equals - piece.ptr) : piece.len;
    *name = (es_slice){piece.ptr, name_len};
    *value = equals != NULL ? (es_slice){equals + 1, piece.len - name_len - 1} : (es_slice){piece.ptr + piece.len, 0};
    if (trim) {
      *name = trimmed(*name);
      *value = trimmed(*value);
    }
    return true;
  }
  return false;
}

bool es_is_token(es_slice text) {
  for (size_t i = 0; i < text.len; i++) {
    char c = text.ptr[i];
    bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!alnum && (c == '\0' || strchr("!#$%&'*+-.^_`|~", c) == NULL))
      return false;
  }
  return text.len > 0;
}

bool es_is_field_value(es_slice text) {
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.ptr[i];
    if ((c < 0x20 && c != '\t') || c == 0x7F)
      return false;
  }
  return true;
}

/* The length of the character that begins at `at`, or 0 and in *bad how many bytes one U+FFFD stands for. */
static size_t character(const unsigned char *at, size_t len, size_t *bad) {
  unsigned char first = at[0], low = 0x80, high = 0xBF;
  size_t needed;
  *bad = 1;
  if (first < 0x80)
    return 1;
  if (first >= 0xC2 && first <= 0xDF)
    needed = 1;
  else if (first >= 0xE0 && first <= 0xEF)
    needed = 2;
  else if (first >= 0xF0 && first <= 0xF4)
    needed = 3;
  else
    return 0;
  if (first == 0xE0)
    low = 0xA0; /* longer than it has to be */
  else if (first == 0xED)
    high = 0x9F; /* a surrogate */
  else if (first == 0xF0)
    low = 0x90;
  else if (first == 0xF4)
    high = 0x8F; /* above U+10FFFF */
  for (size_t i = 1; i <= needed; i++) {
    if (i == len || at[i] < low || at[i] > high) {
      *bad = i;
      return 0;
    }
    low = 0x80;
    high = 0xBF;
  }
  return needed + 1;
}

bool es_is_utf8(es_slice text) {
  const unsigned char *at = (const unsigned char *)text.ptr;
  size_t bad;
  for (size_t i = 0; i < text.len;) {
    size_t len = character(at + i, text.len - i, &bad);
    if (len == 0)
      return false;
    i += len;
  }
  return true;
}

size_t es_utf8_repair(es_slice text, char *out) {
  const unsigned char *at = (const unsigned char *)text.ptr;
  size_t written = 0, bad;
  for (size_t i = 0; i < text.len;) {
    size_t len = character(at + i, text.len - i, &bad);
    if (out != NULL)
      memcpy(out + written, len > 0 ? text.ptr + i : "\xEF\xBF\xBD", len > 0 ? len : 3);
    written += len > 0 ? len : 3;
    i += len > 0 ? len : bad;
  }
  return written;
}
