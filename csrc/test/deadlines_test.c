#include "core/deadlines.h"

#include "check.h"

#define NODES 300

/* Against a naive model: the earliest is the earliest, whatever was set, moved and removed before. */
int main(void) {
  static es_deadline nodes[NODES];
  static uint64_t due[NODES]; /* ES_NEVER: not set */
  es_deadlines deadlines = {0};
  for (int i = 0; i < NODES; i++)
    due[i] = ES_NEVER;
  CHECK(es_deadlines_first(&deadlines) == NULL && es_deadlines_next(&deadlines) == ES_NEVER);
  for (int round = 0; round < 200000; round++) {
    unsigned i = test_random(NODES);
    switch (test_random(4)) {
    case 0:
      es_deadlines_remove(&deadlines, &nodes[i]);
      due[i] = ES_NEVER;
      break;
    case 1: /* what a clock does: the first is put behind all others */
      if (es_deadlines_first(&deadlines) != NULL) {
        i = (unsigned)(es_deadlines_first(&deadlines) - nodes);
        due[i] += 1000;
        CHECK(es_deadlines_set(&deadlines, &nodes[i], due[i]) == 0);
      }
      break;
    default:
      due[i] = test_random(1000000);
      CHECK(es_deadlines_set(&deadlines, &nodes[i], due[i]) == 0);
    }
    uint64_t earliest = ES_NEVER;
    for (int k = 0; k < NODES; k++)
      earliest = due[k] < earliest ? due[k] : earliest;
    CHECK(es_deadlines_next(&deadlines) == earliest);
    es_deadline *first = es_deadlines_first(&deadlines);
    CHECK(first == NULL ? earliest == ES_NEVER : due[first - nodes] == earliest);
  }
  es_deadlines_free(&deadlines);
  printf("deadlines: %d checks passed\n", checks);
  return 0;
}
