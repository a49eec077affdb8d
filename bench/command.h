/* command: what the programs' command lines have in common. */
#ifndef BENCH_COMMAND_H
#define BENCH_COMMAND_H

/* The program's name, for messages. First. */
void command_begin(const char *program);

/* A number from `least` to `most`; otherwise says so, and exits with 2. */
double command_number(const char *name, const char *text, double least, double most);

/* Exits with 3 when so many seconds have passed. */
void command_limit(int seconds);

#endif
