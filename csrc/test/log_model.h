/* log_model: some logs that share one table of given ids, beside a naive model of them.
 *
 * Each step does one thing to both and compares: the test takes its numbers from a generator, the fuzzer from its input.
 * Readers stop in the middle of frames, and hold the block of a half-read frame while the log goes on. */
#ifndef ES_TEST_LOG_MODEL_H
#define ES_TEST_LOG_MODEL_H

#include "core/ids.h"
#include "core/log.h"

#include "check.h"
#include "memory.h"

#define MODEL_LOGS 3
#define MODEL_READERS 8
#define MODEL_EPOCH 0x0123456789abcdefULL
#define MODEL_KEPT_MAX 3000 /* above it everything counts as offered */

typedef struct model_frame {
  uint64_t sequence, time;
  char id[ES_ID_TEXT]; /* "" without one */
  bool given;
  uint64_t stands; /* with a given id: for itself, or for an older one that had it and was evicted meanwhile */
  uint32_t except;
  size_t size; /* with its chunk framing */
  char *bytes;
} model_frame;

typedef struct model_log {
  es_log log;
  model_frame *frames; /* the kept ones: [first, next) */
  size_t first, next, room;
  uint64_t evicted;
  size_t bytes;
  uint64_t last, gone, given_gone;
} model_log;

typedef struct model_reader {
  model_log *log;
  uint64_t cursor;
  es_log_block *block; /* of a frame of which it has read a part; NULL */
  uint32_t offset;
  char *rest; /* what must come of it, in memory of its own */
  size_t left;
} model_reader;

typedef struct log_model {
  es_table ids;
  model_log logs[MODEL_LOGS];
  model_reader readers[MODEL_READERS];
  uint64_t sequence, now;
  unsigned (*random)(unsigned below);
} log_model;

/* --- The model --- */

static size_t model_count(const model_log *m) {
  return m->next - m->first;
}

/* The frame's bytes, written without the core's encoder. */
static void model_write(model_frame *f, size_t size) {
  size_t payload = size + 8 + (f->id[0] != '\0' ? strlen(f->id) + 5 : 0);
  f->bytes = malloc(payload + 64);
  CHECK(f->bytes != NULL);
  char *at = f->bytes + sprintf(f->bytes, "%zx\r\n", payload);
  if (f->id[0] != '\0')
    at += sprintf(at, "id: %s\n", f->id);
  at += sprintf(at, "data: ");
  memset(at, (int)('a' + f->sequence % 26), size);
  at += size;
  at += sprintf(at, "\n\n\r\n");
  f->size = (size_t)(at - f->bytes);
}

static void model_push(model_log *m, const model_frame *frame) {
  if (m->next == m->room) {
    size_t count = model_count(m);
    if (count * 2 > m->room || m->room == 0) {
      m->room = m->room * 2 + 16;
      m->frames = realloc(m->frames, m->room * sizeof *m->frames);
      CHECK(m->frames != NULL);
    }
    if (count > 0)
      memmove(m->frames, m->frames + m->first, count * sizeof *m->frames);
    m->first = 0;
    m->next = count;
  }
  m->frames[m->next++] = *frame;
  m->bytes += frame->size;
  m->last = frame->sequence;
}

/* The oldest kept frame of all logs that carries a given id; NULL if none does. */
static model_frame *model_oldest(log_model *model, const char *id) {
  model_frame *oldest = NULL;
  for (model_log *m = model->logs; m < model->logs + MODEL_LOGS; m++) {
    for (size_t i = m->first; i < m->next; i++) {
      model_frame *f = &m->frames[i];
      if (f->given && strcmp(f->id, id) == 0) {
        if (oldest == NULL || f->sequence < oldest->sequence)
          oldest = f;
        break;
      }
    }
  }
  return oldest;
}

