#include "core/deadlines.h"

#include <stdlib.h>

static void put_at(es_deadlines *d, size_t place, es_deadline *node) {
  d->heap[place - 1] = node;
  node->place = place;
}

static void sift_up(es_deadlines *d, es_deadline *node) {
  size_t place = node->place;
  while (place > 1 && d->heap[place / 2 - 1]->due > node->due) {
    put_at(d, place, d->heap[place / 2 - 1]);
    place /= 2;
  }
  put_at(d, place, node);
}

static void sift_down(es_deadlines *d, es_deadline *node) {
  size_t place = node->place;
  for (;;) {
    size_t child = place * 2;
    if (child > d->count)
      break;
    if (child < d->count && d->heap[child]->due < d->heap[child - 1]->due)
      child++;
    if (d->heap[child - 1]->due >= node->due)
      break;
    put_at(d, place, d->heap[child - 1]);
    place = child;
  }
  put_at(d, place, node);
}

int es_deadlines_set(es_deadlines *d, es_deadline *node, uint64_t due) {
  if (node->place == 0) {
    if (d->count == d->size) {
      size_t size = d->size > 0 ? d->size * 2 : 16;
      es_deadline **heap = realloc(d->heap, size * sizeof *heap);
      if (heap == NULL)
        return -1;
      d->heap = heap;
      d->size = size;
    }
    node->due = due;
    put_at(d, ++d->count, node);
    sift_up(d, node);
    return 0;
  }
  uint64_t before = node->due;
  node->due = due;
  if (due < before)
    sift_up(d, node);
  else
    sift_down(d, node);
  return 0;
}

void es_deadlines_remove(es_deadlines *d, es_deadline *node) {
  if (node->place == 0)
    return;
  es_deadline *last = d->heap[--d->count];
  if (last != node) {
    uint64_t due = last->due;
    put_at(d, node->place, last);
    if (due < node->due)
      sift_up(d, last);
    else
      sift_down(d, last);
  }
  node->place = 0;
}

es_deadline *es_deadlines_first(const es_deadlines *d) {
  return d->count > 0 ? d->heap[0] : NULL;
}

void es_deadlines_free(es_deadlines *d) {
  free(d->heap);
  *d = (es_deadlines){0};
}
