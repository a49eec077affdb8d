/*
 * schedule: which event is due when, and its data; on an absolute schedule, so that who is late catches up.
 *
 * The data is 100 bytes: the event's number, counted from 1 (8 digits), a space, the time at which it was due in
 * nanoseconds of CLOCK_MONOTONIC (19 digits), a space, and x. All servers of the fan-out publish it.
 */
#ifndef BENCH_SCHEDULE_H
#define BENCH_SCHEDULE_H

#include <stdint.h>

#define SCHEDULE_DATA 100

typedef struct schedule {
  /* read-only */
  int64_t start; /* when the first is due, in nanoseconds */
  int count;     /* how many there are; 0 before the start */
  int next;      /* how many have been taken */
  /* private */
  double step; /* nanoseconds */
} schedule;

/* Begins as "/start?rate=R&count=N" asks, with the first event soon; -1 where `target` is none such. */
int schedule_start(schedule *s, const char *target);

/* When the next event is due, in nanoseconds; negative without any. */
int64_t schedule_due(const schedule *s);

/* Takes the next event if it is due at `now`: 1, and its data with a terminator; otherwise 0. */
int schedule_take(schedule *s, int64_t now, char data[SCHEDULE_DATA + 1]);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t schedule_now(void);

#endif
