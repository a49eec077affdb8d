#include "net/server.h"

#include <stdlib.h>

static void run_closed(es_job *job) {
  es_server *server = (es_server *)((char *)job - offsetof(es_server, closed_job));
  server->handlers->on_closed(server);
}

static void on_grace(es_deadline *deadline) {
  es_server *server = (es_server *)((char *)deadline - offsetof(es_server, grace));
  while (server->connections != NULL)
    es_connection_close(server->connections, ES_END_SERVER);
}

es_server *es_server_new(es_loop *loop) {
  es_server *server = calloc(1, sizeof *server);
  if (server == NULL)
    return NULL;
  if (uv_random(NULL, NULL, &server->epoch, sizeof server->epoch, 0, NULL) != 0 ||
      uv_random(NULL, NULL, &server->ids.seed, sizeof server->ids.seed, 0, NULL) != 0) {
    free(server); /* ids that come again after a restart would lose frames in silence */
    return NULL;
  }
  server->channels.seed = server->callers.seed = server->ids.seed;
  server->loop = loop;
  server->closed_job.run = run_closed;
  server->grace.on_due = on_grace;
  server->next = loop->servers;
  if (server->next != NULL)
    server->next->prev = server;
  loop->servers = server;
  return server;
}

void es_server_free(es_server *server) {
  if (server == NULL)
    return;
  es_loop *loop = server->loop;
  server->closed = true; /* nobody is told any more */
  while (server->listeners != NULL)
    es_listener_close(server->listeners);
  while (server->connections != NULL) {
    es_connection *c = server->connections;
    es_exchange *x = c->exchange;
    es_connection_close(c, ES_END_SERVER);
    if (x != NULL)
      x->server = NULL;
  }
  es_channels_free(server);
  es_callers_free(server);
  es_pool_clear(&server->pool);
  es_exchange_forget_server(server);
  es_loop_unpost(loop, &server->closed_job);
  es_loop_remove_deadline(loop, &server->grace);
  if (server->prev != NULL)
    server->prev->next = server->next;
  else
    loop->servers = server->next;
  if (server->next != NULL)
    server->next->prev = server->prev;
  es_cors_clear(&server->cors);
  free((void *)(uintptr_t)server->trust.networks);
  free(server);
}

static es_channel *channel_of(es_node *node) {
  return (es_channel *)((char *)node - offsetof(es_channel, node));
}

void es_server_join(es_server *server, uint64_t epoch, uint64_t sequence) {
  server->epoch = epoch;
  server->sequence = server->gone = server->given_gone = sequence;
  for (es_node *node = NULL; (node = es_table_after(&server->channels, node)) != NULL;)
    es_channel_join(channel_of(node));
}

void es_server_pass(es_server *server, uint64_t sequence) {
  if (sequence > server->sequence)
    server->sequence = sequence;
}

void es_server_bound(es_server *server, uint64_t sequence) {
  server->lost = sequence;
}

void es_server_lose(es_server *server, uint64_t sequence) {
  if (sequence < server->sequence)
    return;
  server->sequence = sequence;
  if (sequence > server->lost)
    server->lost = sequence;
  for (es_connection *c = server->connections, *next; c != NULL; c = next) {
    next = c->next;
    es_subscriptions_tell_gap(c);
  }
}

void es_server_check_closed(es_server *server) {
  if (!server->closing || server->closed || server->connections != NULL || server->listeners != NULL)
    return;
  server->closed = true;
  es_loop_remove_deadline(server->loop, &server->grace);
  es_loop_post(server->loop, &server->closed_job);
}

static void set_grace(es_server *server, uint64_t due) {
  server->grace_due = due;
  if (es_loop_set_deadline(server->loop, &server->grace, due) != 0)
    on_grace(&server->grace);
}

void es_server_close(es_server *server, double grace, double spread) {
  uint64_t due = es_loop_now(server->loop) + (uint64_t)(grace * 1000);
  if (server->closing) { /* again: it may only become shorter */
    if (!server->closed && due < server->grace_due)
      set_grace(server, due);
    return;
  }
  server->closing = true;
  server->spread = spread;
  while (server->listeners != NULL) {
    es_listener_drain(server->listeners);
    es_listener_close(server->listeners);
  }
  for (es_connection *c = server->connections, *next; c != NULL; c = next) {
    next = c->next;
    if (c->exchange != NULL && c->exchange->streaming)
      es_exchange_send_away(c->exchange);
    else
      es_connection_retire(c);
  }
  if (server->connections != NULL)
    set_grace(server, due);
  es_server_check_closed(server);
}
