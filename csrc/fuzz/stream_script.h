/* stream_script: what the input's bytes let clients, scripts, the kernel and the clock do, step by step. */
#ifndef ES_FUZZ_STREAM_SCRIPT_H
#define ES_FUZZ_STREAM_SCRIPT_H

#include "fuzz/stream_client.h"

#define STEPS_MAX 1500

extern const es_handlers script_handlers;

/* Starts over with an input (borrowed). */
void script_begin(const uint8_t *input, size_t size);
unsigned script_byte(void); /* the next; 0 after the input's end */
bool script_goes_on(void);
void script_step(void);

/* Single things that it may do. */
void script_connect(client *c);
void script_turn(void);
void script_drop_handle(unsigned channel);

#endif
