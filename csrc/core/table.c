#include "core/table.h"

#include <stdlib.h>
#include <string.h>

#define SIZE_MIN 16

struct es_bucket {
  es_node *first, *last;
};

/* FNV-1a over the bytes, then the finalizer of MurmurHash3, so that the low bits depend on all. */
static uint64_t hash_of(uint64_t seed, es_slice key) {
  uint64_t hash = 14695981039346656037ULL ^ seed;
  for (size_t i = 0; i < key.len; i++)
    hash = (hash ^ (unsigned char)key.ptr[i]) * 1099511628211ULL;
  hash ^= hash >> 33;
  hash *= 0xff51afd7ed558ccdULL;
  hash ^= hash >> 33;
  hash *= 0xc4ceb9fe1a85ec53ULL;
  return hash ^ (hash >> 33);
}

static struct es_bucket *bucket_of(const es_table *table, uint64_t hash) {
  return &table->buckets[hash & (table->size - 1)];
}

static void put(struct es_bucket *bucket, es_node *node) {
  node->next = NULL;
  node->prev = bucket->last;
  if (bucket->last != NULL)
    bucket->last->next = node;
  else
    bucket->first = node;
  bucket->last = node;
}

/* Nodes with the same key share a bucket before and after, and keep their order. */
static int resize(es_table *table, size_t size) {
  struct es_bucket *buckets = calloc(size, sizeof *buckets), *old = table->buckets;
  size_t old_size = table->size;
  if (buckets == NULL)
    return -1;
  table->buckets = buckets;
  table->size = size;
  for (size_t i = 0; i < old_size; i++) {
    for (es_node *node = old[i].first, *next; node != NULL; node = next) {
      next = node->next;
      put(bucket_of(table, node->hash), node);
    }
  }
  free(old);
  return 0;
}

int es_table_add(es_table *table, es_node *node) {
  if (table->count >= table->size && resize(table, table->size > 0 ? table->size * 2 : SIZE_MIN) != 0 &&
      table->size == 0)
    return -1; /* one that cannot grow still works */
  node->hash = hash_of(table->seed, node->key);
  put(bucket_of(table, node->hash), node);
  table->count++;
  return 0;
}

void es_table_remove(es_table *table, es_node *node) {
  struct es_bucket *bucket = bucket_of(table, node->hash);
  if (node->prev != NULL)
    node->prev->next = node->next;
  else
    bucket->first = node->next;
  if (node->next != NULL)
    node->next->prev = node->prev;
  else
    bucket->last = node->prev;
  if (--table->count == 0)
    es_table_free(table);
  else if (table->size > SIZE_MIN && table->count < table->size / 8)
    (void)resize(table, table->size / 4);
}

static es_node *seek(es_node *from, uint64_t hash, es_slice key) {
  for (es_node *node = from; node != NULL; node = node->next) {
    if (node->hash == hash && node->key.len == key.len && memcmp(node->key.ptr, key.ptr, key.len) == 0)
      return node;
  }
  return NULL;
}

es_node *es_table_find(const es_table *table, es_slice key) {
  if (table->count == 0)
    return NULL;
  uint64_t hash = hash_of(table->seed, key);
  return seek(bucket_of(table, hash)->first, hash, key);
}

es_node *es_table_next(const es_node *node) {
  return seek(node->next, node->hash, node->key);
}

es_node *es_table_after(const es_table *table, const es_node *node) {
  if (node != NULL && node->next != NULL)
    return node->next;
  for (size_t i = node != NULL ? (node->hash & (table->size - 1)) + 1 : 0; i < table->size; i++) {
    if (table->buckets[i].first != NULL)
      return table->buckets[i].first;
  }
  return NULL;
}

es_node *es_table_any(const es_table *table) {
  return es_table_after(table, NULL);
}

void es_table_free(es_table *table) {
  free(table->buckets);
  table->buckets = NULL;
  table->size = table->count = 0;
}
