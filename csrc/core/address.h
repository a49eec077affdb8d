/* address: where a client comes from, networks of addresses, and what a proxy says of its clients. */
#ifndef ES_CORE_ADDRESS_H
#define ES_CORE_ADDRESS_H

#include "core/request.h"

typedef enum es_family {
  ES_NOWHERE, /* no address is known */
  ES_UNIX,    /* a Unix socket's peer */
  ES_IPV4,
  ES_IPV6
} es_family;

/* An IPv4 address that is written as IPv6 (::ffff:192.0.2.1) is kept as IPv4. */
typedef struct es_peer {
  uint8_t family;
  uint16_t port;       /* 0: none is known */
  uint8_t address[16]; /* 4 or 16 are used, the others 0 */
} es_peer;

/* An address, with or without a port: "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80". */
bool es_peer_read(es_slice text, es_peer *peer);

/* From the bytes of a socket address; IPv6 where wide. */
es_peer es_peer_of(const void *bytes, bool wide, uint16_t port);

#define ES_PEER_TEXT 48

/* The address as text, without the port; NULL where there is none. */
const char *es_peer_write(const es_peer *peer, char text[ES_PEER_TEXT]);

bool es_peer_is_loopback(const es_peer *peer);

/* "10.0.0.0/8", "2001:db8::/32", an address alone, or "unix". */
typedef struct es_network {
  es_peer peer;
  uint8_t bits;
} es_network;

bool es_network_read(es_slice text, es_network *network);
bool es_network_has(const es_network *network, const es_peer *peer);

/* Which proxies are believed, and the header in which they name their clients. */
typedef struct es_trust {
  const es_network *networks; /* borrowed */
  size_t count;
  bool forwarded; /* Forwarded (RFC 7239), else X-Forwarded-For */
} es_trust;

bool es_trust_has(const es_trust *trust, const es_peer *peer);

/* The client behind a trusted peer: of the addresses that the proxies added, from the last one on, the first that is not
 * a trusted one; what stands before it may be anybody's invention. Where one cannot be read, the proxy that told it. */
void es_trust_client(const es_trust *trust, const es_request *request, es_peer *peer);

#endif
