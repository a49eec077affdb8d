#include "schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FIRST 200000000 /* ns after the request, which is answered meanwhile */

int64_t schedule_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The number behind "&name=", or 0. */
static int option(const char *target, const char *name) {
  const char *at = strstr(target, name);
  return at != NULL ? atoi(at + strlen(name)) : 0;
}

int schedule_start(schedule *s, const char *target) {
  double rate;
  int count, channels = option(target, "&channels=");
  if (sscanf(target, "/start?rate=%lf&count=%d", &rate, &count) != 2 || !(rate > 0) || count < 1 || channels < 0)
    return -1;
  int many = channels > 0 ? channels : 1;
  *s = (schedule){.start = schedule_now() + FIRST,
                  .count = (int64_t)count * many,
                  .channels = channels,
                  .fresh = option(target, "&fresh="),
                  .step = 1e9 / rate / many};
  return 0;
}

int64_t schedule_due(const schedule *s) {
  return s->next < s->count ? s->start + (int64_t)((double)s->next * s->step) : -1;
}

int schedule_take(schedule *s, int64_t now, char data[SCHEDULE_DATA + 1]) {
  int64_t due = schedule_due(s);
  if (due < 0 || due > now)
    return 0;
  int many = s->channels > 0 ? s->channels : 1;
  s->channel = (int)(s->next % many);
  int number = (int)(s->next++ / many) + 1;
  int length = snprintf(data, SCHEDULE_DATA + 1, "%08d %019lld ", number, (long long)(s->fresh ? now : due));
  memset(data + length, 'x', SCHEDULE_DATA - (size_t)length);
  data[SCHEDULE_DATA] = '\0';
  return 1;
}