static void model_evict_first(log_model *model, model_log *m) {
  model_frame *f = &m->frames[m->first++];
  if (f->given) {
    model_frame *heir = model_oldest(model, f->id);
    if (heir != NULL && f->stands < heir->stands)
      heir->stands = f->stands;
    if (f->stands > m->given_gone)
      m->given_gone = f->stands;
  }
  m->gone = f->sequence;
  m->bytes -= f->size;
  m->evicted++;
  free(f->bytes);
}

static void model_evict(log_model *model, model_log *m, uint64_t offered) {
  while (model_count(m) > 0) {
    const model_frame *f = &m->frames[m->first];
    bool over = model_count(m) > m->log.max_count || m->bytes > m->log.max_bytes ||
                (m->log.max_age > 0 && model->now - f->time >= m->log.max_age);
    if (!over || f->sequence > offered)
      return;
    model_evict_first(model, m);
  }
}

/* The kept frame above a sequence, as an index; m->next if there is none. */
static size_t model_seek(const model_log *m, uint64_t sequence) {
  size_t i = m->first;
  while (i < m->next && m->frames[i].sequence <= sequence)
    i++;
  return i;
}

/* --- Both --- */

static void model_compare(const model_log *m) {
  const es_log *log = &m->log;
  CHECK(es_log_count(log) == model_count(m));
  CHECK(log->bytes == m->bytes);
  CHECK(log->first == m->evicted && log->next == m->evicted + model_count(m));
  CHECK(log->last == m->last && log->gone == m->gone && log->given_gone == m->given_gone);
}

static void model_compare_frame(const es_log_frame *got, const model_frame *want) {
  CHECK(got->sequence == want->sequence && got->time == want->time);
  es_slice bytes = es_log_bytes(got, true);
  CHECK(bytes.len == want->size && memcmp(bytes.ptr, want->bytes, want->size) == 0);
  const char *payload = strchr(want->bytes, '\n') + 1;
  bytes = es_log_bytes(got, false);
  CHECK(bytes.len == want->size - (size_t)(payload - want->bytes) - 2 && memcmp(bytes.ptr, payload, bytes.len) == 0);
  CHECK((got->extra != NULL) == (want->given || want->except != 0));
  if (got->extra == NULL)
    return;
  CHECK(got->extra->except == want->except);
  CHECK(got->extra->sequence == (want->given ? want->stands : want->sequence));
  CHECK((got->extra->instead != NULL) == (want->except != 0 && want->id[0] != '\0'));
  if (got->extra->instead == NULL)
    return;
  char instead[ES_ID_TEXT + 32], plain[ES_ID_TEXT + 16];
  int size = sprintf(plain, "id: %s\n\n", want->id);
  CHECK(sprintf(instead, "%x\r\n%s\r\n", (unsigned)size, plain) > 0);
  bytes = es_log_block_bytes(got->extra->instead, true);
  CHECK(bytes.len == strlen(instead) && memcmp(bytes.ptr, instead, bytes.len) == 0);
  bytes = es_log_block_bytes(got->extra->instead, false);
  CHECK(bytes.len == strlen(plain) && memcmp(bytes.ptr, plain, bytes.len) == 0);
}

static void model_publish(log_model *model, model_log *m) {
  uint64_t sequence = model->sequence + 1 + model->random(3);
  model_frame f = {.sequence = sequence, .stands = sequence, .time = model->now};
  size_t size = model->random(8) != 0 ? model->random(40) : model->random(16) != 0 ? model->random(3000) : 0x11111;
  switch (model->random(4)) {
  case 0: /* given; often one that was there before */
    sprintf(f.id, "g%u", model->random(20));
    f.given = true;
    break;
  case 1: /* none */
    break;
  default:
    es_id_write(f.id, MODEL_EPOCH, f.sequence);
    f.id[strlen("0123456789abcdef-") + (size_t)snprintf(NULL, 0, "%llu", (unsigned long long)f.sequence)] = '\0';
  }
  if (model->random(8) == 0)
    f.except = 1 + model->random(3);
  model_write(&f, size);
  char *data = malloc(size + 1);
  CHECK(data != NULL);
  memset(data, (int)('a' + f.sequence % 26), size);
  es_log_entry entry = {
      .event = ES_EVENT_INIT, .sequence = f.sequence, .now = f.time, .given = f.given, .except = f.except};
  entry.event.data = (es_slice){data, size};
  if (f.id[0] != '\0')
    entry.event.id = (es_slice){f.id, strlen(f.id)};
  if (model->random(64) == 0)
    memory_fails_next = 1 + model->random(4);
  bool may_fail = memory_fails_next > 0;
  int err = es_log_append(&m->log, &entry);
  memory_fails_next = 0;
  free(data);
  if (err != 0) { /* then nothing has changed */
    CHECK(may_fail);
    free(f.bytes);
    return;
  }
  model->sequence = f.sequence;
  model_push(m, &f);
}

