/* faults: a library that is preloaded, and lets the n-th call of a kind fail. What fails, and when, is written by another process into
 * the file that EVENTSTREAM_FAULTS names: so that arming it changes nothing in the process under test. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NOTHING, MEMORY, ACCEPT, SEND, RECEIVE, EPOLL_WATCH, EPOLL_WAIT, SOCKET_OPTION };

/* The file: 32 bits each, in the machine's order. */
static struct control {
  volatile int32_t kind;
  volatile int32_t after; /* so many calls of the kind go well first */
  volatile int32_t count; /* and so many then fail */
  volatile int32_t error;
  volatile int32_t calls; /* of the kind, since it was armed */
  volatile int32_t live;  /* allocations that were not freed */
} * control;

static void *(*real_malloc)(size_t), *(*real_calloc)(size_t, size_t), *(*real_realloc)(void *, size_t);
static void (*real_free)(void *);

/* dlsym allocates before there is an allocator. */
static char early[4096];
static size_t early_used;

static void *early_alloc(size_t size) {
  char *memory = early + early_used;
  early_used += (size + 15) / 16 * 16;
  if (early_used > sizeof early)
    abort();
  return memory;
}

static int is_early(const void *memory) {
  return (const char *)memory >= early && (const char *)memory < early + sizeof early;
}

static void *find(const char *name) {
  return dlsym(RTLD_NEXT, name);
}

static void find_allocator(void) {
  static int finding;
  if (finding)
    return;
  finding = 1;
  *(void **)&real_calloc = find("calloc");
  *(void **)&real_realloc = find("realloc");
  *(void **)&real_free = find("free");
  *(void **)&real_malloc = find("malloc");
}

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("EVENTSTREAM_FAULTS");
  int fd = name != NULL ? open(name, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0)
    return;
  void *memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (memory != MAP_FAILED)
    control = memory;
}

static int fails(int kind) {
  if (control == NULL || control->kind != kind)
    return 0;
  int32_t call = control->calls++;
  if (call < control->after || call - control->after >= control->count)
    return 0;
  errno = control->error;
  return 1;
}

static void *counted(void *memory) {
  if (memory != NULL && control != NULL)
    control->live++;
  return memory;
}

void *malloc(size_t size) {
  if (real_malloc == NULL)
    find_allocator();
  if (real_malloc == NULL)
    return early_alloc(size);
  return fails(MEMORY) ? NULL : counted(real_malloc(size));
}

void *calloc(size_t count, size_t size) {
  if (real_malloc == NULL)
    find_allocator();
  if (real_malloc == NULL)
    return early_alloc(count * size);
  return fails(MEMORY) ? NULL : counted(real_calloc(count, size));
}

void *realloc(void *memory, size_t size) {
  if (real_malloc == NULL)
    find_allocator();
  if (memory == NULL)
    return malloc(size);
  if (is_early(memory))
    abort();
  bool grows = size > malloc_usable_size(memory); /* Lua counts on it that to shrink goes well, which it does */
  return grows && fails(MEMORY) ? NULL : real_realloc(memory, size);
}

void free(void *memory) {
  if (memory == NULL || is_early(memory))
    return;
  if (control != NULL)
    control->live--;
  real_free(memory);
}

int accept4(int fd, __SOCKADDR_ARG address, socklen_t *restrict len, int flags) {
  static int (*real)(int, __SOCKADDR_ARG, socklen_t *, int);
  if (real == NULL)
    *(void **)&real = find("accept4");
  return fails(ACCEPT) ? -1 : real(fd, address, len, flags);
}

ssize_t send(int fd, const void *bytes, size_t size, int flags) {
  static ssize_t (*real)(int, const void *, size_t, int);
  if (real == NULL)
    *(void **)&real = find("send");
  return fails(SEND) ? -1 : real(fd, bytes, size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  static ssize_t (*real)(int, const struct msghdr *, int);
  if (real == NULL)
    *(void **)&real = find("sendmsg");
  return fails(SEND) ? -1 : real(fd, message, flags);
}

ssize_t recv(int fd, void *bytes, size_t size, int flags) {
  static ssize_t (*real)(int, void *, size_t, int);
  if (real == NULL)
    *(void **)&real = find("recv");
  return fails(RECEIVE) ? -1 : real(fd, bytes, size, flags);
}

int epoll_ctl(int set, int op, int fd, struct epoll_event *event) {
  static int (*real)(int, int, int, struct epoll_event *);
  if (real == NULL)
    *(void **)&real = find("epoll_ctl");
  return op == EPOLL_CTL_ADD && fails(EPOLL_WATCH) ? -1 : real(set, op, fd, event);
}

static int fail_wait(int timeout) {
  return timeout != 0 && fails(EPOLL_WAIT);
}

int epoll_wait(int set, struct epoll_event *events, int max, int timeout) {
  static int (*real)(int, struct epoll_event *, int, int);
  if (real == NULL)
    *(void **)&real = find("epoll_wait");
  return fail_wait(timeout) ? -1 : real(set, events, max, timeout);
}

int epoll_pwait(int set, struct epoll_event *events, int max, int timeout, const sigset_t *mask) {
  static int (*real)(int, struct epoll_event *, int, int, const sigset_t *);
  if (real == NULL)
    *(void **)&real = find("epoll_pwait");
  return fail_wait(timeout) ? -1 : real(set, events, max, timeout, mask);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t len) {
  static int (*real)(int, int, int, const void *, socklen_t);
  if (real == NULL)
    *(void **)&real = find("setsockopt");
  return fails(SOCKET_OPTION) ? -1 : real(fd, level, option, value, len);
}
