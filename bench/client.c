/*
 * client: opens many event streams on one server, counts their events, and says what they cost the server.
 *
 *   client --port 8080 --pid PID [--path /ping] [--streams 5000] [--seconds 10] [--settle 1]
 *          [--in-flight 128] [--over 0] [--nap 0] [--wait 10] [--limit 120]
 *          [--rate 100 --events 1200 [--start-port 8080] [--warm 1] [--drain 3] [--fresh] [--channels 1000]]
 *          [--cost 200] [--beside NAME=PID]
 *
 * Opens `streams` streams on 127.0.0.1, with at most `in-flight` on their way: as fast as the server answers, or evenly
 * within `over` seconds. A stream is open when the head and a first byte of the body are there. Reads on for `settle`
 * seconds, then counts for `seconds`. With `nap` the client sleeps so many milliseconds between two looks at its
 * sockets, so that the server's writes are not charged with waking it.
 *
 * With `events` the server (or who listens on `start-port`) is asked to publish so many, `rate` a second, to all streams.
 * Counting begins `warm` seconds later; it is followed by at most `drain` seconds for what is still under way, and every
 * stream has to have every number once. Delays count from when an event was due; with `fresh` from when it was
 * published. With `channels` the streams are spread over so many, and `rate` and `events` are those of each. With
 * `cost` the server is asked to time so many publishes, and its answer is passed on.
 *
 * With `beside` the CPU time of another process is told, too: one that shares the client's core. It may be given more
 * than once.
 *
 * Prints one line of JSON; exits 0 if every stream opened and stayed open, 1 if not, 2 for a wrong call, 3 when `limit`
 * seconds have passed. Where --pid is given more than once, the CPU time and the PSS are sums.
 */
#include "ask.h"
#include "command.h"
#include "ledger.h"
#include "proc.h"
#include "streams.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_PIDS 16
#define MAX_BESIDE 4
#define DRAIN_STEP 0.2    /* seconds */
#define ASK_PATIENCE 5000 /* ms */

typedef struct companion {
  char name[16];
  pid_t pid;
  double load; /* of a core, while it is counted */
} companion;

typedef struct client {
  /* from the command line */
  pid_t pids[MAX_PIDS];
  companion beside[MAX_BESIDE];
  int pid_count, beside_count;
  int wait, limit, events, cost, fresh;
  in_port_t start_port; /* network order, as in `streams`; 0: the same */
  double seconds, settle, over, rate, warm, drain;
  /* private */
  streams streams;
  ledger ledger;
  ask ask;
} client;

typedef struct usage {
  double cpu, stat;
  long pss_kb;
} usage;

/* What was counted between two looks. */
typedef struct count {
  uint64_t events, bytes;
  double seconds, cpu, own_cpu, stat;
} count;

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

/* ---- phases ---- */

