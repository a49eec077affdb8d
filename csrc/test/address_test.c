#include "core/address.h"
#include "core/parser.h"
#include "core/proxy.h"

#include "check.h"

static es_slice slice(const char *text) {
  return (es_slice){text, strlen(text)};
}

static void reads(const char *text, const char *address, unsigned port) {
  es_peer peer;
  char out[ES_PEER_TEXT];
  CHECK(es_peer_read(slice(text), &peer));
  CHECK(peer.port == port && strcmp(es_peer_write(&peer, out), address) == 0);
}

static void has(const char *network, const char *address, bool wanted) {
  es_network n;
  es_peer peer;
  CHECK(es_network_read(slice(network), &n) && es_peer_read(slice(address), &peer));
  CHECK(es_network_has(&n, &peer) == wanted);
}

/* The client that a peer names by these header lines. */
static void names(bool forwarded, const char *from, const char *lines, const char *client) {
  es_network networks[2];
  es_trust trust = {.networks = networks, .count = 2, .forwarded = forwarded};
  es_parser *parser = es_parser_new(4096, 0, NULL);
  char text[1024], out[ES_PEER_TEXT];
  size_t taken;
  es_peer peer;
  CHECK(es_network_read(slice("10.0.0.0/8"), &networks[0]) && es_network_read(slice("2001:db8::/32"), &networks[1]));
  snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", lines);
  CHECK(es_parser_feed(parser, text, strlen(text), &taken) == ES_PARSE_DONE);
  es_request *request = es_parser_take(parser);
  CHECK(es_peer_read(slice(from), &peer));
  es_trust_client(&trust, request, &peer);
  CHECK(strcmp(es_peer_write(&peer, out), client) == 0);
  es_request_unref(request);
  es_parser_free(parser);
}

/* Each beginning of a header needs more, and the whole is taken, whatever follows. */
static void proxies(const char *bytes, size_t size, const char *client, unsigned port) {
  es_peer peer = {.family = ES_NOWHERE};
  char exact[ES_PROXY_MAX], out[ES_PEER_TEXT];
  for (size_t len = 0; len < size; len++) {
    char *cut = malloc(len + 1);
    memcpy(cut, bytes, len);
    CHECK(es_proxy_read(cut, len, &peer) == 0);
    free(cut);
  }
  CHECK(es_proxy_read(bytes, size, &peer) == (int)size);
  memcpy(exact, bytes, size);
  memcpy(exact + size, "GET ", 4);
  CHECK(es_proxy_read(exact, size + 4, &peer) == (int)size);
  if (client == NULL)
    CHECK(peer.family == ES_NOWHERE);
  else
    CHECK(strcmp(es_peer_write(&peer, out), client) == 0 && peer.port == port);
}

static void is_no_proxy(const char *text, size_t size) {
  es_peer peer = {.family = ES_NOWHERE};
  CHECK(es_proxy_read(text, size, &peer) == -1 && peer.family == ES_NOWHERE);
}

