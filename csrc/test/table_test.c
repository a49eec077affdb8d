#include "core/table.h"

#include "check.h"
#include "memory.h"

#include <stdbool.h>

#define NODES 2000
#define KEYS 60

typedef struct named {
  es_node node;
  char name[8];
  unsigned long added; /* 0: not in it */
} named;

/* Against a naive model: of those with a key the one added first is found, whatever came, went and moved. */
static void finds_the_first(es_table *table, unsigned nodes, unsigned keys, int rounds) {
  static named all[NODES];
  unsigned long clock = 0;
  size_t count = 0;
  memset(all, 0, sizeof all);
  for (int round = 0; round < rounds; round++) {
    named *one = &all[test_random(nodes)];
    bool grows = round / (rounds / 8) % 2 == 0; /* by turns it grows and shrinks */
    if (one->added == 0 && (grows || test_random(8) == 0)) {
      sprintf(one->name, "k%u", test_random(keys));
      one->node.key = (es_slice){one->name, strlen(one->name)};
      CHECK(es_table_add(table, &one->node) == 0);
      one->added = ++clock;
      count++;
    } else if (one->added != 0 && (!grows || test_random(8) == 0)) {
      es_table_remove(table, &one->node);
      one->added = 0;
      count--;
    }
    CHECK(table->count == count && (table->buckets == NULL) == (count == 0));
    if (round % 16 != 0)
      continue;
    char name[16];
    named *first = NULL;
    sprintf(name, "k%u", test_random(keys + 2));
    for (unsigned i = 0; i < nodes; i++) {
      if (all[i].added != 0 && strcmp(all[i].name, name) == 0 && (first == NULL || all[i].added < first->added))
        first = &all[i];
    }
    CHECK(es_table_find(table, (es_slice){name, strlen(name)}) == (first != NULL ? &first->node : NULL));
    unsigned long last = 0;
    size_t found = 0;
    for (const es_node *node = first != NULL ? &first->node : NULL; node != NULL; node = es_table_next(node), found++) {
      const named *n = (const named *)(const void *)node;
      CHECK(strcmp(n->name, name) == 0 && n->added > last); /* those behind it, in the order in which they came */
      last = n->added;
    }
    for (unsigned i = 0; i < nodes; i++)
      found -= all[i].added != 0 && strcmp(all[i].name, name) == 0;
    CHECK(found == 0);
  }
  for (es_node *node; (node = es_table_any(table)) != NULL;)
    es_table_remove(table, node);
  CHECK(table->count == 0 && table->buckets == NULL);
}

/* Keys are bytes with a length: the empty one, a zero inside, one that begins another. */
static void takes_any_bytes(void) {
  es_table table = {.seed = 7};
  static const es_slice keys[] = {{"", 0}, {"a", 1}, {"a\0", 2}, {"a\0b", 3}, {"ab", 2}};
  es_node nodes[sizeof keys / sizeof *keys] = {0};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    nodes[i].key = keys[i];
    CHECK(es_table_find(&table, keys[i]) == NULL);
    CHECK(es_table_add(&table, &nodes[i]) == 0);
  }
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    CHECK(es_table_find(&table, keys[i]) == &nodes[i]);
  es_table_free(&table);
}

/* A table that cannot grow still works; one that cannot begin says so. */
static void lacks_memory(void) {
  static es_node nodes[100];
  static char names[100][8];
  es_table table = {0};
  for (int i = 0; i < 100; i++) {
    sprintf(names[i], "n%d", i);
    nodes[i].key = (es_slice){names[i], strlen(names[i])};
  }
  memory_fails_next = 1;
  int err = es_table_add(&table, &nodes[0]);
  bool fails = memory_fails_next == 0; /* else the linker could not send the allocations through memory.c */
  memory_fails_next = 0;
  CHECK(err == (fails ? -1 : 0));
  for (int i = fails ? 0 : 1; i < 100; i++) {
    memory_fails_next = i > 0;
    CHECK(es_table_add(&table, &nodes[i]) == 0);
  }
  memory_fails_next = 0;
  for (int i = 0; i < 100; i++)
    CHECK(es_table_find(&table, nodes[i].key) == &nodes[i]);
  for (int i = 0; i < 100; i++) {
    memory_fails_next = 1;
    es_table_remove(&table, &nodes[i]);
    CHECK(es_table_find(&table, nodes[i].key) == NULL);
  }
  memory_fails_next = 0;
  CHECK(table.count == 0);
}

int main(void) {
  size_t before = memory_live;
  es_table table = {.seed = 42};
  finds_the_first(&table, NODES, KEYS, 400000);
  finds_the_first(&table, 40, 3, 100000);
  finds_the_first(&table, NODES, 9999, 200000);
  takes_any_bytes();
  lacks_memory();
  CHECK(memory_live == before);
  printf("table: %d checks passed\n", checks);
  return 0;
}