static double own_cpu(void) {
  struct rusage own;
  getrusage(RUSAGE_SELF, &own);
  return (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
         (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
}

static void start_publishing(client *c) {
  char target[128], channels[32] = "";
  struct sockaddr_in address = c->streams.address;
  if (c->start_port != 0)
    address.sin_port = c->start_port;
  if (c->streams.channels > 0)
    snprintf(channels, sizeof channels, "&channels=%d", c->streams.channels);
  snprintf(target, sizeof target, "/start?rate=%g&count=%d%s%s", c->rate, c->events, channels,
           c->fresh ? "&fresh=1" : "");
  if (ask_send(&c->ask, &address, target) != 0 || ask_poll(&c->ask, ASK_PATIENCE) != 1) {
    fprintf(stderr, "client: port %d does not take %s\n", ntohs(address.sin_port), target);
    exit(1);
  }
}

static count count_events(client *c) {
  streams *s = &c->streams;
  usage before = usage_of(c);
  count all = {.events = streams_events(s), .bytes = s->bytes};
  double start = streams_now(), cpu_start = cpu_of(c), own_start = own_cpu(), beside_start[MAX_BESIDE];
  for (int i = 0; i < c->beside_count; i++)
    beside_start[i] = proc_cpu_seconds(c->beside[i].pid);
  c->ledger.measuring = 1;
  streams_read(s, c->seconds);
  c->ledger.measuring = 0;
  all.cpu = cpu_of(c) - cpu_start;
  all.own_cpu = own_cpu() - own_start;
  all.seconds = streams_now() - start;
  for (int i = 0; i < c->beside_count; i++) {
    double cpu = proc_cpu_seconds(c->beside[i].pid);
    if (cpu < 0 || beside_start[i] < 0) {
      fprintf(stderr, "client: %s (pid %ld) is gone\n", c->beside[i].name, (long)c->beside[i].pid);
      exit(1);
    }
    c->beside[i].load = (cpu - beside_start[i]) / all.seconds;
  }
  all.events = streams_events(s) - all.events;
  all.bytes = s->bytes - all.bytes;
  all.stat = usage_of(c).stat - before.stat;
  return all;
}

/* Events that are still to come, over all streams that opened. */
static uint64_t outstanding(const client *c) {
  uint64_t sum = 0;
  for (int i = 0; i < c->streams.started; i++)
    if (c->streams.all[i].reader.opened)
      sum += (uint64_t)c->events - c->streams.all[i].last;
  return sum;
}

static void drain(client *c) {
  double until = streams_now() + c->drain;
  while (outstanding(c) > 0 && streams_now() < until)
    streams_read(&c->streams, DRAIN_STEP);
  streams_read(&c->streams, DRAIN_STEP); /* what should not come, would come now */
}

/* Reads on until the server has timed its publishes. */
static void await_cost(client *c) {
  char target[64];
  snprintf(target, sizeof target, "/cost?count=%d", c->cost);
  int state = ask_send(&c->ask, &c->streams.address, target);
  while (state == 0) {
    streams_read(&c->streams, DRAIN_STEP);
    state = ask_poll(&c->ask, 0);
  }
  if (state != 1) {
    fprintf(stderr, "client: no answer to %s\n", target);
    exit(1);
  }
}

/* The fields of the JSON object that the server answered. */
static void print_cost(const client *c) {
  const char *from = strchr(c->ask.answer, '{');
  const char *to = from != NULL ? strchr(from, '}') : NULL;
  if (to != NULL && to > from + 1)
    printf("%.*s,", (int)(to - from - 1), from + 1);
}

static void print_fan_out(client *c) {
  const ledger *l = &c->ledger;
  uint64_t complete = streams_events(&c->streams), taken = l->delivered + l->repeated + l->malformed;
  printf("\"missing\":%llu,\"repeated\":%llu,\"undelivered\":%llu,\"malformed\":%llu,", (unsigned long long)l->missing,
         (unsigned long long)l->repeated, (unsigned long long)outstanding(c),
         (unsigned long long)(l->malformed + (taken > complete ? taken - complete : complete - taken)));
  printf("\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"last_ms\":%.2f,", ledger_delay_ms(l, 0.5), ledger_delay_ms(l, 0.99),
         ledger_last_ms(l, (uint32_t)c->streams.opened));
}

/* ---- command line ---- */

static void parse_companion(client *c, const char *text) {
  const char *sign = strchr(text, '=');
  if (sign == NULL || sign - text >= (int)sizeof c->beside[0].name || c->beside_count == MAX_BESIDE) {
    fprintf(stderr, "client: --beside takes NAME=PID, with a short name, and at most %d times\n", MAX_BESIDE);
    exit(2);
  }
  companion *one = &c->beside[c->beside_count++];
  memcpy(one->name, text, (size_t)(sign - text));
  one->pid = (pid_t)command_number("beside", sign + 1, 1, 1e9);
}

static void parse(client *c, int argc, char **argv) {
  enum { PORT, PID, PATH, STREAMS, SECONDS, SETTLE, IN_FLIGHT, OVER, NAP, WAIT, LIMIT };
  enum { RATE = LIMIT + 1, EVENTS, START_PORT, WARM, DRAIN, COST, FRESH, CHANNELS, BESIDE };
  static const struct option options[] = {{"port", 1, 0, PORT},
                                          {"pid", 1, 0, PID},
                                          {"path", 1, 0, PATH},
                                          {"streams", 1, 0, STREAMS},
                                          {"seconds", 1, 0, SECONDS},
                                          {"settle", 1, 0, SETTLE},
                                          {"in-flight", 1, 0, IN_FLIGHT},
                                          {"over", 1, 0, OVER},
                                          {"nap", 1, 0, NAP},
                                          {"wait", 1, 0, WAIT},
                                          {"limit", 1, 0, LIMIT},
                                          {"rate", 1, 0, RATE},
                                          {"events", 1, 0, EVENTS},
                                          {"start-port", 1, 0, START_PORT},
                                          {"warm", 1, 0, WARM},
                                          {"drain", 1, 0, DRAIN},
                                          {"cost", 1, 0, COST},
                                          {"fresh", 0, 0, FRESH},
                                          {"channels", 1, 0, CHANNELS},
                                          {"beside", 1, 0, BESIDE},
                                          {0, 0, 0, 0}};
  streams *s = &c->streams;
  int which, index = 0;
  while ((which = getopt_long(argc, argv, "", options, &index)) != -1) {
    const char *name = options[index].name;
    switch (which) {
    case PORT:
      s->address.sin_port = htons((uint16_t)command_number(name, optarg, 1, 65535));
      break;
    case PID:
      if (c->pid_count < MAX_PIDS)
        c->pids[c->pid_count++] = (pid_t)command_number(name, optarg, 1, 1e9);
      break;
    case PATH:
      s->path = optarg;
      break;
    case STREAMS:
      s->count = (int)command_number(name, optarg, 1, STREAMS_MAX);
      break;
    case SECONDS:
      c->seconds = command_number(name, optarg, 0, 600);
      break;
    case SETTLE:
      c->settle = command_number(name, optarg, 0, 60);
      break;
    case IN_FLIGHT:
      s->in_flight = (int)command_number(name, optarg, 1, 4096);
      break;
    case OVER:
      c->over = command_number(name, optarg, 0, 60);
      break;
    case NAP:
      s->nap = command_number(name, optarg, 0, 1000);
      break;
    case WAIT:
      c->wait = (int)command_number(name, optarg, 0, 60);
      break;
    case LIMIT:
      c->limit = (int)command_number(name, optarg, 1, 900);
      break;
    case RATE:
      c->rate = command_number(name, optarg, 0.01, 1e6);
      break;
    case EVENTS:
      c->events = (int)command_number(name, optarg, 1, 99999999);
      break;
    case START_PORT:
      c->start_port = htons((uint16_t)command_number(name, optarg, 1, 65535));
      break;
    case WARM:
      c->warm = command_number(name, optarg, 0, 60);
      break;
    case DRAIN:
      c->drain = command_number(name, optarg, 0, 60);
      break;
    case COST:
      c->cost = (int)command_number(name, optarg, 1, 100000);
      break;
    case FRESH:
      c->fresh = 1;
      break;
    case CHANNELS:
      s->channels = (int)command_number(name, optarg, 1, STREAMS_MAX);
      break;
    case BESIDE:
      parse_companion(c, optarg);
      break;
    default:
      exit(2);
    }
  }
  if (optind < argc || s->address.sin_port == 0 || c->pid_count == 0) {
    fprintf(stderr, "client: --port and --pid are needed, and nothing that is no option\n");
    exit(2);
  }
}

int main(int argc, char **argv) {
  command_begin("client");
  static client it = {.seconds = 10, .settle = 1, .wait = 10, .limit = 120, .rate = 100, .warm = 1, .drain = 3};
  client *c = &it;
  streams *s = &c->streams;
  s->path = "/ping";
  s->count = 5000;
  s->in_flight = 128;
  s->address.sin_family = AF_INET;
  s->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  parse(c, argc, argv);

  command_limit(c->limit);
  if (streams_init(s) != 0 || (c->events > 0 && ledger_init(&c->ledger, (uint32_t)c->events) != 0)) {
    perror("client");
    return 1;
  }
  if (streams_await_server(s, c->wait) != 0) {
    fprintf(stderr, "client: nothing listens on port %d\n", ntohs(s->address.sin_port));
    return 1;
  }
  if (c->events > 0)
    s->ledger = &c->ledger;

  usage before = usage_of(c);
  double open_start = streams_now();
  streams_open(s, c->over, c->over + c->limit / 2.0);
  double open_seconds = streams_now() - open_start;
  double cpu_open = cpu_of(c) - before.cpu;
  int unopened = s->count - s->opened;

  streams_read(s, c->settle);
  usage settled = usage_of(c);
  if (c->events > 0) {
    start_publishing(c);
    streams_read(s, c->warm);
  }
  count all = count_events(c);
  usage end = usage_of(c);
  if (c->events > 0)
    drain(c);
  if (c->cost > 0)
    await_cost(c);

  printf("{\"opened\":%d,\"open_seconds\":%.4f,\"cpu_open_seconds\":%.4f,", s->opened, open_seconds, cpu_open);
  printf("\"events\":%llu,\"seconds\":%.3f,\"cpu_seconds\":%.4f,\"cpu_stat_seconds\":%.2f,",
         (unsigned long long)all.events, all.seconds, all.cpu, all.stat);
  printf("\"events_per_second\":%.0f,\"server_load\":%.3f,\"client_load\":%.3f,",
         all.seconds > 0 ? (double)all.events / all.seconds : 0, all.seconds > 0 ? all.cpu / all.seconds : 0,
         all.seconds > 0 ? all.own_cpu / all.seconds : 0);
  printf("\"cpu_us_per_event\":%.3f,\"bytes_per_event\":%.1f,", all.events > 0 ? all.cpu * 1e6 / (double)all.events : 0,
         all.events > 0 ? (double)all.bytes / (double)all.events : 0);
  for (int i = 0; i < c->beside_count; i++)
    printf("\"%s_load\":%.3f,", c->beside[i].name, c->beside[i].load);
  if (c->events > 0)
    print_fan_out(c);
  if (c->cost > 0)
    print_cost(c);
  printf("\"pss_before_kb\":%ld,\"pss_after_kb\":%ld,\"pss_end_kb\":%ld,\"pss_per_stream_bytes\":%.0f,", before.pss_kb,
         settled.pss_kb, end.pss_kb, s->opened > 0 ? (double)(settled.pss_kb - before.pss_kb) * 1024 / s->opened : 0);
  printf("\"failures\":%d}\n", unopened + s->lost);

  int failed = unopened + s->lost > 0;
  streams_release(s);
  ledger_release(&c->ledger);
  return failed;
}
