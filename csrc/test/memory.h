/* memory: what is allocated, and allocations that fail on demand.
 *
 * The Makefile lets the linker send the allocations of a test program, and of the core that is linked into it, through
 * here. Where the linker cannot (macOS), nothing is counted and nothing fails. */
#ifndef ES_TEST_MEMORY_H
#define ES_TEST_MEMORY_H

#include <stddef.h>

extern size_t memory_live;       /* allocations that were not freed yet */
extern size_t memory_fails_next; /* 1: the next allocation fails; 2: the one after it; ... 0: none does */

#endif
