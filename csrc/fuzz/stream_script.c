#include "fuzz/stream_script.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define GRACE_SECONDS 4

static const uint8_t *input_at, *input_end;
static es_channel *handles[CHANNELS];
static bool in_callback;
static unsigned sent_count, ops;

void script_begin(const uint8_t *input, size_t size) {
  input_at = input;
  input_end = input + size;
  in_callback = false;
  sent_count = ops = 0;
}

unsigned script_byte(void) {
  return input_at < input_end ? *input_at++ : 0;
}

static unsigned below(unsigned bound) {
  return script_byte() % bound;
}

bool script_goes_on(void) {
  return input_at < input_end && ops < STEPS_MAX;
}

/* What a callback of the script's does. */
static void callback(void) {
  CHECK(running && loop.turning && !in_callback);
  in_callback = true;
  for (unsigned n = below(4); n > 0; n--)
    script_step();
  in_callback = false;
}

static client *client_of(const es_exchange *x) {
  client *c = clients;
  while (c < clients + CLIENTS && c->exchange != x)
    c++;
  return c < clients + CLIENTS ? c : NULL;
}

static void on_request(es_exchange *x) {
  client *c = clients;
  while (c < clients + CLIENTS && c->connection != x->connection)
    c++;
  CHECK(c < clients + CLIENTS && c->exchange == NULL);
  c->exchange = es_exchange_ref(x);
  es_exchange_stream(x);
  if (x->reason == ES_OPEN && es_exchange_open(x, (es_slice){NULL, 0}) != 0)
    es_exchange_end(x, ES_END_ERROR);
  if (x->connection != NULL)
    c->serial = x->connection->serial;
  c->chunked = x->request->minor > 0;
  if (x->reason == ES_OPEN)
    expect_text(&c->expected, HEARTBEAT, ITEM_SENT); /* the first byte, so that the browser sees it open */
  callback();
}

static void on_room(es_exchange *x) {
  CHECK(x->reason == ES_OPEN);
  callback();
}

static void hear_gone(es_exchange *x) {
  client *c = client_of(x);
  for (es_channel *ch; (ch = es_exchange_gone(x)) != NULL; es_channel_unref(ch)) {
    unsigned channel = (unsigned)(ch->node.key.ptr[0] - 'a');
    CHECK(channel < CHANNELS);
    if (c != NULL && !relaxed)
      CHECK(c->expected.told[channel]-- > 0);
  }
}

static void on_gone(es_exchange *x) {
  CHECK(x->reason == ES_OPEN);
  sync_all();
  hear_gone(x);
  callback();
}

static void on_end(es_exchange *x) {
  client *c = client_of(x);
  CHECK(x->reason != ES_OPEN && x->connection == NULL);
  sync_all();
  hear_gone(x);
  for (unsigned i = 0; c != NULL && i < CHANNELS && !relaxed; i++)
    CHECK(c->expected.told[i] == 0);
  callback();
}

static void on_closed(es_server *closed) {
  CHECK(closed == server && server->connections == NULL);
}

const es_handlers script_handlers = {on_request, on_room, on_gone, on_end, on_closed};

static es_channel_options options_of(unsigned channel) {
  static const size_t histories[] = {1000, 64, 8, 4, 3, 2, 1, 0}, bytes[] = {1048576, 4096, 600, 120};
  static const double seconds[] = {0, 0, 5, 0.1}, flushes[] = {ES_FLUSH_AUTO, 0, 0.01, 1};
  unsigned b = script_byte(), d = script_byte();
  skips[channel] = skips[channel] || (b & 128) != 0;
  say("channel %c: history %zu, %zu bytes, %g s, flush %g%s\n", 'a' + (int)channel, histories[b & 7], bytes[b >> 3 & 3],
      seconds[b >> 5 & 3], flushes[d & 3], b & 128 ? ", skip" : "");
  return (es_channel_options){.history = histories[b & 7],
                              .history_bytes = bytes[b >> 3 & 3],
                              .history_seconds = seconds[b >> 5 & 3],
                              .flush = flushes[d & 3],
                              .skip = (b & 128) != 0};
}

