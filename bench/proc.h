/* proc: what another process has used, as the kernel tells it. */
#ifndef BENCH_PROC_H
#define BENCH_PROC_H

#include <sys/types.h>

/*
 * CPU time of all threads of `pid`, those that have ended too, in seconds; negative where the process is gone. It is
 * what /proc/PID/stat shows as utime + stime in ticks of 10 ms, read in nanoseconds from the process's CPU clock.
 */
double proc_cpu_seconds(pid_t pid);

/* The same from /proc/PID/stat: coarse, to check the other by. */
double proc_stat_seconds(pid_t pid);

/* Proportional set size in KiB; negative where the process is gone. The kernel's socket buffers are not in it. */
long proc_pss_kb(pid_t pid);

#endif
