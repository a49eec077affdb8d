#include "net/listener.h"

#include "net/platform.h"
#include "net/server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096         /* clients that the kernel keeps for us */
#define ACCEPTS_A_TURN 64    /* so that a flood of new clients leaves time for the others */
#define SHED_MAX 1024        /* connections above the limit that are still told so; more are cut */
#define ACCEPT_AGAIN_MS 100  /* after descriptors or memory ran out */
#define OTHER_DESCRIPTORS 64 /* that a process may well have beside its clients' */
#define IDLE_CLOSED 64       /* so many connections that only wait for a next request then go */

static void on_listen(uv_poll_t *poll, int status, int events);

static void on_again(es_deadline *deadline) {
  es_listener *l = (es_listener *)((char *)deadline - offsetof(es_listener, again));
  uv_poll_start(&l->poll, UV_READABLE, on_listen);
}

/* The client stays in the kernel's queue; asking again at once would spin. */
static void rest(es_listener *l) {
  es_loop *loop = l->server->loop;
  uv_poll_stop(&l->poll);
  if (es_loop_set_deadline(loop, &l->again, es_loop_time(loop) + ACCEPT_AGAIN_MS) != 0)
    uv_poll_start(&l->poll, UV_READABLE, on_listen);
}

/* Who waits for nothing but a next request makes room for who has one. */
static void close_idle(es_server *server) {
  unsigned closed = 0;
  for (es_connection *c = server->connections, *next; c != NULL && closed < IDLE_CLOSED; c = next) {
    next = c->next;
    if (!es_connection_is_idle(c))
      continue;
    es_connection_close(c, ES_END_SERVER);
    closed++;
  }
}

static es_peer peer_of(const struct sockaddr_storage *address) {
  if (address->ss_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    return es_peer_of(&in->sin_addr, false, ntohs(in->sin_port));
  }
  if (address->ss_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    return es_peer_of(&in6->sin6_addr, true, ntohs(in6->sin6_port));
  }
  return (es_peer){.family = address->ss_family == AF_UNIX ? ES_UNIX : ES_NOWHERE};
}

/* Accepts a client: its descriptor, or a negative errno. Where the process has no descriptor for it, one that was put
 * aside serves to tell it so. */
static int accept_one(es_listener *l, es_accepted *accepted) {
  struct sockaddr_storage address;
  es_loop *loop = l->server->loop;
  int fd = es_platform_accept(l->fd, &address);
  if ((fd == -EMFILE || fd == -ENFILE) && es_loop_spend(loop)) {
    close_idle(l->server);
    fd = es_platform_accept(l->fd, &address);
    accepted->spare = accepted->shed = fd >= 0;
    if (fd < 0)
      es_loop_spare(loop);
  }
  if (fd >= 0)
    accepted->peer = peer_of(&address);
  return fd;
}

/* A connection that is aborted in the queue is the only failure that says nothing of the next one. */
static bool is_exhausted(int err) {
  return err == -EMFILE || err == -ENFILE || err == -ENOBUFS || err == -ENOMEM;
}

/* Accepts so many at most: 0, or the negative errno with which it ended. */
static int accept_some(es_listener *l, int max) {
  es_server *server = l->server;
  for (int i = 0; i < max; i++) {
    es_accepted accepted = {.proxied = l->proxied};
    int fd = accept_one(l, &accepted);
    if (fd == -EINTR || fd == -ECONNABORTED)
      continue;
    if (fd < 0)
      return fd;
    server->stats.accepted++;
    size_t open = server->stats.connections;
    if (open >= server->limits.connections + SHED_MAX) {
      server->stats.rejected[ES_REFUSED_FULL]++;
      close(fd);
      if (accepted.spare)
        es_loop_spare(server->loop);
      continue;
    }
    accepted.shed = accepted.shed || open >= server->limits.connections;
    es_connection_new(server, fd, &accepted);
  }
  return 0;
}

static void on_listen(uv_poll_t *poll, int status, int events) {
  es_listener *l = poll->data;
  es_loop *loop = l->server->loop;
  (void)status;
  (void)events;
  if (is_exhausted(accept_some(l, ACCEPTS_A_TURN)))
    rest(l);
  es_loop_settle(loop);
}

void es_listener_drain(es_listener *l) {
  if (l->server != NULL && l->owned)
    accept_some(l, BACKLOG);
}

static void tell_address(es_listener *l) {
  struct sockaddr_storage address;
  socklen_t len = sizeof address;
  if (getsockname(l->fd, (struct sockaddr *)&address, &len) != 0)
    return;
  if (address.ss_family == AF_INET) {
    uv_ip4_name((struct sockaddr_in *)&address, l->host, sizeof l->host);
    l->port = ntohs(((struct sockaddr_in *)&address)->sin_port);
  } else if (address.ss_family == AF_INET6) {
    uv_ip6_name((struct sockaddr_in6 *)&address, l->host, sizeof l->host);
    l->port = ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
  } else if (address.ss_family == AF_UNIX) {
    const struct sockaddr_un *un = (struct sockaddr_un *)&address;
    if (len > offsetof(struct sockaddr_un, sun_path) && un->sun_path[0] != '\0')
      l->path = strndup(un->sun_path, sizeof un->sun_path);
  }
}

