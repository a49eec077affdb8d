/*
 * client: opens many event streams on one server, counts their events, and says what they cost the server.
 *
 *   client --port 8080 --pid PID [--path /ping] [--streams 5000] [--seconds 10] [--settle 1]
 *          [--in-flight 128] [--over 0] [--nap 0] [--wait 10] [--limit 120]
 *
 * Opens `streams` streams on 127.0.0.1, with at most `in-flight` on their way: as fast as the server answers, or evenly
 * within `over` seconds. A stream is open when the head and a first byte of the body are there. Reads on for `settle`
 * seconds, then counts for `seconds`. With `nap` the client sleeps so many milliseconds between two looks at its
 * sockets, so that the server's writes are not charged with waking it. Prints one line of JSON; exits 0 if every stream
 * opened and stayed open, 1 if not, 2 for a wrong call, 3 when `limit` seconds have passed. Where --pid is given more
 * than once, the CPU time and the PSS are sums.
 */
#include "proc.h"
#include "reader.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_STREAMS 20000
#define MAX_PIDS 16
#define MAX_READY 1024
#define READ_BYTES 262144

typedef struct stream {
  int fd; /* -1 when closed */
  int sent;
  reader reader;
} stream;

typedef struct client {
  /* from the command line */
  struct sockaddr_in address;
  pid_t pids[MAX_PIDS];
  int pid_count;
  const char *path;
  int streams, in_flight, wait, limit;
  double seconds, settle, over, nap;
  /* private */
  int epoll;
  stream *all;
  int started, opened, failed, lost;
  uint64_t bytes;
  char request[512];
  size_t request_length;
  char buffer[READ_BYTES];
} client;

typedef struct usage {
  double cpu, stat;
  long pss_kb;
} usage;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(double milliseconds) {
  struct timespec t = {(time_t)(milliseconds / 1e3), 0};
  t.tv_nsec = (long)((milliseconds - (double)t.tv_sec * 1e3) * 1e6);
  nanosleep(&t, NULL);
}

static double cpu_of(const client *c) {
  double sum = 0;
  for (int i = 0; i < c->pid_count; i++)
    sum += proc_cpu_seconds(c->pids[i]);
  return sum;
}

/* All that is known of the server; ends the client where the server is gone. */
static usage usage_of(const client *c) {
  usage sum = {0};
  for (int i = 0; i < c->pid_count; i++) {
    double cpu = proc_cpu_seconds(c->pids[i]);
    double stat = proc_stat_seconds(c->pids[i]);
    long pss = proc_pss_kb(c->pids[i]);
    if (cpu < 0 || stat < 0 || pss < 0) {
      fprintf(stderr, "client: the server (pid %ld) is gone\n", (long)c->pids[i]);
      exit(1);
    }
    sum.cpu += cpu;
    sum.stat += stat;
    sum.pss_kb += pss;
  }
  return sum;
}

/* ---- streams ---- */

/* Closes with a reset, so that no port lingers in TIME_WAIT. */
static void stream_close(stream *s) {
  struct linger reset = {1, 0};
  setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(s->fd);
  s->fd = -1;
}

static void stream_end(client *c, stream *s) {
  if (s->reader.opened)
    c->lost++;
  else
    c->failed++;
  stream_close(s);
}

static void stream_request(client *c, stream *s) {
  if (send(s->fd, c->request, c->request_length, MSG_NOSIGNAL) != (ssize_t)c->request_length) {
    stream_end(c, s);
    return;
  }
  s->sent = 1;
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = s};
  epoll_ctl(c->epoll, EPOLL_CTL_MOD, s->fd, &event);
}

static void stream_start(client *c) {
  stream *s = &c->all[c->started++];
  reader_init(&s->reader);
  s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (s->fd < 0) {
    c->failed++;
    return;
  }
  int connected = connect(s->fd, (struct sockaddr *)&c->address, sizeof c->address) == 0;
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = s};
  if ((!connected && errno != EINPROGRESS) || epoll_ctl(c->epoll, EPOLL_CTL_ADD, s->fd, &event) != 0)
    stream_end(c, s);
  else if (connected)
    stream_request(c, s);
}

