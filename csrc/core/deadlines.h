/* deadlines: which of many is due next.
 *
 * A binary heap of borrowed nodes: a connection embeds one es_deadline instead of a timer of its own, and one timer
 * drives them all. Owns only its array of pointers. */
#ifndef ES_CORE_DEADLINES_H
#define ES_CORE_DEADLINES_H

#include <stddef.h>
#include <stdint.h>

typedef struct es_deadline {
  void (*on_due)(struct es_deadline *deadline); /* the owner's; called by whoever runs the clock, never from here */
  uint64_t due;                                 /* read-only: milliseconds of the loop's clock */
  size_t place;                                 /* private: its place in the heap counted from 1; 0 when it is in none */
} es_deadline;

typedef struct es_deadlines {
  /* private */
  es_deadline **heap;
  size_t count, size;
} es_deadlines;

/* A zeroed es_deadlines is empty. Sets or moves a deadline: 0, or -1 when memory is out (only when it is new). */
int es_deadlines_set(es_deadlines *deadlines, es_deadline *deadline, uint64_t due);

/* Takes a deadline out; one that is in none is left as it is. */
void es_deadlines_remove(es_deadlines *deadlines, es_deadline *deadline);

/* The earliest, or NULL. */
es_deadline *es_deadlines_first(const es_deadlines *deadlines);

/* Frees the array; the nodes are the callers'. */
void es_deadlines_free(es_deadlines *deadlines);

#endif
