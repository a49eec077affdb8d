/* The whole net layer without Lua: the input's bytes say what clients, scripts, the kernel and the clock do, and the
 * oracle what each client must receive. */
#include "fuzz/stream_script.h"

#define DRAIN_TURNS 5000

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static bool is_busy(void) {
  for (const es_connection *c = server->connections; c != NULL; c = c->next) {
    if (c->writing || c->dirty || (c->state == ES_READING && c->exchange == NULL))
      return true;
  }
  for (client *c = clients; c < clients + CLIENTS; c++) {
    if (c->left && is_connected(c) && c->connection->state != ES_LINGERING && c->connection->state != ES_CLOSING)
      return true;
  }
  const es_fanout *f = &loop.fanout;
  return f->ready.first != NULL || f->resting.first != NULL || es_deadlines_next(&f->timed) != ES_NEVER ||
         loop.first_job != NULL;
}

/* The kernel takes all: so everything that is due comes. */
static void drain(void) {
  say("drain\n");
  memory_fails_next = 0;
  clock_step_ns = 0;
  for (client *c = clients; c < clients + CLIENTS; c++) {
    c->room = SIZE_MAX;
    c->error = 0;
  }
  for (int turn = 0; turn == 0 || is_busy(); turn++) {
    CHECK(turn < DRAIN_TURNS || relaxed);
    if (turn >= DRAIN_TURNS)
      break;
    step_now++;
    clock_ns += 1000000;
    es_loop_turn(&loop, false);
    read_all();
  }
}

static void check_drained(void) {
  size_t subscribed = 0;
  for (client *c = clients; c < clients + CLIENTS && !relaxed; c++) {
    if (c->exchange == NULL || c->left || c->cut_ok)
      continue;
    expect_nothing(&c->expected, c->refused);
    CHECK(c->read == c->size);
    size_t active = 0;
    for (unsigned i = 0; i < c->expected.member_count; i++)
      active += c->expected.members[i].active;
    CHECK(c->exchange->subscribed == active);
    if (is_open(c))
      subscribed += active;
  }
  if (!relaxed)
    CHECK(server->stats.subscribers == subscribed);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size < 2)
    return 0;
  size_t before = memory_live;
  script_begin(input, size);
  clock_ns = 1000000000;
  grace_ns = UINT64_MAX;
  clock_step_ns = 0;
  step_now = 0;
  relaxed = false;
  memory_fails_next = 0;
  memset(skips, 0, sizeof skips);
  for (client *c = clients; c < clients + CLIENTS; c++)
    *c = (client){.fd = -1, .server_fd = -1, .room = SIZE_MAX};
  static const size_t backlogs[] = {65536, 1000, 300, 40};
  unsigned b = script_byte();
  if (es_loop_init(&loop) != 0)
    abort();
  server = es_server_new(&loop);
  CHECK(server != NULL);
  server->limits = (es_limits){.connections = 100,
                               .header_bytes = 1024,
                               .body_bytes = 1024,
                               .backlog_bytes = backlogs[b & 3],
                               .pipelined = 8,
                               .header_seconds = 10,
                               .body_seconds = 10,
                               .keep_alive_seconds = 60,
                               .stream_seconds = b & 4 ? 20 : 0};
  server->pool.budget.limit = SIZE_MAX;
  server->heartbeat_seconds = b & 8 ? 4 : 0;
  server->retry_ms = -1;
  server->handlers = &script_handlers;
  server->epoch = 0xfedcba9876543210ULL; /* the same in each run */
  server->ids.seed = server->channels.seed = 42;
  loop.random = 42;
  running = true;
  for (unsigned i = 0; i < (b >> 4 & 3); i++)
    script_connect(&clients[i]);
  script_turn();
  read_all();
  while (script_goes_on()) {
    script_step();
    read_all();
  }
  if (b & 64) {
    drain();
    check_drained();
  }
  if (b & 128) {
    for (client *c = clients; c < clients + CLIENTS; c++) {
      if (c->exchange != NULL)
        es_exchange_end(c->exchange, ES_END_SERVER);
    }
    drain();
    check_drained();
  }
  running = false;
  memory_fails_next = 0;
  for (unsigned i = 0; i < CHANNELS; i += 2)
    script_drop_handle(i);
  es_loop_free(&loop);
  server = NULL;
  for (unsigned i = 0; i < CHANNELS; i++)
    script_drop_handle(i); /* these are empty shells by now */
  for (client *c = clients; c < clients + CLIENTS; c++)
    forget(c);
  facts_free();
  CHECK(memory_live == before);
  return 0;
}
