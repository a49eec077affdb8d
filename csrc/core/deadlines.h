/* deadlines: which of many is due next.
 *
 * A heap of borrowed nodes: a connection or an interval embeds one es_deadline instead of a timer of its own,
 * and one timer of the loop drives them all. The times lie side by side in the heap, so that keeping thousands of
 * intervals in order touches little memory. Owns only its array. */
#ifndef ES_CORE_DEADLINES_H
#define ES_CORE_DEADLINES_H

#include <stddef.h>
#include <stdint.h>

typedef struct es_deadline {
  void (*on_due)(struct es_deadline *deadline); /* the owner's; called by whoever runs the clock, never from here */
  size_t place;                                 /* private: in the heap, counted from 1; 0 when it is in none */
} es_deadline;

typedef struct es_deadlines {
  /* private */
  struct es_deadline_entry *heap;
  size_t count, size;
} es_deadlines;

#define ES_NEVER UINT64_MAX

/* A zeroed es_deadlines is empty. Sets or moves a deadline: 0, or -1 when memory is out (only when it is new). */
int es_deadlines_set(es_deadlines *deadlines, es_deadline *deadline, uint64_t due);

/* Takes a deadline out; one that is in none is left as it is. */
void es_deadlines_remove(es_deadlines *deadlines, es_deadline *deadline);

/* The earliest, or NULL; and when that is, or ES_NEVER. */
es_deadline *es_deadlines_first(const es_deadlines *deadlines);
uint64_t es_deadlines_next(const es_deadlines *deadlines);

/* Frees the array; the nodes are the callers'. */
void es_deadlines_free(es_deadlines *deadlines);

#endif
