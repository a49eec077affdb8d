#include "core/reader.h"

#include "core/text.h"

#include <stdlib.h>
#include <string.h>

#define KEPT_BYTES 16384 /* of a buffer that is kept for the next event */
#define NAME_MAX_LEN 5   /* of the longest field */

typedef struct text {
  char *ptr;
  size_t len, size;
} text;

typedef enum field_kind { IGNORED, DATA, TYPE, ID, RETRY } field_kind;

typedef enum stage {
  AT_START, /* of the stream, where a byte order mark may stand */
  IN_NAME,  /* in a field's name, or before it */
  AT_SPACE, /* behind the colon, where one space is dropped */
  IN_VALUE
} stage;

struct es_reader {
  size_t event_bytes;
  stage place;
  field_kind field;
  uint8_t mark; /* bytes of a byte order mark that have come */
  bool after_cr;
  char name[NAME_MAX_LEN];
  uint8_t name_len;
  bool any;        /* a byte of the line has come */
  bool has_data;   /* a data field, maybe empty */
  bool has_id;     /* block_id is this event's */
  bool fine;       /* nothing has come yet that spoils the id or retry of this line */
  bool over;       /* the event was handed out: the next byte begins another */
  es_read failure; /* ES_READ_MORE: none */
  uint64_t number;
  uint32_t retry;
  text data, type, line_id, block_id, last_id;
};

es_reader *es_reader_new(size_t event_bytes) {
  es_reader *r = calloc(1, sizeof *r);
  if (r != NULL)
    r->event_bytes = event_bytes;
  return r;
}

void es_reader_free(es_reader *r) {
  if (r == NULL)
    return;
  free(r->data.ptr);
  free(r->type.ptr);
  free(r->line_id.ptr);
  free(r->block_id.ptr);
  free(r->last_id.ptr);
  free(r);
}

static void clear(text *t) {
  t->len = 0;
  if (t->size > KEPT_BYTES) {
    free(t->ptr);
    *t = (text){NULL, 0, 0};
  }
}

static void swap(text *a, text *b) {
  text was = *a;
  *a = *b;
  *b = was;
}

static void begin_event(es_reader *r) {
  clear(&r->data);
  clear(&r->type);
  r->has_data = r->has_id = r->over = false;
}

void es_reader_reset(es_reader *r) {
  begin_event(r);
  clear(&r->line_id);
  clear(&r->block_id);
  r->place = AT_START;
  r->mark = 0;
  r->after_cr = r->any = false;
  r->name_len = 0;
  r->failure = ES_READ_MORE;
}

static bool fail(es_reader *r, es_read failure) {
  r->failure = failure;
  begin_event(r);
  return false;
}

static bool reserve(es_reader *r, text *t, size_t len) {
  if (len <= t->size - t->len)
    return true;
  size_t size = t->size > 0 ? t->size : 256;
  while (size - t->len < len)
    size *= 2;
  char *ptr = realloc(t->ptr, size);
  if (ptr == NULL)
    return fail(r, ES_READ_MEMORY);
  t->ptr = ptr;
  t->size = size;
  return true;
}

static bool add(es_reader *r, text *t, const char *bytes, size_t len) {
  if (len > r->event_bytes - (r->data.len + r->type.len + r->line_id.len))
    return fail(r, ES_READ_LARGE);
  if (!reserve(r, t, len))
    return false;
  if (len > 0)
    memcpy(t->ptr + t->len, bytes, len);
  t->len += len;
  return true;
}

/* Replaces what is no UTF-8. */
static bool repair(es_reader *r, text *t) {
  es_slice old = {t->ptr, t->len};
  if (es_is_utf8(old))
    return true;
  text new = {0};
  if (!reserve(r, &new, es_utf8_repair(old, NULL)))
    return false;
  new.len = es_utf8_repair(old, new.ptr);
  free(t->ptr);
  *t = new;
  return true;
}

static field_kind field_of(const es_reader *r) {
  static const struct {
    const char *name;
    uint8_t len;
    field_kind field;
  } fields[] = {{"data", 4, DATA}, {"event", 5, TYPE}, {"id", 2, ID}, {"retry", 5, RETRY}};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (fields[i].len == r->name_len && memcmp(fields[i].name, r->name, r->name_len) == 0)
      return fields[i].field;
  }
  return IGNORED;
}

/* The field's name is complete. */
static bool begin_value(es_reader *r, field_kind field) {
  r->place = AT_SPACE;
  r->field = field;
  r->fine = true;
  switch (field) {
  case DATA:
    if (r->has_data && !add(r, &r->data, "\n", 1))
      return false;
    r->has_data = true;
    break;
  case TYPE:
    r->type.len = 0;
    break;
  case ID:
    r->line_id.len = 0;
    break;
  case RETRY:
    r->number = 0;
    r->fine = false; /* until a digit comes */
    break;
  case IGNORED:
    break;
  }
  return true;
}

