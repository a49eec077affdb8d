/* table: finds nodes by a text, in the order in which they were added.
 *
 * A hash table of borrowed nodes: a channel embeds one for its name, a frame one for its given id. Owns only its
 * buckets, which grow and shrink with what is in it. Of several nodes with the same key the one added first is found.
 * The hash is seeded, so that names from outside cannot be made to collide. */
#ifndef ES_CORE_TABLE_H
#define ES_CORE_TABLE_H

#include "core/frame.h"

typedef struct es_node {
  es_slice key; /* set by the owner before es_table_add; borrowed until es_table_remove */
  /* private */
  uint64_t hash;
  struct es_node *next, *prev;
} es_node;

typedef struct es_table {
  uint64_t seed;
  /* read-only */
  size_t count;
  /* private */
  struct es_bucket *buckets;
  size_t size; /* a power of two, or 0 */
} es_table;

/* A zeroed es_table is empty; seed may be set before the first node. 0, or -1 when memory is out. */
int es_table_add(es_table *table, es_node *node);

void es_table_remove(es_table *table, es_node *node);

/* The first that was added with that key, or NULL. */
es_node *es_table_find(const es_table *table, es_slice key);

/* The next with the same key, or NULL. */
es_node *es_table_next(const es_node *node);

/* The node after that one, NULL: the first, in no order; NULL behind the last. The table must not change meanwhile. */
es_node *es_table_after(const es_table *table, const es_node *node);

/* Any node, or NULL when there is none: for taking all out. */
es_node *es_table_any(const es_table *table);

/* Frees the buckets; the nodes are the callers'. */
void es_table_free(es_table *table);

#endif
