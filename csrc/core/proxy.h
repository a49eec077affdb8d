/* proxy: the PROXY protocol's header, versions 1 and 2, by which a proxy names its client at a connection's start.
 * (The PROXY protocol, sections 2.1 and 2.2.) */
#ifndef ES_CORE_PROXY_H
#define ES_CORE_PROXY_H

#include "core/address.h"

#define ES_PROXY_MAX 1024 /* what a header may have: 536 bytes of version 2, and room for extensions */

/* Reads a header from the first bytes of a connection. How many bytes it has, and *peer set where it names a client's
 * address; 0: more bytes are needed; -1: this is no such header. */
int es_proxy_read(const char *bytes, size_t size, es_peer *peer);

#endif
