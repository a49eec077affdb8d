#include "net/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif
#include <unistd.h>

/* Unsent bytes that the kernel takes for one connection before it says "full". Without it a reader that has stopped
 * hides behind 4 MB of kernel memory, and every limit bites that much later. */
#define NOTSENT_BYTES 65536
/* A peer whose cable was cut: probed after a minute of silence, given up when sent bytes stay unanswered for a minute.
 * Streams whose limit for slow readers is longer get more (es_platform_set_patience), because this also ends live peers
 * that do not read. */
#define KEEPALIVE_IDLE_SECONDS 60
#define KEEPALIVE_PROBE_SECONDS 10
#define KEEPALIVE_PROBES 6

int es_platform_adopt(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
    return -errno;
  return 0;
}

static int adopted(int fd) {
  int err = es_platform_adopt(fd);
  if (err < 0) {
    close(fd);
    return err;
  }
  return fd;
}

int es_platform_socket(int family) {
#if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
#else
  int fd = socket(family, SOCK_STREAM, 0);
  return fd < 0 ? -errno : adopted(fd);
#endif
}

int es_platform_accept(int fd, struct sockaddr_storage *address) {
  socklen_t len = sizeof *address;
  address->ss_family = AF_UNSPEC;
#if defined(__linux__)
  int peer = accept4(fd, (struct sockaddr *)address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
  (void)adopted;
  return peer < 0 ? -errno : peer;
#else
  int peer = accept(fd, (struct sockaddr *)address, &len);
  return peer < 0 ? -errno : adopted(peer);
#endif
}

int es_platform_duplicate(int fd, int from) {
  int second = fcntl(fd, F_DUPFD_CLOEXEC, from);
  return second < 0 ? -errno : second;
}

int es_platform_spare(void) {
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int es_platform_path(int fd, char *path, size_t room) {
#if defined(__linux__)
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t len = readlink(link, path, room - 1);
  if (len < 0)
    return -errno;
  path[len] = '\0';
  return 0;
#elif defined(F_GETPATH)
  (void)room; /* at least PATH_MAX */
  return fcntl(fd, F_GETPATH, path) < 0 ? -errno : 0;
#else
  (void)fd, (void)path, (void)room;
  return -ENOSYS;
#endif
}

long es_platform_mtime_ns(const struct stat *status) {
#ifdef __APPLE__
  return status->st_mtimespec.tv_nsec;
#else
  return status->st_mtim.tv_nsec;
#endif
}

static void set(int fd, int level, int option, int value) {
  (void)setsockopt(fd, level, option, &value, sizeof value);
}

void es_platform_tune(int fd) {
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_NOTSENT_LOWAT)
  set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES);
#endif
#if defined(TCP_KEEPIDLE)
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS);
#elif defined(TCP_KEEPALIVE)
  set(fd, IPPROTO_TCP, TCP_KEEPALIVE, KEEPALIVE_IDLE_SECONDS); /* macOS's name for it */
#endif
#if defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_PROBE_SECONDS);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
#endif
#if defined(TCP_USER_TIMEOUT)
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, ES_PATIENCE_SECONDS * 1000);
#endif
}

void es_platform_set_patience(int fd, double seconds) {
#if defined(TCP_USER_TIMEOUT)
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, seconds > INT_MAX / 1000 ? INT_MAX : (int)(seconds * 1000));
#else
  (void)fd;
  (void)seconds;
#endif
}

void es_platform_reset(int fd) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

size_t es_platform_raise_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
    return 0;
  if (limit.rlim_cur < limit.rlim_max) {
    struct rlimit raised = {limit.rlim_max, limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
      limit = raised;
  }
  return limit.rlim_cur == RLIM_INFINITY ? (size_t)-1 : (size_t)limit.rlim_cur;
}

#ifdef __linux__
int es_platform_hangups(void) {
  int set = epoll_create1(EPOLL_CLOEXEC);
  return set < 0 ? -errno : set;
}

int es_platform_hangups_add(int set, int fd, void *data) {
  struct epoll_event event = {.events = EPOLLRDHUP, .data = {.ptr = data}};
  return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void es_platform_hangups_remove(int set, int fd) {
  struct epoll_event event = {0}; /* wanted by old kernels */
  epoll_ctl(set, EPOLL_CTL_DEL, fd, &event);
}

size_t es_platform_hangups_gone(int set, void **gone, size_t max) {
  struct epoll_event events[64];
  int count = epoll_wait(set, events, max < 64 ? (int)max : 64, 0);
  for (int i = 0; i < count; i++)
    gone[i] = events[i].data.ptr;
  return count > 0 ? (size_t)count : 0;
}
#else
int es_platform_hangups(void) {
  return -ENOSYS;
}

int es_platform_hangups_add(int set, int fd, void *data) {
  (void)set;
  (void)fd;
  (void)data;
  return -ENOSYS;
}

void es_platform_hangups_remove(int set, int fd) {
  (void)set;
  (void)fd;
}

size_t es_platform_hangups_gone(int set, void **gone, size_t max) {
  (void)set;
  (void)gone;
  (void)max;
  return 0;
}
#endif
