#include "memory.h"

#include <stdbool.h>

size_t memory_live, memory_fails_next;

#if !defined(__APPLE__)

/* the linker's names for the two ends of --wrap */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);

static bool fails(void) {
  return memory_fails_next > 0 && --memory_fails_next == 0;
}

static void *counted(void *memory) {
  memory_live += memory != NULL;
  return memory;
}

void *__wrap_malloc(size_t size) {
  return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *memory, size_t size) {
  if (fails())
    return NULL;
  void *moved = __real_realloc(memory, size);
  memory_live += memory == NULL && moved != NULL;
  return moved;
}

void __wrap_free(void *memory) {
  memory_live -= memory != NULL;
  __real_free(memory);
}

#endif
