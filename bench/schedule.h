/*
 * schedule: which event is due when, and its data; on an absolute schedule, so that who is late catches up.
 *
 * The data is 100 bytes: the event's number, counted from 1 (8 digits), a space, the time at which it was due in
 * nanoseconds of CLOCK_MONOTONIC (19 digits), a space, and x. All servers of the fan-out publish it.
 *
 * Of several channels each has its own numbers, and they take turns: so the sum is spread evenly, too.
 */
#ifndef BENCH_SCHEDULE_H
#define BENCH_SCHEDULE_H

#include <stdint.h>

#define SCHEDULE_DATA 100

typedef struct schedule {
  /* read-only */
  int64_t start; /* when the first is due, in nanoseconds */
  int64_t count; /* how many there are, of all channels; 0 before the start */
  int64_t next;  /* how many have been taken */
  int channels;  /* 0 where none was asked for: it is the same as one, without a number */
  int channel;   /* counted from 0, of the event that was taken last */
  /* private */
  int fresh;
  double step; /* nanoseconds from one to the next, of any channel */
} schedule;

/*
 * Begins as "/start?rate=R&count=N[&channels=C][&fresh=1]" asks, with the first event soon; -1 where `target` is none
 * such. Rate and count are each channel's. In place of the time at which it was due a fresh event has that at which it
 * is taken.
 */
int schedule_start(schedule *s, const char *target);

/* When the next event is due, in nanoseconds; negative without any. */
int64_t schedule_due(const schedule *s);

/* Takes the next event if it is due at `now`: 1, and its data with a terminator; otherwise 0. */
int schedule_take(schedule *s, int64_t now, char data[SCHEDULE_DATA + 1]);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t schedule_now(void);

#endif
