#include "core/proxy.h"

#include <string.h>

#define V1_MAX 107
#define V2_HEAD 16

static const char signature[] = "\r\n\r\n\0\r\nQUIT\n"; /* 12 bytes */

/* Cuts the next word off a line of words with one space between them. */
static es_slice next_word(es_slice *line) {
  const char *space = line->len > 0 ? memchr(line->ptr, ' ', line->len) : NULL;
  es_slice word = {line->ptr, space != NULL ? (size_t)(space - line->ptr) : line->len};
  *line = space != NULL ? (es_slice){space + 1, line->len - word.len - 1} : (es_slice){line->ptr + line->len, 0};
  return word;
}

static bool is_word(es_slice word, const char *text) {
  return word.len == strlen(text) && memcmp(word.ptr, text, word.len) == 0;
}

static bool read_port(es_slice word, uint16_t *port) {
  unsigned number = 0;
  if (word.len == 0 || word.len > 5)
    return false;
  for (size_t i = 0; i < word.len; i++) {
    if (word.ptr[i] < '0' || word.ptr[i] > '9')
      return false;
    number = number * 10 + (unsigned)(word.ptr[i] - '0');
  }
  *port = (uint16_t)number;
  return number <= 65535;
}

/* "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n" */
static int read_v1(const char *bytes, size_t size, es_peer *peer) {
  const char *end = memchr(bytes, '\n', size < V1_MAX ? size : V1_MAX);
  if (end == NULL)
    return size < V1_MAX ? 0 : -1;
  if (end == bytes || end[-1] != '\r')
    return -1;
  es_slice line = {bytes + 6, (size_t)(end - 1 - (bytes + 6))};
  es_slice family = next_word(&line);
  int length = (int)(end + 1 - bytes);
  if (is_word(family, "UNKNOWN"))
    return length;
  if (!is_word(family, "TCP4") && !is_word(family, "TCP6"))
    return -1;
  es_slice source = next_word(&line), target = next_word(&line);
  es_slice source_port = next_word(&line), target_port = next_word(&line);
  es_peer from, to;
  uint16_t port, other;
  bool wide = family.ptr[3] == '6';
  if (line.len > 0 || !es_peer_read(source, &from) || !es_peer_read(target, &to) || from.port != 0 || to.port != 0 ||
      (memchr(source.ptr, ':', source.len) != NULL) != wide || !read_port(source_port, &port) ||
      !read_port(target_port, &other))
    return -1;
  *peer = from;
  peer->port = port;
  return length;
}

static int read_v2(const char *bytes, size_t size, es_peer *peer) {
  if (size < V2_HEAD)
    return 0;
  const uint8_t *head = (const uint8_t *)bytes, *address = head + V2_HEAD;
  unsigned version = head[12] >> 4, command = head[12] & 15, family = head[13] >> 4;
  size_t length = (size_t)head[14] << 8 | head[15], whole = V2_HEAD + length;
  if (version != 2 || command > 1 || family > 3 || (head[13] & 15) > 2 || whole > ES_PROXY_MAX)
    return -1;
  if (size < whole)
    return 0;
  if (command == 0) /* LOCAL: the proxy's own, a health check */
    return (int)whole;
  if (family == 1) {
    if (length < 12)
      return -1;
    *peer = es_peer_of(address, false, (uint16_t)(address[8] << 8 | address[9]));
  } else if (family == 2) {
    if (length < 36)
      return -1;
    *peer = es_peer_of(address, true, (uint16_t)(address[32] << 8 | address[33]));
  }
  return (int)whole;
}

int es_proxy_read(const char *bytes, size_t size, es_peer *peer) {
  static const char first[] = "PROXY ";
  size_t v1 = size < 6 ? size : 6, v2 = size < 12 ? size : 12;
  if (memcmp(bytes, signature, v2) == 0)
    return v2 < 12 ? 0 : read_v2(bytes, size, peer);
  if (memcmp(bytes, first, v1) == 0)
    return v1 < 6 ? 0 : read_v1(bytes, size, peer);
  return -1;
}
