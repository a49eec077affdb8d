/*
 * ledger: checks that every subscriber has got every event exactly once, and how late.
 *
 * The data of the events begins with their number, counted from 1 (8 digits), a space, and the time at which the event
 * was due, in nanoseconds of CLOCK_MONOTONIC (19 digits).
 */
#ifndef BENCH_LEDGER_H
#define BENCH_LEDGER_H

#include <stddef.h>
#include <stdint.h>

#define LEDGER_EACH 1024 /* runs of at most so many events are also kept event by event */

typedef struct ledger {
  /* public */
  int64_t received; /* when the bytes came that are being taken, in nanoseconds */
  int measuring;    /* whether the delays are kept */
  /* read-only */
  uint64_t delivered; /* numbers taken for the first time */
  uint64_t missing;   /* numbers skipped: the next one came before them, or instead of them */
  uint64_t repeated;  /* numbers that had come, or had been skipped */
  uint64_t malformed; /* data without a number */
  /* private */
  uint32_t events; /* of the run */
  uint64_t measured;
  uint64_t *delays; /* how many deliveries took so many steps */
  struct {
    uint32_t receipts;
    int64_t last; /* the last receipt's delay, in nanoseconds */
  } each[LEDGER_EACH];
} ledger;

/* For a run of `events` events. Returns -1 where there is no memory. A zeroed ledger may be released, too. */
int ledger_init(ledger *l, uint32_t events);
void ledger_release(ledger *l);

/* One event's data, as a subscriber got it whose last number was `*last`. */
void ledger_take(ledger *l, uint32_t *last, const char *data, size_t length);

/* The delay in milliseconds within which so much (0 to 1) of the deliveries came; 0 without any. */
double ledger_delay_ms(const ledger *l, double share);

/* The median, over the events that all `subscribers` got, of the delay of the last of them; 0 without any. */
double ledger_last_ms(const ledger *l, uint32_t subscribers);

#endif
