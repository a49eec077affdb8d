#include "proc.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double proc_cpu_seconds(pid_t pid) {
  clockid_t clock;
  struct timespec t;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
    return -1;
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double proc_stat_seconds(pid_t pid) {
  char path[64], line[1024];
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return -1;
  double seconds = -1;
  unsigned long user, system;
  if (fgets(line, sizeof line, file) != NULL) {
    char *rest = strrchr(line, ')'); /* the name may hold spaces and brackets */
    if (rest != NULL && sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2)
      seconds = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
  }
  fclose(file);
  return seconds;
}

long proc_pss_kb(pid_t pid) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/%ld/smaps_rollup", (long)pid);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return -1;
  long kb = -1;
  while (kb < 0 && fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "Pss: %ld kB", &kb) != 1)
      kb = -1;
  fclose(file);
  return kb;
}