static void stream_read(client *c, stream *s) {
  ssize_t got = read(s->fd, c->buffer, sizeof c->buffer);
  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  int was_open = s->reader.opened;
  int bad = got <= 0 || reader_feed(&s->reader, c->buffer, (size_t)got) != 0;
  if (s->reader.opened && s->reader.status != 200) {
    s->reader.opened = 0;
    bad = 1;
  }
  if (s->reader.opened && !was_open)
    c->opened++;
  if (got > 0)
    c->bytes += (uint64_t)got;
  if (bad || s->reader.ended)
    stream_end(c, s);
}

/* One look at the sockets; waits at most so many milliseconds. Returns how many were ready. */
static int turn(client *c, int milliseconds) {
  struct epoll_event ready[MAX_READY];
  int count = epoll_wait(c->epoll, ready, MAX_READY, milliseconds);
  for (int i = 0; i < count; i++) {
    stream *s = ready[i].data.ptr;
    if (s->fd < 0)
      continue;
    if (!s->sent)
      stream_request(c, s);
    else
      stream_read(c, s);
  }
  return count < 0 ? 0 : count;
}

/* ---- phases ---- */

/* Waits until something listens. */
static int await_server(const client *c) {
  double until = now() + c->wait;
  do {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int there = fd >= 0 && connect(fd, (const struct sockaddr *)&c->address, sizeof c->address) == 0;
    if (fd >= 0)
      close(fd);
    if (there) {
      nap(300); /* for the server to see the end of it */
      return 0;
    }
    nap(20);
  } while (now() < until);
  return -1;
}

static void open_all(client *c) {
  double start = now();
  double until = start + c->over + c->limit / 2.0;
  while (c->opened + c->failed < c->streams && now() < until) {
    double due = c->over > 0 ? (now() - start) / c->over * c->streams : c->streams;
    while (c->started < c->streams && c->started < due && c->started - c->opened - c->failed < c->in_flight)
      stream_start(c);
    turn(c, c->over > 0 ? 1 : 100);
  }
}

static void read_for(client *c, double seconds) {
  double until = now() + seconds;
  for (double left = seconds; left > 0; left = until - now()) {
    if (c->nap > 0) {
      nap(c->nap < left * 1e3 ? c->nap : left * 1e3);
      int ready;
      do {
        ready = turn(c, 0);
      } while (ready == MAX_READY && now() < until);
    } else {
      turn(c, left < 0.1 ? (int)(left * 1e3) + 1 : 100);
    }
  }
}

static uint64_t events_of(const client *c) {
  uint64_t sum = 0;
  for (int i = 0; i < c->started; i++)
    sum += c->all[i].reader.events;
  return sum;
}

/* ---- command line ---- */

static void on_alarm(int signal_number) {
  (void)signal_number;
  static const char message[] = "client: out of time\n";
  if (write(STDERR_FILENO, message, sizeof message - 1) < 0)
    _exit(4);
  _exit(3);
}

static double number(const char *name, const char *text, double least, double most) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= least && value <= most)) {
    fprintf(stderr, "client: --%s takes a number from %g to %g\n", name, least, most);
    exit(2);
  }
  return value;
}

