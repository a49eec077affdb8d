/* loop: the core's own libuv loop, made so that another loop can drive it.
 *
 * A driver polls es_loop_fd for readability, waits at most es_loop_timeout, and calls es_loop_turn. A turn runs what is
 * due, then the jobs that this posted, then hands the queued bytes to the kernel. Nothing is flushed and no job is run
 * outside a turn: whatever makes work there calls es_loop_wake, which makes the descriptor readable.
 *
 * Owns: the uv loop, the read buffer, the spare descriptors, the deadlines' heap. Borrows: jobs, deadlines, connections, each
 * embedded in its owner's memory and taken out before that is freed. One thread only. */
#ifndef ES_NET_LOOP_H
#define ES_NET_LOOP_H

#include "core/deadlines.h"
#include "core/queue.h"
#include "net/fanout.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* Load makes it cheaper: where a crowd of deadlines fell due at once, the next ones gather for a few milliseconds and
 * share a turn. Only while no timer runs to which that much would matter. */
#define ES_CROWD 8
#define ES_CROWD_REST_MS 10
#define ES_HASTY_MS (16 * ES_CROWD_REST_MS)

#define ES_SPARES 16 /* descriptors that are kept for telling clients that there are no more */

#define ES_READ_BYTES 16384 /* one buffer for the whole loop: an idle connection has none */

struct es_server;
struct es_connection;
struct es_source;

/* Something to do when the running callback has returned, in the order of posting. */
typedef struct es_job {
  void (*run)(struct es_job *job);
  /* private */
  struct es_job *next;
  bool posted;
} es_job;

/* Something of another module's on the loop (csrc/redis/). Its close is called once, when the loop ends, before the last
 * callbacks of handles' ends; it is taken out then. */
typedef struct es_guest {
  void (*close)(struct es_guest *guest);
  struct es_guest *prev, *next;
} es_guest;

typedef struct es_loop {
  /* read-only */
  uv_loop_t uv;
  bool turning;
  uint64_t turns;
  void (*on_wake)(struct es_loop *loop);           /* set by a driver that does not poll the descriptor; else NULL */
  void (*post)(struct es_loop *loop, es_job *job); /* es_loop_post, for modules that are built along with this one */
  struct es_server *servers;                       /* kept by server.c */
  struct es_source *sources;                       /* those that are busy; kept by source.c */
  es_guest *guests;                                /* kept by es_loop_enter and es_loop_leave */
  char *read_buffer;                               /* ES_READ_BYTES */
  /* private */
  uv_async_t async;
  uv_timer_t clock; /* the first deadline */
  es_deadlines deadlines;
  size_t holds;
  bool clock_runs;
  uint64_t rest_until; /* the clock rings no sooner, unless a hasty timer runs */
  struct {
    uint64_t worst, before; /* milliseconds: since `since`, and in the time before that */
    uint64_t since;
  } lag;        /* by how much deadlines were missed, and how long turns took */
  size_t hasty; /* timers that run and were asked for less than ES_HASTY_MS */
  es_job *first_job, *last_job;
  bool settling, woken;
  bool waits;                  /* uv_run is under way, and may wait */
  struct es_connection *dirty; /* have bytes to flush */
  struct {
    struct es_connection *first, *last;
  } called; /* hosted ones, whose holders are called */
  struct {
    int set; /* es_platform_hangups, from the first that is watched on; else -1 */
    size_t count;
    uint64_t next; /* when it is looked at again: milliseconds */
  } hangups;       /* hosted ones, whose sockets are watched for their peers' leaving */
  es_fanout fanout;
  size_t room; /* es_loop_make_room */
  int spares[ES_SPARES];
  size_t spare_count;
  struct {
    bool on;
    uint64_t now, from, from_ns; /* milliseconds: now, and when it began, which was so many nanoseconds */
    uint64_t ahead, ahead_ns;    /* by how much it was moved: time never goes back */
  } held;                        /* es_loop_hold_time */
  uint64_t random;
  uint64_t date_second;
  char date[32];
} es_loop;

/* 0 or a negative libuv error; after an error the loop needs no es_loop_free. */
int es_loop_init(es_loop *loop);

/* Closes every server and source, without calling back above the net layer, and the loop. Timers must be stopped before. */
void es_loop_free(es_loop *loop);