int main(void) {
  es_peer peer;
  es_network network;

  reads("192.0.2.1", "192.0.2.1", 0);
  reads("192.0.2.1:8080", "192.0.2.1", 8080);
  reads("2001:db8::1", "2001:db8::1", 0);
  reads("[2001:db8::1]", "2001:db8::1", 0);
  reads("[2001:DB8::1]:443", "2001:db8::1", 443);
  reads("::ffff:192.0.2.1", "192.0.2.1", 0);
  static const char *const bad[] = {"",
                                    "192.0.2",
                                    "192.0.2.1:",
                                    "192.0.2.1:65536",
                                    "192.0.2.1:-1",
                                    "[192.0.2.1]:80",
                                    "[::1",
                                    "[::1]80",
                                    "unknown",
                                    "_hidden",
                                    "192.0.2.1, ::1",
                                    "192.0.2.1:80:80",
                                    "0x7f.1",
                                    "192.0.2.256",
                                    "2001:db8::1::",
                                    "[]:80",
                                    ":80",
                                    "192.0.2.1:000080"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    CHECK(!es_peer_read(slice(bad[i]), &peer));
  CHECK(!es_peer_read((es_slice){"1.2.3.4\0x", 9}, &peer));

  has("10.0.0.0/8", "10.255.0.1", true);
  has("10.0.0.0/8", "11.0.0.1", false);
  has("192.0.2.128/25", "192.0.2.128", true);
  has("192.0.2.128/25", "192.0.2.127", false);
  has("0.0.0.0/0", "203.0.113.9", true);
  has("0.0.0.0/0", "::1", false);
  has("192.0.2.1", "192.0.2.1:99", true);
  has("192.0.2.1", "192.0.2.0", false);
  has("2001:db8::/33", "2001:db8:7fff::", true);
  has("2001:db8::/33", "2001:db8:8000::", false);
  has("::ffff:192.0.2.1", "192.0.2.1", true);
  has("::/0", "2001:db8::1", true);
  has("unix", "127.0.0.1", false);
  static const char *const no_network[] = {"",       "10.0.0.0/33", "10.0.0.0/",    "/8",
                                           "::/129", "ten",         "10.0.0.0/8/8", "a/8"};
  for (size_t i = 0; i < sizeof no_network / sizeof *no_network; i++)
    CHECK(!es_network_read(slice(no_network[i]), &network));
  CHECK(es_network_read(slice("unix"), &network) && es_network_has(&network, &(es_peer){.family = ES_UNIX}));

  names(false, "10.0.0.1", "", "10.0.0.1");
  names(false, "10.0.0.1", "X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9");
  names(false, "192.0.2.1", "X-Forwarded-For: 203.0.113.9\r\n", "192.0.2.1");
  names(false, "10.0.0.1", "X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n", "203.0.113.9");
  names(false, "10.0.0.1", "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.9.9.9\r\n", "203.0.113.9");
  names(false, "10.0.0.1", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.9:50\r\n", "203.0.113.9");
  names(false, "10.0.0.1", "X-Forwarded-For: 6.6.6.6, unknown\r\n", "10.0.0.1");
  names(false, "10.0.0.1", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3");
  names(false, "10.0.0.1", "X-Forwarded-For: 6.6.6.6, \", 203.0.113.9\r\n", "203.0.113.9");
  names(false, "10.0.0.1", "X-Forwarded-For: ,, 203.0.113.9 ,\r\n", "203.0.113.9");
  names(false, "10.0.0.1", "Forwarded: for=6.6.6.6\r\n", "10.0.0.1"); /* the proxy passes on what it does not know */
  names(true, "10.0.0.1", "X-Forwarded-For: 6.6.6.6\r\n", "10.0.0.1");
  names(true, "10.0.0.1", "Forwarded: for=203.0.113.9;proto=https\r\n", "203.0.113.9");
  names(true, "10.0.0.1", "Forwarded: proto=https; FOR=\"[2001:db9::1]:70\"\r\n", "2001:db9::1");
  names(true, "10.0.0.1", "Forwarded: for=6.6.6.6;x=\", for=203.0.113.9\r\n", "203.0.113.9");
  names(true, "10.0.0.1", "Forwarded: for=6.6.6.6, for=\"_a,b\"\r\n", "10.0.0.1");
  names(true, "10.0.0.1", "Forwarded: for=203.0.113.9, for=10.4.4.4\r\n", "203.0.113.9");
  names(true, "10.0.0.1", "Forwarded: by=10.0.0.1\r\n", "10.0.0.1");
  names(true, "10.0.0.1", "Forwarded: host=\"a;for=6.6.6.6;b\";for=203.0.113.9\r\n", "203.0.113.9");
  names(true, "10.0.0.1", "Forwarded: host=\"x\\\";for=6.6.6.6;y=\\\"\";for=203.0.113.9\r\n", "203.0.113.9");
  names(true, "10.0.0.1", "Forwarded: for=8.8.8.8, host=\"x\\\",for=6.6.6.6\\\\\";for=203.0.113.9\r\n", "203.0.113.9");
  names(true, "10.0.0.1", "Forwarded: for=6.6.6.6;for=203.0.113.9\r\n", "10.0.0.1");
  names(true, "10.0.0.1", "Forwarded: for=203.0.113.9;host=\"a\r\n", "10.0.0.1");
  names(true, "10.0.0.1", "Forwarded: for=203.0.113.9;host=\"a\\\r\n", "10.0.0.1");

  static const char tcp4[] = "PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\r\n";
  static const char tcp6[] = "PROXY TCP6 2001:db8::9 2001:db8::1 1 65535\r\n";
  static const char unknown[] = "PROXY UNKNOWN ffff:f...f:ffff whatever 65535\r\n";
  proxies(tcp4, sizeof tcp4 - 1, "203.0.113.9", 56324);
  proxies(tcp6, sizeof tcp6 - 1, "2001:db8::9", 1);
  proxies(unknown, sizeof unknown - 1, NULL, 0);
  static const char *const no_v1[] = {"GET / HTTP/1.1\r\n",
                                      "PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\n",
                                      "PROXY TCP4 203.0.113.9 192.0.2.2 56324\r\n",
                                      "PROXY TCP4 203.0.113.9 192.0.2.2 56324 443 1\r\n",
                                      "PROXY TCP4 2001:db8::9 2001:db8::1 1 2\r\n",
                                      "PROXY TCP6 203.0.113.9 192.0.2.2 1 2\r\n",
                                      "PROXY TCP4 203.0.113.9:5 192.0.2.2 1 2\r\n",
                                      "PROXY TCP4  203.0.113.9 192.0.2.2 1 2\r\n",
                                      "PROXY TCP4 203.0.113.9 192.0.2.2 65536 2\r\n",
                                      "PROXY UDP4 203.0.113.9 192.0.2.2 1 2\r\n",
                                      "proxy TCP4 203.0.113.9 192.0.2.2 1 2\r\n"};
  for (size_t i = 0; i < sizeof no_v1 / sizeof *no_v1; i++)
    is_no_proxy(no_v1[i], strlen(no_v1[i]));
  char endless[200];
  memset(endless, 'x', sizeof endless);
  memcpy(endless, "PROXY UNKNOWN ", 14);
  is_no_proxy(endless, sizeof endless);

  static const char v2[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x02\xdc\x04\x01\xbb";
  static const char extended[] =
      "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xcb\0\x71\x09\xc0\0\x02\x02\xdc\x04\x01\xbb\x04\0\x01x";
  static const char local[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
  static const char unspecified[] = "\r\n\r\n\0\r\nQUIT\n\x21\0\0\x02zz";
  static const char wide[] = "\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
                             "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09"
                             "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x34\x01\xbb";
  proxies(v2, sizeof v2 - 1, "203.0.113.9", 0xdc04);
  proxies(extended, sizeof extended - 1, "203.0.113.9", 0xdc04);
  proxies(local, sizeof local - 1, NULL, 0);
  proxies(unspecified, sizeof unspecified - 1, NULL, 0);
  proxies(wide, sizeof wide - 1, "2001:db8::9", 0x1234);
  static const struct {
    const char *bytes;
    size_t size;
  } no_v2[] = {{"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c", 16},               /* version 1 in the form of 2 */
               {"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c", 16},               /* an unknown command */
               {"\r\n\r\n\0\r\nQUIT\n\x21\x41\0\x0c", 16},               /* an unknown family */
               {"\r\n\r\n\0\r\nQUIT\n\x21\x13\0\x0c", 16},               /* an unknown transport */
               {"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", 16},             /* 64 KiB */
               {"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xcb\0\x71\x09", 20}, /* too short for its addresses */
               {"\r\n\r\n\1", 5}};
  for (size_t i = 0; i < sizeof no_v2 / sizeof *no_v2; i++)
    is_no_proxy(no_v2[i].bytes, no_v2[i].size);

  CHECK(es_peer_read(slice("127.8.8.8"), &peer) && es_peer_is_loopback(&peer));
  CHECK(es_peer_read(slice("::1"), &peer) && es_peer_is_loopback(&peer));
  CHECK(es_peer_read(slice("128.0.0.1"), &peer) && !es_peer_is_loopback(&peer));
  printf("address: %d checks\n", checks);
  return 0;
}
