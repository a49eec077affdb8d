#include "core/address.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c) {
  return c == ' ' || c == '\t';
}

static es_slice trim(es_slice text) {
  while (text.len > 0 && is_space(text.ptr[0]))
    text = (es_slice){text.ptr + 1, text.len - 1};
  while (text.len > 0 && is_space(text.ptr[text.len - 1]))
    text.len--;
  return text;
}

es_peer es_peer_of(const void *bytes, bool wide, uint16_t port) {
  static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  es_peer peer = {.family = wide ? ES_IPV6 : ES_IPV4, .port = port};
  if (wide && memcmp(bytes, mapped, sizeof mapped) == 0) {
    peer.family = ES_IPV4;
    memcpy(peer.address, (const char *)bytes + sizeof mapped, 4);
  } else {
    memcpy(peer.address, bytes, wide ? 16 : 4);
  }
  return peer;
}

static bool read_address(es_slice text, uint16_t port, es_peer *peer) {
  char copy[ES_PEER_TEXT];
  uint8_t bytes[16];
  if (text.len == 0 || text.len >= sizeof copy || memchr(text.ptr, '\0', text.len) != NULL)
    return false;
  memcpy(copy, text.ptr, text.len);
  copy[text.len] = '\0';
  bool wide = memchr(copy, ':', text.len) != NULL;
  if (inet_pton(wide ? AF_INET6 : AF_INET, copy, bytes) != 1)
    return false;
  *peer = es_peer_of(bytes, wide, port);
  return true;
}

static bool read_number(es_slice text, unsigned most, unsigned *number) {
  *number = 0;
  if (text.len == 0 || text.len > 5)
    return false;
  for (size_t i = 0; i < text.len; i++) {
    if (text.ptr[i] < '0' || text.ptr[i] > '9')
      return false;
    *number = *number * 10 + (unsigned)(text.ptr[i] - '0');
  }
  return *number <= most;
}

bool es_peer_read(es_slice text, es_peer *peer) {
  if (text.len == 0)
    return false;
  const char *end = text.ptr + text.len, *colon = NULL;
  unsigned port = 0;
  es_slice host = text;
  if (text.ptr[0] == '[') {
    const char *close = memchr(text.ptr, ']', text.len);
    if (close == NULL || (close + 1 < end && close[1] != ':'))
      return false;
    host = (es_slice){text.ptr + 1, (size_t)(close - text.ptr - 1)};
    colon = close + 1 < end ? close + 1 : NULL;
    if (memchr(host.ptr, ':', host.len) == NULL)
      return false;
  } else {
    colon = memchr(text.ptr, ':', text.len);
    if (colon != NULL && memchr(colon + 1, ':', (size_t)(end - colon - 1)) != NULL)
      colon = NULL; /* IPv6 without brackets: no port can follow */
    if (colon != NULL)
      host.len = (size_t)(colon - text.ptr);
  }
  if (colon != NULL && !read_number((es_slice){colon + 1, (size_t)(end - colon - 1)}, 65535, &port))
    return false;
  return read_address(host, (uint16_t)port, peer);
}

const char *es_peer_write(const es_peer *peer, char text[ES_PEER_TEXT]) {
  if (peer->family != ES_IPV4 && peer->family != ES_IPV6)
    return NULL;
  return inet_ntop(peer->family == ES_IPV4 ? AF_INET : AF_INET6, peer->address, text, ES_PEER_TEXT);
}

bool es_peer_is_loopback(const es_peer *peer) {
  static const uint8_t one[16] = {[15] = 1};
  return peer->family == ES_IPV4 ? peer->address[0] == 127
                                 : peer->family == ES_IPV6 && memcmp(peer->address, one, sizeof one) == 0;
}

bool es_network_read(es_slice text, es_network *network) {
  *network = (es_network){0};
  if (text.len == 4 && memcmp(text.ptr, "unix", 4) == 0) {
    network->peer.family = ES_UNIX;
    return true;
  }
  const char *slash = text.len > 0 ? memchr(text.ptr, '/', text.len) : NULL;
  es_slice address = {text.ptr, slash != NULL ? (size_t)(slash - text.ptr) : text.len};
  if (!read_address(address, 0, &network->peer))
    return false;
  unsigned bits = network->peer.family == ES_IPV4 ? 32 : 128;
  if (slash != NULL && !read_number((es_slice){slash + 1, text.len - address.len - 1}, bits, &bits))
    return false;
  network->bits = (uint8_t)bits;
  return true;
}

