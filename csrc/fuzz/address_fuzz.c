/* What proxies and clients say of where they come from: addresses, networks, lists of either header, and the PROXY
 * protocol, whose header must be the same however it is cut. */
#include "core/parser.h"
#include "core/proxy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void check_peer(es_slice text) {
  es_peer peer, again;
  char out[ES_PEER_TEXT];
  es_network network;
  if (es_peer_read(text, &peer)) {
    const char *written = es_peer_write(&peer, out);
    if (written == NULL || !es_peer_read((es_slice){written, strlen(written)}, &again) ||
        memcmp(peer.address, again.address, sizeof peer.address) != 0)
      abort();
  }
  if (es_network_read(text, &network) && network.peer.family != ES_UNIX && !es_network_has(&network, &network.peer))
    abort();
}

static void check_header(const char *name, es_slice value) {
  es_network network = {.peer = {.family = ES_IPV4, .address = {10}}, .bits = 8};
  es_trust trust = {.networks = &network, .count = 1, .forwarded = name[0] == 'f'};
  es_header header = {{name, strlen(name)}, value};
  es_request request = {.headers = &header, .header_count = 1};
  es_peer peer = {.family = ES_IPV4, .address = {10}}, stranger = {.family = ES_IPV4, .address = {9}};
  es_trust_client(&trust, &request, &peer);
  if (peer.family != ES_IPV4 && peer.family != ES_IPV6)
    abort();
  es_trust_client(&trust, &request, &stranger);
  if (stranger.address[0] != 9)
    abort();
}

static void check_proxy(const char *bytes, size_t size) {
  es_peer peer = {.family = ES_NOWHERE}, cut_peer = peer;
  int whole = es_proxy_read(bytes, size, &peer), cut = 0;
  for (size_t len = 0; len <= size && cut == 0; len++) {
    char *exact = malloc(len > 0 ? len : 1);
    memcpy(exact, bytes, len);
    cut = es_proxy_read(exact, len, &cut_peer);
    free(exact);
  }
  if (whole != cut || whole > (int)size || memcmp(&peer, &cut_peer, sizeof peer) != 0)
    abort();
  if (whole == 0 && size > ES_PROXY_MAX)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  char *text = malloc(size > 0 ? size : 1);
  memcpy(text, input, size);
  es_slice slice = {text, size};
  check_peer(slice);
  check_header("forwarded", slice);
  check_header("x-forwarded-for", slice);
  check_proxy(text, size);
  free(text);
  return 0;
}
