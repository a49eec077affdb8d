/* The log against its naive model: the input's bytes say what is done to both. */
#include "test/log_model.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const uint8_t *input_at, *input_end;

/* Numbers below 256 take one byte, larger ones two; after the input's end all are 0. */
static unsigned number(unsigned below) {
  unsigned value = 0;
  for (unsigned reach = 1; reach < below && input_at < input_end; reach *= 256)
    value = value * 256 + *input_at++;
  return value % below;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  static log_model model;
  size_t before = memory_live;
  input_at = input;
  input_end = input + size;
  log_model_init(&model, number);
  while (input_at < input_end)
    log_model_step(&model);
  log_model_free(&model);
  CHECK(memory_live == before);
  return 0;
}
