#include "core/ids.h"

#include "check.h"

#define EPOCH "0123456789abcdef"

static void reads(const char *text, uint64_t wanted_epoch, uint64_t wanted_sequence) {
  uint64_t epoch = 1, sequence = 1;
  CHECK(es_id_read((es_slice){text, strlen(text)}, &epoch, &sequence));
  CHECK(epoch == wanted_epoch && sequence == wanted_sequence);
}

/* Not of the form; and then nothing is written, too. */
static void refuses(const char *text, size_t len) {
  uint64_t epoch = 77, sequence = 78;
  char *exact = malloc(len > 0 ? len : 1); /* a byte read behind it is seen by the sanitizer */
  memcpy(exact, text, len);
  CHECK(!es_id_read((es_slice){exact, len}, &epoch, &sequence));
  CHECK(epoch == 77 && sequence == 78);
  free(exact);
}

static void comes_back(uint64_t epoch, uint64_t sequence) {
  char text[ES_ID_TEXT];
  es_slice id = es_id_write(text, epoch, sequence);
  uint64_t epoch_read, sequence_read;
  CHECK(id.ptr == text && id.len >= 18 && id.len <= 37);
  CHECK(es_id_read(id, &epoch_read, &sequence_read));
  CHECK(epoch_read == epoch && sequence_read == sequence);
  for (size_t len = 0; len < 18; len++)
    refuses(text, len);
}

int main(void) {
  char text[ES_ID_TEXT];
  es_slice id = es_id_write(text, 0x0123456789abcdefULL, 42);
  CHECK(id.len == 19 && memcmp(id.ptr, EPOCH "-42", 19) == 0);
  id = es_id_write(text, 0, 0);
  CHECK(id.len == 18 && memcmp(id.ptr, "0000000000000000-0", 18) == 0);

  comes_back(0, 0);
  comes_back(UINT64_MAX, UINT64_MAX);
  for (int round = 0; round < 20000; round++) {
    (void)test_random(2);
    comes_back(test_state, test_state >> test_random(64));
  }

  reads(EPOCH "-7", 0x0123456789abcdefULL, 7);
  reads("0123456789ABCDEF-7", 0x0123456789abcdefULL, 7); /* what came back through other hands */
  reads(EPOCH "-007", 0x0123456789abcdefULL, 7);
  reads(EPOCH "-18446744073709551614", 0x0123456789abcdefULL, UINT64_MAX - 1);
  reads(EPOCH "-18446744073709551615", 0x0123456789abcdefULL, UINT64_MAX);
  reads(EPOCH "-18446744073709551616", 0x0123456789abcdefULL, UINT64_MAX); /* too large: of the future */
  reads(EPOCH "-18446744073709551620", 0x0123456789abcdefULL, UINT64_MAX);
  reads(EPOCH "-99999999999999999999999999999999999999", 0x0123456789abcdefULL, UINT64_MAX);

  static const char *const malformed[] = {"",
                                          "x",
                                          EPOCH,
                                          EPOCH "-",
                                          EPOCH "_7",
                                          EPOCH "-7x",
                                          EPOCH "-x7",
                                          EPOCH "--7",
                                          EPOCH "-+7",
                                          EPOCH "- 7",
                                          EPOCH "-7 ",
                                          "-" EPOCH "-7",
                                          "0123456789abcde-77",
                                          "0123456789abcdef0-7",
                                          "0123456789abcdeg-7",
                                          " 123456789abcdef-7",
                                          "0x23456789abcdef-7"};
  for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
    refuses(malformed[i], strlen(malformed[i]));
  refuses(EPOCH "-7\0", 19);
  printf("ids: %d checks passed\n", checks);
  return 0;
}