/* A listener on a socket that is bound already. Does not take the descriptor over when it fails. */
static es_listener *listen_on(es_server *server, int fd, int *err) {
  if (listen(fd, BACKLOG) != 0) {
    *err = -errno;
    return NULL;
  }
  es_listener *l = calloc(1, sizeof *l);
  *err = l == NULL ? UV_ENOMEM : uv_poll_init_socket(&server->loop->uv, &l->poll, fd);
  if (*err != 0) {
    free(l);
    return NULL;
  }
  l->poll.data = l;
  l->again.on_due = on_again;
  l->fd = fd;
  l->server = server;
  l->refs = 2; /* the caller's and the socket's */
  l->next = server->listeners;
  if (l->next != NULL)
    l->next->prev = l;
  server->listeners = l;
  tell_address(l);
  es_loop_make_room(server->loop, fd, server->limits.connections + SHED_MAX + OTHER_DESCRIPTORS);
  for (int i = 0; i < ES_SPARES; i++)
    es_loop_spare(server->loop);
  es_loop_hold(server->loop);
  uv_poll_start(&l->poll, UV_READABLE, on_listen);
  es_loop_wake(server->loop);
  return l;
}

/* Binds a new socket and listens. */
static es_listener *bind_on(es_server *server, const struct sockaddr *address, socklen_t len, bool shared, int *err) {
  int fd = es_platform_socket(address->sa_family);
  if (fd < 0) {
    *err = fd;
    return NULL;
  }
  if (address->sa_family != AF_UNIX)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); /* a restart need not wait for TIME_WAIT */
  es_listener *l = NULL;
  if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)) != 0)
    *err = -errno;
  else if (bind(fd, address, len) != 0)
    *err = -errno;
  else
    l = listen_on(server, fd, err);
  if (l == NULL)
    close(fd);
  else
    l->owned = true;
  return l;
}

static int resolve_error(int code) {
  switch (code) {
  case EAI_MEMORY:
    return UV_ENOMEM;
  case EAI_AGAIN:
    return UV_EAI_AGAIN;
  case EAI_SYSTEM:
    return -errno;
  default:
    return UV_EAI_NONAME;
  }
}

es_listener *es_listen_tcp(es_server *server, const char *host, int port, bool shared, int *err) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *found;
  char service[8];
  snprintf(service, sizeof service, "%u", (unsigned)port & 0xFFFF);
  int code = getaddrinfo(host, service, &hints, &found);
  if (code != 0) {
    *err = resolve_error(code);
    return NULL;
  }
  es_listener *l = NULL;
  for (const struct addrinfo *a = found; l == NULL && a != NULL; a = a->ai_next)
    l = bind_on(server, a->ai_addr, a->ai_addrlen, shared, err);
  freeaddrinfo(found);
  return l;
}

/* Whether a path is a socket's file that nobody listens on: what a killed server leaves behind. */
static bool is_stale(const struct sockaddr_un *address) {
  struct stat status;
  if (lstat(address->sun_path, &status) != 0 || !S_ISSOCK(status.st_mode))
    return false;
  int fd = es_platform_socket(AF_UNIX);
  if (fd < 0)
    return false;
  bool stale = connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED;
  close(fd);
  return stale;
}

es_listener *es_listen_unix(es_server *server, const char *path, int *err) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    *err = UV_ENAMETOOLONG;
    return NULL;
  }
  strcpy(address.sun_path, path);
  es_listener *l = bind_on(server, (struct sockaddr *)&address, sizeof address, false, err);
  if (l == NULL && *err == UV_EADDRINUSE && is_stale(&address) && unlink(path) == 0)
    l = bind_on(server, (struct sockaddr *)&address, sizeof address, false, err);
  struct stat status;
  if (l != NULL && lstat(path, &status) == 0) {
    l->device = status.st_dev;
    l->inode = status.st_ino;
  }
  return l;
}

es_listener *es_listen_fd(es_server *server, int fd, int *err) {
  int accepts = 0, type = 0;
  socklen_t len = sizeof accepts;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) != 0) {
    *err = -errno;
    return NULL;
  }
  len = sizeof type;
  if (!accepts || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM) {
    *err = UV_EINVAL;
    return NULL;
  }
  *err = es_platform_adopt(fd);
  return *err == 0 ? listen_on(server, fd, err) : NULL;
}

/* Whether its path is still its own: another server may have taken it meanwhile. */
static bool has_path(const es_listener *l) {
  struct stat status;
  return l->owned && l->path != NULL && lstat(l->path, &status) == 0 && status.st_dev == l->device &&
         status.st_ino == l->inode;
}

static void on_closed(uv_handle_t *handle) {
  es_listener_unref(handle->data);
}

void es_listener_close(es_listener *l) {
  es_server *server = l->server;
  if (server == NULL)
    return;
  l->server = NULL;
  if (l->prev != NULL)
    l->prev->next = l->next;
  else
    server->listeners = l->next;
  if (l->next != NULL)
    l->next->prev = l->prev;
  es_loop_remove_deadline(server->loop, &l->again);
  es_loop_release(server->loop);
  if (has_path(l))
    unlink(l->path);
  uv_close((uv_handle_t *)&l->poll, on_closed);
  close(l->fd);
  es_loop_wake(server->loop);
  es_server_check_closed(server);
}

void es_listener_unref(es_listener *l) {
  if (l == NULL || --l->refs > 0)
    return;
  free(l->path);
  free(l);
}
