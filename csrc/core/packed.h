/* packed: an event between two processes of one app, as bytes.
 *
 * What is unpacked was checked before it was packed; bytes that are no packed event are refused. */
#ifndef ES_CORE_PACKED_H
#define ES_CORE_PACKED_H

#include "core/frame.h"

#include <stdbool.h>

size_t es_packed_size(const es_event *event);

/* Writes so many bytes; returns the end. */
char *es_packed_write(char *out, const es_event *event);

/* The fields are borrowed from the bytes. */
bool es_packed_read(es_slice bytes, es_event *event);

#endif
