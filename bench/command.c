#include "command.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *it = "";

void command_begin(const char *program) {
  it = program;
}

double command_number(const char *name, const char *text, double least, double most) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= least && value <= most)) {
    fprintf(stderr, "%s: %s takes a number from %g to %g\n", it, name, least, most);
    exit(2);
  }
  return value;
}

static void on_alarm(int signal_number) {
  (void)signal_number;
  static const char message[] = ": out of time\n";
  if (write(STDERR_FILENO, it, strlen(it)) < 0 || write(STDERR_FILENO, message, sizeof message - 1) < 0)
    _exit(4);
  _exit(3);
}

void command_limit(int seconds) {
  signal(SIGALRM, on_alarm);
  alarm((unsigned)seconds);
}
