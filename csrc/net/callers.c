#include "net/callers.h"

#include "net/server.h"

#include <stdlib.h>
#include <string.h>

#define TOLD_MAX 16 /* connections of an address above its limit that are still told so; more are cut */
#define KEY_BYTES 9 /* the family, and what is counted of the address */

typedef struct caller {
  es_node node; /* first: the one is the other */
  size_t count;
  char key[KEY_BYTES];
} caller;

static es_slice key_of(const es_peer *peer, char key[KEY_BYTES]) {
  size_t size = peer->family == ES_IPV4 ? 4 : 8;
  key[0] = (char)peer->family;
  memcpy(key + 1, peer->address, size);
  return (es_slice){key, size + 1};
}

static caller *find(const es_server *server, const es_peer *peer) {
  char key[KEY_BYTES];
  return (caller *)es_table_find(&server->callers, key_of(peer, key));
}

static caller *add(es_server *server, const es_peer *peer) {
  caller *c = calloc(1, sizeof *c);
  if (c == NULL)
    return NULL;
  c->node.key = key_of(peer, c->key);
  if (es_table_add(&server->callers, &c->node) == 0)
    return c;
  free(c);
  return NULL;
}

es_caller es_callers_enter(es_server *server, const es_peer *peer) {
  const es_limits *limits = &server->limits;
  bool counts = (peer->family == ES_IPV4 || peer->family == ES_IPV6) && limits->address_connections > 0 &&
                (limits->loopback || !es_peer_is_loopback(peer)) && !es_trust_has(&server->trust, peer);
  if (!counts)
    return ES_CALLER_FREE;
  caller *c = find(server, peer);
  if (c == NULL)
    c = add(server, peer);
  if (c == NULL || c->count >= limits->address_connections + TOLD_MAX)
    return ES_CALLER_REFUSED;
  return ++c->count > limits->address_connections ? ES_CALLER_OVER : ES_CALLER_COUNTED;
}

void es_callers_leave(es_server *server, const es_peer *peer) {
  caller *c = find(server, peer);
  if (c == NULL || --c->count > 0)
    return;
  es_table_remove(&server->callers, &c->node);
  free(c);
}

void es_callers_free(es_server *server) {
  for (es_node *node; (node = es_table_any(&server->callers)) != NULL;) {
    es_table_remove(&server->callers, node);
    free(node);
  }
  es_table_free(&server->callers);
}
