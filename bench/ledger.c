#include "ledger.h"

#include <stdlib.h>
#include <string.h>

#define NUMBER_DIGITS 8
#define TIME_DIGITS 19
#define DATA_BYTES (NUMBER_DIGITS + 1 + TIME_DIGITS)

#define STEP 10000     /* ns */
#define STEPS 2000000u /* the last one is for what took longer */

int ledger_init(ledger *l, uint32_t events) {
  memset(l, 0, sizeof *l);
  l->events = events;
  l->delays = calloc(STEPS, sizeof *l->delays);
  return l->delays != NULL ? 0 : -1;
}

void ledger_release(ledger *l) {
  free(l->delays);
  l->delays = NULL;
}

/* Eight digits at once: pairs, then fours, then all, by multiplying in the word; UINT32_MAX where one is no digit. */
static uint32_t eight_digits(const char *p) {
  uint64_t word;
  memcpy(&word, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  uint64_t high = (word & 0xf0f0f0f0f0f0f0f0) ^ 0x3030303030303030;
  uint64_t above_nine = ((word & 0x0f0f0f0f0f0f0f0f) + 0x0606060606060606) & 0x1010101010101010;
  if ((high | above_nine) != 0)
    return UINT32_MAX;
  word = (word & 0x0f0f0f0f0f0f0f0f) * 2561 >> 8;
  word = (word & 0x00ff00ff00ff00ff) * 6553601 >> 16;
  return (uint32_t)((word & 0x0000ffff0000ffff) * 42949672960001 >> 32);
}

/* The 19 digits of a time, of which three stand before two groups of eight; negative where one is no digit. */
static int64_t time_of(const char *p) {
  int64_t value = 0;
  for (int i = 0; i < TIME_DIGITS - 16; i++) {
    if (p[i] < '0' || p[i] > '9')
      return -1;
    value = value * 10 + (p[i] - '0');
  }
  uint32_t high = eight_digits(p + TIME_DIGITS - 16), low = eight_digits(p + TIME_DIGITS - 8);
  if (high == UINT32_MAX || low == UINT32_MAX)
    return -1;
  return (value * 100000000 + high) * 100000000 + low;
}

void ledger_take(ledger *l, uint32_t *last, const char *data, size_t length) {
  uint32_t number = length >= DATA_BYTES ? eight_digits(data) : UINT32_MAX;
  int64_t due = number != UINT32_MAX && data[NUMBER_DIGITS] == ' ' ? time_of(data + NUMBER_DIGITS + 1) : -1;
  if (due < 0 || number == 0 || number > l->events) {
    l->malformed++;
    return;
  }
  if (number <= *last) {
    l->repeated++;
    return;
  }
  l->missing += number - *last - 1;
  *last = number;
  l->delivered++;

  int64_t delay = l->received > due ? l->received - due : 0;
  if (l->measuring) {
    uint64_t step = (uint64_t)delay / STEP;
    l->delays[step < STEPS ? step : STEPS - 1]++;
    l->measured++;
  }
  if (l->events <= LEDGER_EACH) {
    l->each[number - 1].receipts++;
    if (delay > l->each[number - 1].last)
      l->each[number - 1].last = delay;
  }
}

double ledger_delay_ms(const ledger *l, double share) {
  uint64_t wanted = (uint64_t)(share * (double)l->measured);
  uint64_t seen = 0;
  for (uint32_t step = 0; step < STEPS && l->measured > 0; step++) {
    seen += l->delays[step];
    if (seen > wanted || seen == l->measured)
      return (step + 1) * (STEP / 1e6);
  }
  return 0;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double ledger_last_ms(const ledger *l, uint32_t subscribers) {
  double sorted[LEDGER_EACH];
  size_t count = 0;
  for (uint32_t i = 0; i < l->events && i < LEDGER_EACH; i++)
    if (l->each[i].receipts == subscribers)
      sorted[count++] = (double)l->each[i].last / 1e6;
  if (count == 0)
    return 0;
  qsort(sorted, count, sizeof *sorted, compare);
  return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}