static void parse(client *c, int argc, char **argv) {
  static const struct option options[] = {{"port", 1, 0, 'p'},      {"pid", 1, 0, 'P'},     {"path", 1, 0, 'u'},
                                          {"streams", 1, 0, 'n'},   {"seconds", 1, 0, 's'}, {"settle", 1, 0, 't'},
                                          {"in-flight", 1, 0, 'f'}, {"over", 1, 0, 'o'},    {"nap", 1, 0, 'z'},
                                          {"wait", 1, 0, 'w'},      {"limit", 1, 0, 'l'},   {0, 0, 0, 0}};
  int which, index = 0;
  while ((which = getopt_long(argc, argv, "", options, &index)) != -1) {
    const char *name = options[index].name;
    switch (which) {
    case 'p':
      c->address.sin_port = htons((uint16_t)number(name, optarg, 1, 65535));
      break;
    case 'P':
      if (c->pid_count < MAX_PIDS)
        c->pids[c->pid_count++] = (pid_t)number(name, optarg, 1, 1e9);
      break;
    case 'u':
      c->path = optarg;
      break;
    case 'n':
      c->streams = (int)number(name, optarg, 1, MAX_STREAMS);
      break;
    case 's':
      c->seconds = number(name, optarg, 0, 600);
      break;
    case 't':
      c->settle = number(name, optarg, 0, 60);
      break;
    case 'f':
      c->in_flight = (int)number(name, optarg, 1, 4096);
      break;
    case 'o':
      c->over = number(name, optarg, 0, 60);
      break;
    case 'z':
      c->nap = number(name, optarg, 0, 1000);
      break;
    case 'w':
      c->wait = (int)number(name, optarg, 0, 60);
      break;
    case 'l':
      c->limit = (int)number(name, optarg, 1, 900);
      break;
    default:
      exit(2);
    }
  }
  if (optind < argc || c->address.sin_port == 0 || c->pid_count == 0) {
    fprintf(stderr, "client: --port and --pid are needed, and nothing that is no option\n");
    exit(2);
  }
  int length = snprintf(c->request, sizeof c->request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", c->path,
                        ntohs(c->address.sin_port));
  if (length < 0 || (size_t)length >= sizeof c->request) {
    fprintf(stderr, "client: --path is too long\n");
    exit(2);
  }
  c->request_length = (size_t)length;
}

static void raise_descriptor_limit(int streams) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
    return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < (rlim_t)streams + 16)
    fprintf(stderr, "client: only %lu descriptors for %d streams\n", (unsigned long)limit.rlim_max, streams);
}

int main(int argc, char **argv) {
  static client it = {
      .path = "/ping", .streams = 5000, .seconds = 10, .settle = 1, .in_flight = 128, .wait = 10, .limit = 120};
  client *c = &it;
  c->address.sin_family = AF_INET;
  c->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  parse(c, argc, argv);

  signal(SIGALRM, on_alarm);
  alarm((unsigned)c->limit);
  raise_descriptor_limit(c->streams);
  c->all = calloc((size_t)c->streams, sizeof *c->all);
  c->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (c->all == NULL || c->epoll < 0) {
    perror("client");
    return 1;
  }
  if (await_server(c) != 0) {
    fprintf(stderr, "client: nothing listens on port %d\n", ntohs(c->address.sin_port));
    return 1;
  }

  usage before = usage_of(c);
  double open_start = now();
  open_all(c);
  double open_seconds = now() - open_start;
  double cpu_open = cpu_of(c) - before.cpu;
  int unopened = c->streams - c->opened;

  read_for(c, c->settle);
  usage settled = usage_of(c);
  uint64_t events_before = events_of(c), bytes_before = c->bytes;
  double start = now(), cpu_start = cpu_of(c), stat_start = settled.stat;
  read_for(c, c->seconds);
  double cpu = cpu_of(c) - cpu_start, seconds = now() - start;
  uint64_t events = events_of(c) - events_before, bytes = c->bytes - bytes_before;
  usage end = usage_of(c);

  printf("{\"opened\":%d,\"open_seconds\":%.4f,\"cpu_open_seconds\":%.4f,", c->opened, open_seconds, cpu_open);
  printf("\"events\":%llu,\"seconds\":%.3f,\"cpu_seconds\":%.4f,\"cpu_stat_seconds\":%.2f,", (unsigned long long)events,
         seconds, cpu, end.stat - stat_start);
  printf("\"cpu_us_per_event\":%.3f,\"bytes_per_event\":%.1f,", events > 0 ? cpu * 1e6 / (double)events : 0,
         events > 0 ? (double)bytes / (double)events : 0);
  printf("\"pss_before_kb\":%ld,\"pss_after_kb\":%ld,\"pss_end_kb\":%ld,\"pss_per_stream_bytes\":%.0f,", before.pss_kb,
         settled.pss_kb, end.pss_kb, c->opened > 0 ? (double)(settled.pss_kb - before.pss_kb) * 1024 / c->opened : 0);
  printf("\"failures\":%d}\n", unopened + c->lost);

  for (int i = 0; i < c->started; i++)
    if (c->all[i].fd >= 0)
      stream_close(&c->all[i]);
  free(c->all);
  return unopened + c->lost > 0;
}
