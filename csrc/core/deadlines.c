#include "core/deadlines.h"

#include <stdlib.h>

/* Children of a place. An interval that is due moves from the top to the bottom each time, and each step writes to
 * another node's memory: four children a place halve the steps that two would take. */
#define ARITY 4

typedef struct es_deadline_entry {
  uint64_t due;
  es_deadline *node;
} entry;

static void put_at(es_deadlines *d, size_t place, entry e) {
  d->heap[place - 1] = e;
  e.node->place = place;
}

static size_t parent_of(size_t place) {
  return (place - 2) / ARITY + 1;
}

static void sift_up(es_deadlines *d, size_t place, entry e) {
  while (place > 1 && d->heap[parent_of(place) - 1].due > e.due) {
    put_at(d, place, d->heap[parent_of(place) - 1]);
    place = parent_of(place);
  }
  put_at(d, place, e);
}

static void sift_down(es_deadlines *d, size_t place, entry e) {
  for (;;) {
    size_t first = (place - 1) * ARITY + 2;
    if (first > d->count)
      break;
    size_t last = first + ARITY - 1 < d->count ? first + ARITY - 1 : d->count, least = first;
    for (size_t child = first + 1; child <= last; child++) {
      if (d->heap[child - 1].due < d->heap[least - 1].due)
        least = child;
    }
    if (d->heap[least - 1].due >= e.due)
      break;
    put_at(d, place, d->heap[least - 1]);
    place = least;
  }
  put_at(d, place, e);
}

/* Puts an entry where another one was. */
static void replace(es_deadlines *d, size_t place, entry e) {
  if (place > 1 && d->heap[parent_of(place) - 1].due > e.due)
    sift_up(d, place, e);
  else
    sift_down(d, place, e);
}

int es_deadlines_set(es_deadlines *d, es_deadline *node, uint64_t due) {
  entry e = {due, node};
  if (node->place != 0) {
    replace(d, node->place, e);
    return 0;
  }
  if (d->count == d->size) {
    size_t size = d->size > 0 ? d->size * 2 : 16;
    entry *heap = realloc(d->heap, size * sizeof *heap);
    if (heap == NULL)
      return -1;
    d->heap = heap;
    d->size = size;
  }
  sift_up(d, ++d->count, e);
  return 0;
}

void es_deadlines_remove(es_deadlines *d, es_deadline *node) {
  if (node->place == 0)
    return;
  entry last = d->heap[--d->count];
  if (last.node != node)
    replace(d, node->place, last);
  node->place = 0;
}

es_deadline *es_deadlines_first(const es_deadlines *d) {
  return d->count > 0 ? d->heap[0].node : NULL;
}

uint64_t es_deadlines_next(const es_deadlines *d) {
  return d->count > 0 ? d->heap[0].due : ES_NEVER;
}

void es_deadlines_free(es_deadlines *d) {
  free(d->heap);
  *d = (es_deadlines){0};
}
