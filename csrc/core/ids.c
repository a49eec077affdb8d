#include "core/ids.h"

#include <string.h>

#define EPOCH_DIGITS 16

es_slice es_id_write(char *text, uint64_t epoch, uint64_t sequence) {
  char digits[20], *at = text;
  size_t count = 0;
  for (int shift = 60; shift >= 0; shift -= 4)
    *at++ = "0123456789abcdef"[(epoch >> shift) & 15];
  *at++ = '-';
  do
    digits[count++] = (char)('0' + sequence % 10);
  while ((sequence /= 10) > 0);
  while (count > 0)
    *at++ = digits[--count];
  return (es_slice){text, (size_t)(at - text)};
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  if (c >= 'A' && c <= 'F')
    return c - 'A' + 10;
  return -1;
}

bool es_id_read(es_slice id, uint64_t *epoch, uint64_t *sequence) {
  if (id.len < EPOCH_DIGITS + 2 || id.ptr[EPOCH_DIGITS] != '-')
    return false;
  uint64_t high = 0, low = 0;
  for (size_t i = 0; i < EPOCH_DIGITS; i++) {
    int value = hex_value(id.ptr[i]);
    if (value < 0)
      return false;
    high = high << 4 | (uint64_t)value;
  }
  for (size_t i = EPOCH_DIGITS + 1; i < id.len; i++) {
    if (id.ptr[i] < '0' || id.ptr[i] > '9')
      return false;
    uint64_t digit = (uint64_t)(id.ptr[i] - '0');
    low = low > (UINT64_MAX - digit) / 10 ? UINT64_MAX : low * 10 + digit;
  }
  *epoch = high;
  *sequence = low;
  return true;
}
