/* ids: the ids that a channel gives, EPOCH-SEQUENCE: 16 hexadecimal digits, a hyphen, a decimal number.
 *
 * The epoch is drawn anew for each app, so that no position of an earlier run is mistaken for one of this. */
#ifndef ES_CORE_IDS_H
#define ES_CORE_IDS_H

#include "core/frame.h"

#include <stdbool.h>

#define ES_ID_TEXT 40 /* room for any of them */

/* Writes an id into a text of ES_ID_TEXT bytes; returns it as a slice of that. */
es_slice es_id_write(char *text, uint64_t epoch, uint64_t sequence);

/* Whether an id has that form; then epoch and sequence are set. One whose number is too large has it, too, and stands
 * for UINT64_MAX. */
bool es_id_read(es_slice id, uint64_t *epoch, uint64_t *sequence);

#endif
