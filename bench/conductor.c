/*
 * conductor: has several processes publish to one channel at once, as fast as they can, and says what they got done.
 *
 *   conductor --redis PID [--streams 2] [--warm 1] [--seconds 5] [--drain 5] [--limit 60] PORT=PID...
 *
 * The processes are backplane.lua. Opens `streams` streams on each, lets all begin, and counts for `seconds`, from `warm`
 * seconds later on. Then all stop; within `drain` seconds each of them has to have all events that were acknowledged to
 * any in its own log, and each stream, too.
 *
 * Prints one line of JSON; exits 0 if every stream opened and stayed open, 1 if not, 2 for a wrong call, 3 when `limit`
 * seconds have passed.
 */
#include "ask.h"
#include "command.h"
#include "proc.h"
#include "streams.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PROCESSES 16
#define PATIENCE 10    /* seconds: for a process to listen, or to answer */
#define SETTLE 0.5     /* seconds */
#define LOOK 0.001     /* seconds for which one process' streams are read at a time */
#define NAP 1          /* ms, as the client's */
#define DRAIN_STEP 0.1 /* seconds */

/* What a process tells of itself, and the kernel of it. */
typedef struct counts {
  uint64_t acknowledged, refused, under_way, logged;
  int64_t time; /* ns */
  double cpu;   /* seconds */
} counts;

typedef struct process {
  pid_t pid;
  counts first, last, now;
  streams streams;
} process;

typedef struct conductor {
  /* from the command line */
  pid_t redis;
  int process_count, streams;
  double warm, seconds, drain;
  /* private */
  process processes[MAX_PROCESSES];
} conductor;

static void fail(const process *p, const char *what) {
  fprintf(stderr, "conductor: port %d: %s\n", ntohs(p->streams.address.sin_port), what);
  exit(1);
}

static double cpu_of(pid_t pid) {
  double cpu = proc_cpu_seconds(pid);
  if (cpu < 0) {
    fprintf(stderr, "conductor: pid %ld is gone\n", (long)pid);
    exit(1);
  }
  return cpu;
}

static double own_cpu(void) {
  return cpu_of(getpid());
}

/* Reads what has come to all streams; at least once. */
static void read_for(conductor *c, double seconds) {
  double until = streams_now() + seconds;
  do {
    for (int i = 0; i < c->process_count; i++)
      streams_read(&c->processes[i].streams, LOOK);
  } while (streams_now() < until);
}

/* Asks a process, and reads on until it has answered. */
static void ask_process(conductor *c, const process *p, const char *target, ask *a) {
  double until = streams_now() + PATIENCE;
  int state = ask_send(a, &p->streams.address, target);
  while (state == 0 && streams_now() < until) {
    state = ask_poll(a, 0);
    if (state == 0)
      read_for(c, 0);
  }
  if (state != 1)
    fail(p, target);
}

static void tell_all(conductor *c, const char *target) {
  static ask a;
  for (int i = 0; i < c->process_count; i++)
    ask_process(c, &c->processes[i], target, &a);
}

static void count_all(conductor *c) {
  static ask a;
  for (int i = 0; i < c->process_count; i++) {
    process *p = &c->processes[i];
    ask_process(c, p, "/counts", &a);
    counts *now = &p->now;
    now->cpu = cpu_of(p->pid);
    const char *body = strstr(a.answer, "\r\n\r\n");
    if (body == NULL || sscanf(body, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNd64, &now->acknowledged,
                               &now->refused, &now->under_way, &now->logged, &now->time) != 5)
      fail(p, "does not tell its counts");
  }
}

/* What was acknowledged, to all together. */
static uint64_t published(const conductor *c) {
  uint64_t sum = 0;
  for (int i = 0; i < c->process_count; i++)
    sum += c->processes[i].now.acknowledged;
  return sum;
}

static void open_all(conductor *c) {
  for (int i = 0; i < c->process_count; i++) {
    streams *s = &c->processes[i].streams;
    s->path = "/events";
    s->count = s->in_flight = c->streams;
    s->nap = NAP;
    if (streams_init(s) != 0) {
      perror("conductor");
      exit(1);
    }
    if (streams_await_server(s, PATIENCE) != 0)
      fail(&c->processes[i], "nothing listens");
    streams_open(s, 0, PATIENCE);
  }
  read_for(c, SETTLE);
}

/* Whether nothing is under way any more, and each process and stream has all. */
static int complete(const conductor *c) {
  uint64_t all = published(c);
  for (int i = 0; i < c->process_count; i++) {
    const process *p = &c->processes[i];
    if (p->now.under_way > 0 || p->now.logged < all || streams_events(&p->streams) < all * (uint64_t)p->streams.opened)
      return 0;
  }
  return 1;
}

static void drain(conductor *c) {
  double until = streams_now() + c->drain;
  do {
    read_for(c, DRAIN_STEP);
    count_all(c);
  } while (!complete(c) && streams_now() < until);
  read_for(c, DRAIN_STEP); /* what should not come, would come now */
  count_all(c);
}

/* Adds what `got` lacks of `wanted` to the one, and what it has too much to the other. */
static void compare(uint64_t got, uint64_t wanted, uint64_t *lacking, uint64_t *surplus) {
  if (got < wanted)
    *lacking += wanted - got;
  else
    *surplus += got - wanted;
}