/* Reads what a stretch gives, up to some bytes, and stops where that is: often in the middle of a frame. */
static void model_read(log_model *model, model_reader *r) {
  size_t budget = model->random(4) != 0 ? model->random(64) : model->random(0x20000);
  if (r->block != NULL) {
    size_t take = budget < r->left ? budget : r->left;
    CHECK(memcmp(r->block->bytes + r->offset, r->rest, take) == 0);
    memmove(r->rest, r->rest + take, r->left - take);
    r->left -= take;
    r->offset += (uint32_t)take;
    budget -= take;
    if (r->left > 0)
      return;
    free(r->rest);
    es_log_block_unref(r->block);
    r->block = NULL;
  }
  model_log *m = r->log;
  const es_log *log = &m->log;
  uint64_t place = es_log_seek(log, r->cursor);
  size_t at = model_seek(m, r->cursor);
  CHECK(place - log->first == at - m->first);
  uint64_t end = place + model->random((unsigned)(log->next - place) + 1);
  if (model->random(4) != 0)
    end = log->next;
  while (place < end && budget > 0) {
    es_slice bytes;
    uint64_t next = es_log_stretch(log, place, end, &bytes);
    CHECK(next > place && next <= end);
    size_t n = budget < bytes.len ? budget : bytes.len, read = 0;
    budget -= n;
    for (uint64_t p = place; p < next; p++, at++) { /* the stretch is whole frames, one behind the other */
      const model_frame *f = &m->frames[at];
      size_t whole = read + f->size <= n ? f->size : n - read;
      CHECK(memcmp(bytes.ptr + read, f->bytes, whole) == 0);
      if (p < next - 1 || n == bytes.len)
        CHECK(read + f->size <= bytes.len);
      if (whole < f->size) { /* stopped in this one */
        size_t before;
        CHECK(es_log_place(log, place, next, n, &before) == p && before == read);
        if (whole > 0) {
          const es_log_frame *frame = es_log_at(log, p);
          r->block = frame->block;
          es_log_block_ref(r->block);
          r->offset = frame->offset + (uint32_t)whole;
          r->left = f->size - whole;
          r->rest = malloc(r->left);
          CHECK(r->rest != NULL);
          memcpy(r->rest, f->bytes + whole, r->left);
          r->cursor = f->sequence;
        }
        return;
      }
      read += whole;
      r->cursor = f->sequence;
    }
    CHECK(read == bytes.len);
    place = next;
  }
}

static void model_leave(model_reader *r) {
  if (r->block != NULL) {
    CHECK(memcmp(r->block->bytes + r->offset, r->rest, r->left) == 0);
    free(r->rest);
    es_log_block_unref(r->block);
  }
  *r = (model_reader){0};
}

static void model_subscribe(log_model *model, model_reader *r) {
  model_leave(r);
  r->log = &model->logs[model->random(MODEL_LOGS)];
  uint64_t back = model->random(model->random(2) == 0 ? 8 : 600);
  r->cursor = back < model->sequence ? model->sequence - back : 0;
}

