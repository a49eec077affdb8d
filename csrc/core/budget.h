/* budget: how many bytes an app's clients may occupy in all, and do. */
#ifndef ES_CORE_BUDGET_H
#define ES_CORE_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

typedef struct es_budget {
  size_t limit, used;
} es_budget;

static inline bool es_budget_allows(const es_budget *budget, size_t size) {
  return budget->used <= budget->limit && size <= budget->limit - budget->used;
}

#endif