static es_channel *channel_at(unsigned channel) {
  char name = (char)('a' + channel);
  if (handles[channel] != NULL)
    return handles[channel];
  es_channel *ch = es_channel_find(server, (es_slice){&name, 1});
  if (ch == NULL) {
    es_channel_options options = options_of(channel);
    ch = es_channel_new(server, (es_slice){&name, 1}, &options);
  }
  if (ch != NULL)
    handles[channel] = es_channel_ref(ch);
  return ch;
}

void script_connect(client *c) {
  int pair[2];
  forget(c);
  if (server->closing || is_connected(c) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
    return;
  bool old = below(4) == 0;
  static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", old_request[] = "GET / HTTP/1.0\r\n\r\n";
  for (client *other = clients; other < clients + CLIENTS; other++) {
    if (other->server_fd == pair[0]) { /* the server has closed that one, and its number comes again */
      other->server_fd = -1;
      other->connection = NULL;
    }
  }
  c->fd = pair[1];
  c->server_fd = pair[0];
  es_connection *before = server->connections;
  es_connection_new(server, pair[0], &(es_accepted){.peer = {.family = ES_UNIX}});
  if (server->connections == before) { /* without memory */
    c->server_fd = -1;
    return;
  }
  c->connection = server->connections;
  say("client %d connects%s\n", number_of(c), old ? " with HTTP/1.0" : "");
  CHECK(write(c->fd, old ? old_request : request, (old ? sizeof old_request : sizeof request) - 1) > 0);
}

static void do_publish(unsigned channel) {
  es_channel *ch = channel_at(channel);
  unsigned b = script_byte(), d = script_byte();
  if (ch == NULL)
    return;
  char data[TEXT_MAX], text[ES_ID_TEXT], whole[TEXT_MAX + 256], id[ES_ID_TEXT + 8] = "";
  int size =
      snprintf(data, sizeof data, "%c%u %.*s", 'a' + (int)channel, ++sent_count, (int)(d < 224 ? d / 4 : d * 2),
               "................................................................................................"
               "................................................................................................"
               "................................................................................................"
               "................................................................................................"
               "................................................................................................"
               "................................................................................................");
  es_event event = ES_EVENT_INIT;
  event.data = (es_slice){data, (size_t)size};
  fact f = {.channel = channel, .step = step_now};
  es_id_kind kind = ES_ID_OWN;
  if ((b & 7) == 6) {
    kind = ES_ID_NONE;
    f.nameless = true;
  } else if ((b & 7) == 7 || (b & 128)) {
    kind = ES_ID_GIVEN; /* one of its own for what is spared, so that the oracle knows it where it comes alone */
    snprintf(f.given, sizeof f.given, b & 128 ? "x%u" : "g%u", b & 128 ? sent_count : b >> 3 & 3);
    event.id = (es_slice){f.given, strlen(f.given)};
  }
  client *spared = b & 128 ? &clients[(b >> 3 & 15) % CLIENTS] : NULL;
  if (spared != NULL && is_open(spared))
    f.except = spared->serial;
  say("publish to %c: kind %d, %d bytes, except %u\n", 'a' + (int)channel, (int)kind, size, f.except);
  uint64_t before = server->sequence;
  int err = es_channel_publish(ch, &event, kind, spared != NULL ? spared->exchange : NULL, text);
  if (err != 0 && !relaxed)
    CHECK(err == UV_ECANCELED && (ch->server == NULL || server->closing));
  if (server->sequence == before || relaxed)
    return;
  CHECK(err == 0 && server->sequence == before + 1);
  f.sequence = server->sequence;
  if (kind == ES_ID_OWN)
    snprintf(id, sizeof id, "id: %016llx-%llu\n", (unsigned long long)server->epoch, (unsigned long long)f.sequence);
  else if (kind == ES_ID_GIVEN)
    snprintf(id, sizeof id, "id: %s\n", f.given);
  snprintf(whole, sizeof whole, "%sdata: %s\n\n", id, data);
  f.text = strcpy(own(NULL, strlen(whole) + 1), whole);
  if (f.except != 0 && id[0] != '\0') {
    snprintf(whole, sizeof whole, "%s\n", id);
    f.instead = strcpy(own(NULL, strlen(whole) + 1), whole);
  }
  facts = own(facts, (fact_count + 1) * sizeof *facts);
  facts[fact_count++] = f;
  for (client *c = clients; c < clients + CLIENTS; c++) {
    if (c->exchange != NULL && !c->over)
      expect_fact(&c->expected, fact_count - 1, c->serial);
  }
}

/* What a given id may stand for: a frame with it that is not newer than the oldest kept one of the whole app. */
static bool may_stand(uint64_t sequence, const char *id) {
  bool found = false;
  for (unsigned i = 0; i < fact_count && facts[i].sequence <= sequence; i++) {
    const fact *f = &facts[i];
    char name = (char)('a' + f->channel);
    if (strcmp(f->given, id) != 0)
      continue;
    const es_channel *ch = es_channel_find(server, (es_slice){&name, 1});
    found = f->sequence == sequence;
    if (!found && ch != NULL && ch->log.gone < f->sequence)
      return false;
  }
  return found;
}

/* Whether what es_subscribe says is what it must say; the position is where the cursor stands. */
static void check_start(const es_channel *ch, const es_start *start, es_subscribed result, uint64_t position,
                        const char *id, bool grouped) {
  uint64_t head = server->sequence, epoch, sequence;
  unsigned channel = (unsigned)(ch->node.key.ptr[0] - 'a');
  size_t replayed = 0, kept = es_log_count(&ch->log);
  for (unsigned i = 0; i < fact_count; i++)
    replayed += facts[i].channel == channel && !facts[i].nameless && facts[i].sequence > position;
  bool asks = start->id.ptr != NULL && !start->live && (!grouped || start->since);
  bool own_id = asks && es_id_read(start->id, &epoch, &sequence);
  switch (result) {
  case ES_SUBSCRIBED_LIVE:
    CHECK(!asks);
    if (start->newcomer > 0 && start->id.ptr == NULL && !start->live && (!grouped || start->since))
      CHECK(replayed == (kept < start->newcomer ? kept : start->newcomer));
    else
      CHECK(position == head);
    return;
  case ES_SUBSCRIBED_RESUMED:
    CHECK(asks);
    CHECK(own_id ? epoch == server->epoch && position == sequence && position <= head : may_stand(position, id));
    return;
  case ES_SUBSCRIBED_GAP:
    CHECK(asks && (!own_id || epoch != server->epoch || sequence > head || sequence < ch->log.gone));
    CHECK(start->gap_live ? position == head : position <= head && replayed == kept);
    return;
  default:
    CHECK(false);
  }
}

static void do_subscribe(client *c, unsigned channel) {
  unsigned b = script_byte(), d = script_byte();
  char id[64] = "";
  if (c->exchange == NULL || !c->exchange->head_sent)
    return;
  es_channel *ch = channel_at(channel);
  if (ch == NULL)
    return;
  es_start start = {.since = b & 1, .live = (b & 14) == 14, .gap_live = (b & 48) == 48, .newcomer = b >> 6};
  switch (d & 7) {
  case 0: /* a newcomer */
    break;
  case 1:
    snprintf(id, sizeof id, "g%u", d >> 3 & 3);
    break;
  case 2:
    snprintf(id, sizeof id, "%s", d & 8 ? "0000000000000000-5" : "what is this");
    break;
  case 3:
  case 4:
    snprintf(id, sizeof id, "%016llx-%llu", (unsigned long long)server->epoch,
             (unsigned long long)(server->sequence + 2 > d >> 3 ? server->sequence + 2 - (d >> 3) : 0));
    break;
  default: /* one that comes back */
    memcpy(id, c->id, sizeof id);
  }
  if (id[0] != '\0')
    start.id = (es_slice){id, strlen(id)};
  bool was = expect_active(&c->expected, channel) != NULL, grouped = is_open(c) && c->exchange->connection->grouped;
  bool closed = !is_open(c) || ch->server == NULL || server->closing;
  es_subscribed result = es_subscribe(c->exchange, ch, &start);
  es_subscription *subscription =
      c->exchange->connection != NULL ? es_subscription_of(c->exchange->connection, ch) : NULL;
  if (subscription != NULL && !subscription->ended)
    subscription->told = true; /* as the layer above does */
  say("client %d subscribes to %c: id \"%s\"%s%s%s, newcomer %zu: %d\n", number_of(c), 'a' + (int)channel, id,
      start.since ? ", since" : "", start.live ? ", live" : "", start.gap_live ? ", gap_live" : "", start.newcomer,
      (int)result);
  if (relaxed)
    return;
  CHECK((result == ES_SUBSCRIBED_CLOSED) == closed);
  if (closed)
    return;
  CHECK((result == ES_SUBSCRIBED_ALREADY) == was);
  if (was)
    return;
  const es_subscription *s = es_subscription_of(c->exchange->connection, ch);
  CHECK(s != NULL && s->cursor <= server->sequence);
  check_start(ch, &start, result, s->cursor, id, grouped);
  expect_group(&c->expected);
  expect_member(&c->expected, channel, s->cursor, result == ES_SUBSCRIBED_GAP, c->serial);
}

static void do_unsubscribe(client *c, unsigned channel) {
  char name = (char)('a' + channel);
  es_channel *ch = es_channel_find(server, (es_slice){&name, 1});
  if (c->exchange == NULL || ch == NULL)
    return;
  bool open = is_open(c);
  member *m = expect_active(&c->expected, channel);
  bool was = es_unsubscribe(c->exchange, ch);
  say("client %d unsubscribes from %c\n", number_of(c), name);
  if (relaxed)
    return;
  CHECK(was == (open && m != NULL));
  if (was)
    expect_leave(&c->expected, m, true);
}

static void do_send(client *c) {
  unsigned d = script_byte();
  char text[TEXT_MAX], data[600];
  if (c->exchange == NULL || !c->exchange->head_sent || !is_open(c))
    return;
  memset(data, '-', sizeof data);
  int size = snprintf(data, sizeof data, "sent %u ", ++sent_count);
  data[size] = '-';
  es_event event = ES_EVENT_INIT;
  event.data = (es_slice){data, (size_t)size + (d < 192 ? d / 4 : d * 2)};
  snprintf(text, sizeof text, "data: %.*s\n\n", (int)event.data.len, data);
  int err = 0;
  if (d & 1)
    err = es_exchange_send(c->exchange, &event);
  else
    err = es_exchange_send_frame(c->exchange, (es_slice){text, strlen(text)});
  say("client %d is sent %zu: %d\n", number_of(c), event.data.len, err);
  if (relaxed)
    return;
  CHECK(err == 0 || err == UV_ENOBUFS || err == UV_ECANCELED);
  if (err == UV_ENOBUFS)
    CHECK(c->full || c->expected.open != 0); /* what follows a group waits until that is complete */
  if (err == 0)
    expect_text(&c->expected, text, ITEM_SENT);
}

static void do_close_channel(unsigned channel) {
  es_channel *ch = channel_at(channel);
  if (ch == NULL)
    return;
  bool was = ch->server != NULL;
  say("channel %c is closed\n", 'a' + (int)channel);
  es_channel_close(ch);
  CHECK(ch->server == NULL && ch->subscribers == 0);
  sync_all(); /* those that it cut get nothing more, the others what was published before */
  for (client *c = clients; c < clients + CLIENTS && was && !relaxed; c++) {
    member *m = c->over ? NULL : expect_active(&c->expected, channel);
    if (m != NULL)
      expect_leave(&c->expected, m, false);
  }
  handles[channel] = NULL;
  es_channel_unref(ch);
}

void script_drop_handle(unsigned channel) {
  es_channel *ch = handles[channel];
  say("the handle of %c is dropped\n", 'a' + (int)channel);
  handles[channel] = NULL;
  if (ch != NULL)
    es_channel_unref(ch);
}

static void do_set_channel(unsigned channel) {
  es_channel *ch = channel_at(channel);
  es_channel_options options = options_of(channel);
  if (ch != NULL && ch->server != NULL)
    es_channel_set(ch, &options);
}

static void do_close_server(void) {
  if (server->closing)
    return;
  sync_all();
  for (client *c = clients; c < clients + CLIENTS; c++) {
    if (is_open(c) && c->exchange->head_sent)
      expect_text(&c->expected, "retry: 100\n\n", ITEM_SENT);
  }
  say("the server closes\n");
  grace_ns = clock_ns + (uint64_t)GRACE_SECONDS * 1000000000;
  es_server_close(server, GRACE_SECONDS, 0);
}

static void do_leave(client *c, bool half) {
  if (c->fd < 0)
    return;
  say("client %d leaves\n", number_of(c));
  c->left = true;
  if (half) {
    shutdown(c->fd, SHUT_WR);
  } else {
    close(c->fd);
    c->fd = -1;
  }
}

static void do_kernel(client *c) {
  static const int errors[] = {EPIPE, ECONNRESET, ETIMEDOUT, EINTR};
  unsigned d = script_byte();
  if (d == 255)
    c->room = SIZE_MAX;
  else if (d >= 250)
    c->error = errors[d & 3];
  else
    c->room = d < 128 ? d : (d - 120) * 16;
  say("client %d: room %zu, error %d\n", number_of(c), c->room, c->error);
}

static void do_time(void) {
  static const uint64_t ms[] = {0, 1, 1, 10, 50, 100, 1000, 5000};
  unsigned d = script_byte();
  say("time: %u\n", d < 16 ? 0 : (unsigned)ms[d & 7]);
  if (d < 16)
    clock_step_ns = d * 1000000 / 4;
  else
    clock_ns += ms[d & 7] * 1000000 + 1000;
  es_loop_tick(&loop);
}

void script_turn(void) {
  say("turn\n");
  es_loop_turn(&loop, false);
}

void script_step(void) {
  unsigned op = script_byte(), channel = op >> 5 & 3;
  client *c = &clients[below(CLIENTS)];
  if (++ops > STEPS_MAX)
    return;
  step_now++;
  sync_all();
  switch (op & 31) {
  case 0:
  case 1:
    if (!in_callback)
      script_turn();
    break;
  case 2:
    if (!in_callback)
      do_time();
    break;
  case 3:
  case 4:
    if (!in_callback)
      script_connect(c);
    break;
  case 5:
  case 6:
  case 7:
  case 8:
    do_subscribe(c, channel);
    break;
  case 9:
    do_unsubscribe(c, channel);
    break;
  case 10:
  case 11:
    do_send(c);
    break;
  case 12:
    say("client %d is flushed\n", number_of(c));
    if (c->exchange != NULL)
      es_exchange_flush(c->exchange);
    break;
  case 13:
  case 14:
  case 15:
    do_kernel(c);
    break;
  case 16:
    do_leave(c, op & 128);
    break;
  case 17:
    say("client %d's stream is ended\n", number_of(c));
    if (c->exchange != NULL)
      es_exchange_end(c->exchange, ES_END_SERVER);
    break;
  case 18:
    do_close_channel(channel);
    break;
  case 19:
    script_drop_handle(channel);
    break;
  case 20:
    do_set_channel(channel);
    break;
  case 21:
    if (script_byte() == 7)
      do_close_server();
    break;
  case 22:
    if (script_byte() == 7) {
      relaxed = true;
      memory_fails_next = 1 + below(16);
    }
    break;
  default:
    do_publish(channel);
  }
  sync_all();
}