static bool add_value(es_reader *r, const char *bytes, size_t len) {
  switch (r->field) {
  case DATA:
    return add(r, &r->data, bytes, len);
  case TYPE:
    return add(r, &r->type, bytes, len);
  case ID: {
    const char *nul = memchr(bytes, '\0', len);
    if (r->fine && !add(r, &r->line_id, bytes, nul != NULL ? (size_t)(nul - bytes) : len))
      return false;
    r->fine = r->fine && nul == NULL;
    return true;
  }
  case RETRY:
    if (r->number == 0 && !r->fine)
      r->fine = len > 0; /* the first byte */
    for (size_t i = 0; i < len && r->fine; i++) {
      r->fine = bytes[i] >= '0' && bytes[i] <= '9';
      r->number = r->number * 10 + (uint64_t)(bytes[i] - '0');
      if (r->number > ES_RETRY_MAX)
        r->number = ES_RETRY_MAX;
    }
    if (!r->fine)
      r->field = IGNORED;
    return true;
  case IGNORED:
    return true;
  }
  return true;
}

/* An empty line: the event is complete. What is handed out is cleared with the next byte. */
static es_read dispatch(es_reader *r) {
  if (r->has_id) {
    swap(&r->last_id, &r->block_id);
    r->has_id = false;
  }
  if (!r->has_data) {
    begin_event(r);
    return ES_READ_MORE;
  }
  if (!repair(r, &r->data) || !repair(r, &r->type))
    return r->failure;
  r->over = true;
  return ES_READ_EVENT;
}

static es_read end_line(es_reader *r) {
  bool any = r->any;
  if (any && r->place == IN_NAME && !begin_value(r, field_of(r)))
    return r->failure;
  r->place = IN_NAME;
  r->name_len = 0;
  r->any = false;
  if (!any)
    return dispatch(r);
  if (r->field == ID && r->fine) {
    if (!repair(r, &r->line_id))
      return r->failure;
    swap(&r->block_id, &r->line_id);
    r->has_id = true;
  }
  r->line_id.len = 0;
  if (r->field == RETRY && r->fine) {
    r->retry = (uint32_t)r->number;
    return ES_READ_RETRY;
  }
  return ES_READ_MORE;
}

/* Takes a byte of a byte order mark; false: it belongs to the first line, which cannot be a field any more where bytes of
 * a mark precede it. */
static bool take_mark(es_reader *r, char c) {
  static const char mark[] = "\xEF\xBB\xBF";
  if (c == mark[r->mark]) {
    if (++r->mark == 3)
      r->place = IN_NAME;
    return true;
  }
  r->place = IN_NAME;
  if (r->mark > 0) {
    r->any = true;
    r->field = IGNORED;
    r->place = IN_VALUE;
  }
  return false;
}

/* Takes a byte of a field's name. */
static bool take_name(es_reader *r, char c) {
  r->any = true;
  if (c == ':')
    return begin_value(r, field_of(r));
  if (r->name_len < NAME_MAX_LEN) {
    r->name[r->name_len++] = c;
    return true;
  }
  r->field = IGNORED;
  r->place = IN_VALUE;
  return true;
}

static const char *find_end(const char *at, const char *end) {
  const char *lf = memchr(at, '\n', (size_t)(end - at));
  if (lf != NULL)
    end = lf;
  const char *cr = memchr(at, '\r', (size_t)(end - at));
  return cr != NULL ? cr : end;
}

es_read es_reader_feed(es_reader *r, const char *bytes, size_t size, size_t *taken) {
  const char *at = bytes, *end = bytes + size;
  es_read result = r->failure;
  if (result != ES_READ_MORE) {
    *taken = size;
    return result;
  }
  if (r->over)
    begin_event(r);
  while (at < end && result == ES_READ_MORE) {
    char c = *at;
    if (r->after_cr && c == '\n') { /* the other half of the line's end */
      r->after_cr = false;
      at++;
      continue;
    }
    r->after_cr = false;
    if (r->place == AT_START && take_mark(r, c)) {
      at++;
      continue;
    }
    if (c == '\n' || c == '\r') {
      r->after_cr = c == '\r';
      at++;
      result = end_line(r);
      continue;
    }
    if (r->place == IN_NAME) {
      at++;
      if (!take_name(r, c))
        result = r->failure;
      continue;
    }
    if (r->place == AT_SPACE) {
      r->place = IN_VALUE;
      if (c == ' ') {
        at++;
        continue;
      }
    }
    const char *stop = find_end(at, end);
    if (!add_value(r, at, (size_t)(stop - at)))
      result = r->failure;
    at = stop;
  }
  *taken = (size_t)(at - bytes);
  return result;
}

es_read_event es_reader_event(const es_reader *r) {
  es_read_event event = {.type = {"message", 7}, .data = {r->data.ptr, r->data.len}};
  if (r->type.len > 0)
    event.type = (es_slice){r->type.ptr, r->type.len};
  event.id = es_reader_last_id(r);
  return event;
}

uint32_t es_reader_retry(const es_reader *r) {
  return r->retry;
}

es_slice es_reader_last_id(const es_reader *r) {
  return (es_slice){r->last_id.ptr, r->last_id.len};
}

int es_reader_set_last_id(es_reader *r, es_slice id) {
  char *ptr = malloc(id.len + 1);
  if (ptr == NULL)
    return -1;
  if (id.len > 0)
    memcpy(ptr, id.ptr, id.len);
  free(r->last_id.ptr);
  r->last_id.ptr = ptr;
  r->last_id.len = id.len;
  r->last_id.size = id.len + 1;
  return 0;
}