bool es_network_has(const es_network *network, const es_peer *peer) {
  if (network->peer.family != peer->family || peer->family == ES_NOWHERE)
    return false;
  size_t whole = network->bits / 8;
  uint8_t rest = (uint8_t)(0xff00 >> network->bits % 8);
  if (memcmp(network->peer.address, peer->address, whole) != 0)
    return false;
  return rest == 0 || ((network->peer.address[whole] ^ peer->address[whole]) & rest) == 0;
}

bool es_trust_has(const es_trust *trust, const es_peer *peer) {
  for (size_t i = 0; i < trust->count; i++) {
    if (es_network_has(&trust->networks[i], peer))
      return true;
  }
  return false;
}

/* Whether a character in a quoted string stands behind a backslash that is no escaped one itself. */
static bool is_escaped(es_slice text, size_t at) {
  bool escaped = false;
  for (; at > 0 && text.ptr[at - 1] == '\\'; at--)
    escaped = !escaped;
  return escaped;
}

/* Takes the last element off a list. It is looked for from the end, which a trusted proxy wrote: a quote that was opened
 * further in front, by anybody, must not reach into it. */
static bool take_last(es_slice *rest, bool quotes, es_slice *element) {
  if (rest->ptr == NULL)
    return false;
  size_t start = rest->len;
  bool quoted = false;
  for (; start > 0 && (quoted || rest->ptr[start - 1] != ','); start--) {
    bool quote = quotes && rest->ptr[start - 1] == '"' && !(quoted && is_escaped(*rest, start - 1));
    quoted = quoted != quote;
  }
  *element = trim((es_slice){rest->ptr + start, rest->len - start});
  *rest = start > 0 ? (es_slice){rest->ptr, start - 1} : (es_slice){NULL, 0};
  return true;
}

/* Cuts the next "name=value" off an element of Forwarded (RFC 7239, 4): what is quoted may have any character, as a host
 * has that its client wrote. False at the end, and where a quote has none. */
static bool next_parameter(es_slice *element, es_slice *parameter) {
  size_t at = 0;
  bool quoted = false;
  for (; at < element->len && (quoted || element->ptr[at] != ';'); at++) {
    if (quoted && element->ptr[at] == '\\' && at + 1 < element->len)
      at++;
    else if (element->ptr[at] == '"')
      quoted = !quoted;
  }
  if (element->ptr == NULL || quoted)
    return false;
  *parameter = trim((es_slice){element->ptr, at});
  *element = at < element->len ? (es_slice){element->ptr + at + 1, element->len - at - 1} : (es_slice){NULL, 0};
  return true;
}

/* The value of "for" in such an element, without its quotes; nothing where there are two, or what follows is malformed. */
static es_slice for_of(es_slice element) {
  es_slice found = {NULL, 0}, pair;
  while (next_parameter(&element, &pair)) {
    if (pair.len < 4 || (pair.ptr[0] | 32) != 'f' || (pair.ptr[1] | 32) != 'o' || (pair.ptr[2] | 32) != 'r' ||
        pair.ptr[3] != '=')
      continue;
    if (found.ptr != NULL)
      return (es_slice){NULL, 0};
    found = (es_slice){pair.ptr + 4, pair.len - 4};
    if (found.len >= 2 && found.ptr[0] == '"' && found.ptr[found.len - 1] == '"')
      found = (es_slice){found.ptr + 1, found.len - 2};
  }
  return element.ptr == NULL ? found : (es_slice){NULL, 0};
}

static bool is_name(es_slice name, const char *text) {
  return name.len == strlen(text) && memcmp(name.ptr, text, name.len) == 0;
}

void es_trust_client(const es_trust *trust, const es_request *request, es_peer *peer) {
  const char *name = trust->forwarded ? "forwarded" : "x-forwarded-for";
  for (size_t i = request->header_count; i-- > 0;) {
    es_slice rest = request->headers[i].value, element;
    if (!is_name(request->headers[i].name, name))
      continue;
    while (es_trust_has(trust, peer) && take_last(&rest, trust->forwarded, &element)) {
      es_peer before;
      if (element.len == 0)
        continue;
      if (!es_peer_read(trust->forwarded ? for_of(element) : element, &before))
        return;
      *peer = before;
    }
  }
}