int es_loop_fd(const es_loop *loop);

/* Milliseconds until a turn is due: 0 now, -1 never (but for the descriptor). */
int es_loop_timeout(es_loop *loop);

/* One turn: runs what is due and returns; waits for something to become due if wait. Inside a turn it does nothing. */
void es_loop_turn(es_loop *loop, bool wait);

/* A turn for when the descriptor is not readable, only the time has come: it saves asking the kernel. */
void es_loop_tick(es_loop *loop);

/* The same for a driver that only ever calls es_loop_tick. */
int es_loop_due(es_loop *loop);

/* Whether anything is left that may make work: a listener, a connection, a timer. */
bool es_loop_alive(const es_loop *loop);

/* Makes the driver call the next turn soon. Inside a turn it does nothing, as the turn's end sees all work. */
void es_loop_wake(es_loop *loop);

/* Milliseconds, as of this round of the loop's. */
static inline uint64_t es_loop_time(const es_loop *loop) {
  return loop->held.on ? loop->held.now : uv_now(&loop->uv) + loop->held.ahead;
}

/* Milliseconds; fresh also when a driver let time pass since the last turn. */
uint64_t es_loop_now(es_loop *loop);

/* Nanoseconds: for what is measured. */
uint64_t es_loop_ns(const es_loop *loop);

/* For tests of apps: time stands still from now on, and is moved by hand, in milliseconds; or goes on by itself. What is due
 * then is done by the next turn. */
void es_loop_hold_time(es_loop *loop, bool hold);
void es_loop_move_time(es_loop *loop, uint64_t milliseconds);

/* When the first deadline is due, ES_NEVER: none is set. The same clock as es_loop_time. */
uint64_t es_loop_next_due(es_loop *loop);

/* By how much the latest of the deadlines of the last 5 to 10 seconds was late: seconds. */
double es_loop_lag(es_loop *loop);

/* Inline, because a guest is in another module, which is built along with this one. */
static inline void es_loop_enter(es_loop *loop, es_guest *guest) {
  guest->prev = NULL;
  guest->next = loop->guests;
  if (guest->next != NULL)
    guest->next->prev = guest;
  loop->guests = guest;
}

static inline void es_loop_leave(es_loop *loop, es_guest *guest) {
  if (guest->prev != NULL)
    guest->prev->next = guest->next;
  else
    loop->guests = guest->next;
  if (guest->next != NULL)
    guest->next->prev = guest->prev;
}

/* Queues a job; one that is queued already keeps its place. */
void es_loop_post(es_loop *loop, es_job *job);

/* Takes a job out that will not be run: its memory goes away. */
void es_loop_unpost(es_loop *loop, es_job *job);

/* Runs the jobs that are queued now; those that they post wait for the next call. Called at the end of each callback
 * of libuv's, so that the consequences of a callback come before the next one. */
void es_loop_settle(es_loop *loop);

/* deadline->on_due is called once, in a turn, when the time has come, and may set it anew; 0, or -1 when memory is out
 * (only when it is not set already). */
int es_loop_set_deadline(es_loop *loop, es_deadline *deadline, uint64_t due);
void es_loop_remove_deadline(es_loop *loop, es_deadline *deadline);

/* What keeps the loop alive: each timer that runs, each listener and each connection, also one whose socket is not
 * watched for the moment. */
void es_loop_hold(es_loop *loop);
void es_loop_release(es_loop *loop);

/* Lets libuv make room in its table of watched descriptors for so many, by watching a high one for a moment: it would end the process,
 * should there be no memory for that later. fd is any that can be watched. */
void es_loop_make_room(es_loop *loop, int fd, size_t descriptors);

/* Puts a descriptor aside, if there is one, and fewer than ES_SPARES are; gives one back to the process, for one client,
 * false: there is none. */
void es_loop_spare(es_loop *loop);
bool es_loop_spend(es_loop *loop);

/* A random number in [0, 1): for spreading load, not for secrets. */
double es_loop_random(es_loop *loop);

/* The process was forked: neither the numbers nor what the kernel watches must be its siblings'. */
void es_loop_forked(es_loop *loop);

/* The time as RFC 9110, 5.6.7 wants it in a Date header: 29 characters. */
const char *es_loop_date(es_loop *loop);

#endif