static int print(const conductor *c, double redis_cpu, double client_cpu, double seconds) {
  double per_second = 0, read_per_second = 0, cpu = 0, load = 0;
  uint64_t in_time = 0, all = published(c), refused = 0, missing = 0, repeated = 0, undelivered = 0;
  int failures = 0;
  for (int i = 0; i < c->process_count; i++) {
    const process *p = &c->processes[i];
    double took = (double)(p->last.time - p->first.time) / 1e9;
    per_second += (double)(p->last.acknowledged - p->first.acknowledged) / took;
    read_per_second += (double)(p->last.logged - p->first.logged) / took / c->process_count;
    in_time += p->last.acknowledged - p->first.acknowledged;
    cpu += p->last.cpu - p->first.cpu;
    load += (p->last.cpu - p->first.cpu) / took;
    refused += p->now.refused;
    compare(p->now.logged, all, &missing, &repeated);
    for (int j = 0; j < p->streams.started; j++)
      if (p->streams.all[j].reader.opened)
        compare(p->streams.all[j].reader.events, all, &undelivered, &repeated);
    failures += c->streams - p->streams.opened + p->streams.lost;
  }
  double share = in_time > 0 ? 1e6 / (double)in_time : 0;
  printf("{\"processes\":%d,\"seconds\":%.3f,\"published\":%" PRIu64 ",\"published_per_second\":%.0f,",
         c->process_count, seconds, all, per_second);
  printf("\"read_per_second\":%.0f,\"cpu_us_per_published\":%.3f,\"redis_us_per_published\":%.3f,", read_per_second,
         cpu * share, redis_cpu * share);
  printf("\"server_load\":%.3f,\"redis_load\":%.3f,\"client_load\":%.3f,", load, redis_cpu / seconds,
         client_cpu / seconds);
  printf("\"refused\":%" PRIu64 ",\"missing\":%" PRIu64 ",\"undelivered\":%" PRIu64 ",\"repeated\":%" PRIu64
         ",\"failures\":%d}\n",
         refused, missing, undelivered, repeated, failures);
  return failures > 0;
}

/* ---- command line ---- */

static void parse(conductor *c, int argc, char **argv) {
  enum { REDIS, STREAMS, WARM, SECONDS, DRAIN, LIMIT };
  static const struct option options[] = {
      {"redis", 1, 0, REDIS}, {"streams", 1, 0, STREAMS}, {"warm", 1, 0, WARM}, {"seconds", 1, 0, SECONDS},
      {"drain", 1, 0, DRAIN}, {"limit", 1, 0, LIMIT},     {0, 0, 0, 0}};
  int which, index = 0, limit = 60;
  while ((which = getopt_long(argc, argv, "", options, &index)) != -1) {
    const char *name = options[index].name;
    switch (which) {
    case REDIS:
      c->redis = (pid_t)command_number(name, optarg, 1, 1e9);
      break;
    case STREAMS:
      c->streams = (int)command_number(name, optarg, 1, 100);
      break;
    case WARM:
      c->warm = command_number(name, optarg, 0, 60);
      break;
    case SECONDS:
      c->seconds = command_number(name, optarg, 0.1, 600);
      break;
    case DRAIN:
      c->drain = command_number(name, optarg, 0, 60);
      break;
    case LIMIT:
      limit = (int)command_number(name, optarg, 1, 900);
      break;
    default:
      exit(2);
    }
  }
  for (; optind < argc && c->process_count < MAX_PROCESSES; optind++) {
    process *p = &c->processes[c->process_count++];
    char *sign = strchr(argv[optind], '=');
    if (sign != NULL)
      *sign = '\0';
    p->streams.address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    p->streams.address.sin_port = htons((uint16_t)command_number("the port", argv[optind], 1, 65535));
    p->pid = (pid_t)command_number("the pid", sign != NULL ? sign + 1 : "", 1, 1e9);
  }
  if (optind < argc || c->process_count == 0 || c->redis == 0) {
    fprintf(stderr, "conductor: --redis is needed, and 1 to %d times PORT=PID\n", MAX_PROCESSES);
    exit(2);
  }
  command_limit(limit);
}

int main(int argc, char **argv) {
  command_begin("conductor");
  static conductor it = {.streams = 2, .warm = 1, .seconds = 5, .drain = 5};
  conductor *c = &it;
  parse(c, argc, argv);
  open_all(c);

  tell_all(c, "/start");
  read_for(c, c->warm);
  double start = streams_now(), redis_cpu = cpu_of(c->redis), client_cpu = own_cpu();
  count_all(c);
  for (int i = 0; i < c->process_count; i++)
    c->processes[i].first = c->processes[i].now;
  read_for(c, c->seconds - (streams_now() - start));
  double seconds = streams_now() - start;
  redis_cpu = cpu_of(c->redis) - redis_cpu;
  client_cpu = own_cpu() - client_cpu;
  count_all(c);
  for (int i = 0; i < c->process_count; i++)
    c->processes[i].last = c->processes[i].now;
  tell_all(c, "/stop");
  drain(c);

  int failed = print(c, redis_cpu, client_cpu, seconds);
  for (int i = 0; i < c->process_count; i++)
    streams_release(&c->processes[i].streams);
  return failed;
}