static void model_find(log_model *model, unsigned number) {
  char id[16];
  sprintf(id, "g%u", number);
  es_slice slice = {id, strlen(id)};
  const model_frame *oldest = model_oldest(model, id);
  CHECK(es_log_find(&model->ids, slice) == (oldest != NULL ? oldest->stands : 0));
  for (model_log *m = model->logs; m < model->logs + MODEL_LOGS; m++) {
    bool carries = false;
    for (size_t i = m->first; i < m->next && !carries; i++)
      carries = m->frames[i].given && strcmp(m->frames[i].id, id) == 0;
    CHECK(es_log_carries(&m->log, slice) == carries);
  }
}

static void model_evict_both(log_model *model, model_log *m, uint64_t offered) {
  es_log_evict(&m->log, model->now, offered);
  model_evict(model, m, offered);
}

/* Each bound by itself, so that each is the one that bites for a while. */
static void model_bound(log_model *model, es_log *log) {
  static const size_t counts[] = {700, 300, 100, 20, 5, 2, 1, 0};
  static const size_t bytes[] = {300000, 50000, 5000, 1000, 100, 0};
  static const uint64_t ages[] = {500, 100, 10, 1};
  log->max_count = counts[0];
  log->max_bytes = SIZE_MAX;
  log->max_age = 0;
  switch (model->random(4)) {
  case 0:
    log->max_count = counts[model->random(sizeof counts / sizeof *counts)];
    break;
  case 1:
    log->max_bytes = bytes[model->random(sizeof bytes / sizeof *bytes)];
    break;
  case 2:
    log->max_age = ages[model->random(sizeof ages / sizeof *ages)];
  }
}

static void log_model_init(log_model *model, unsigned (*random)(unsigned below)) {
  *model = (log_model){.random = random, .sequence = 5};
  for (model_log *m = model->logs; m < model->logs + MODEL_LOGS; m++) {
    m->log = (es_log){.max_count = 50, .max_bytes = 100000, .ids = &model->ids};
    m->log.last = m->log.gone = m->last = m->gone = 3; /* as after a channel that went away */
  }
}

static void log_model_step(log_model *model) {
  model_log *m = &model->logs[model->random(MODEL_LOGS)];
  model_reader *r = &model->readers[model->random(MODEL_READERS)];
  switch (model->random(16)) {
  case 0:
    model_subscribe(model, r);
    break;
  case 1:
    model_find(model, model->random(24));
    break;
  case 2:
    model->now += model->random(8);
    model_evict_both(model, m, model->sequence);
    break;
  case 3: { /* some of it was not offered to all */
    uint64_t back = model->random(20);
    model_evict_both(model, m, back < model->sequence ? model->sequence - back : 0);
    break;
  }
  case 4:
    if (model->random(32) == 0)
      model_bound(model, &m->log);
    break;
  case 5:
    if (model_count(m) > 0) {
      unsigned i = model->random((unsigned)model_count(m));
      model_compare_frame(es_log_at(&m->log, m->log.first + i), &m->frames[m->first + i]);
    }
    break;
  case 6:
    if (model->random(256) == 0) {
      es_log_clear(&m->log);
      while (model_count(m) > 0)
        model_evict_first(model, m);
    }
    break;
  case 7:
  case 8:
  case 9:
  case 10:
  case 11:
    model_publish(model, m);
    if (model_count(m) > MODEL_KEPT_MAX)
      model_bound(model, &m->log);
    if (model_count(m) > MODEL_KEPT_MAX || model->random(2) == 0)
      model_evict_both(model, m, model->sequence);
    break;
  default:
    if (r->log != NULL)
      model_read(model, r);
  }
  model_compare(m);
}

static void log_model_free(log_model *model) {
  for (model_reader *r = model->readers; r < model->readers + MODEL_READERS / 2; r++)
    model_leave(r);
  for (model_log *m = model->logs; m < model->logs + MODEL_LOGS; m++) {
    es_log_clear(&m->log);
    while (model_count(m) > 0)
      model_evict_first(model, m);
    model_compare(m);
    free(m->frames);
  }
  for (model_reader *r = model->readers; r < model->readers + MODEL_READERS; r++)
    model_leave(r); /* these outlive the logs */
  CHECK(model->ids.count == 0 && model->ids.buckets == NULL);
}

#endif
