#include "fuzz/stream_oracle.h"

fact *facts;
unsigned fact_count;
bool skips[CHANNELS];
unsigned step_now;

void *own(void *memory, size_t size) {
  size_t fails = memory_fails_next;
  memory_fails_next = 0;
  memory = realloc(memory, size);
  memory_fails_next = fails;
  if (memory == NULL)
    abort();
  return memory;
}

static char *copy(const char *text) {
  size_t size = strlen(text) + 1;
  return memcpy(own(NULL, size), text, size);
}

/* --- The list --- */

static void insert(expectation *e, unsigned at, item new_one) {
  if (e->count == e->room) {
    e->room = e->room * 2 + 16;
    e->items = own(e->items, e->room * sizeof *e->items);
  }
  memmove(e->items + at + 1, e->items + at, (e->count - at) * sizeof *e->items);
  e->items[at] = new_one;
  e->count++;
}

static void drop(expectation *e, unsigned at) {
  e->count--;
  memmove(e->items + at, e->items + at + 1, (e->count - at) * sizeof *e->items);
}

static const fact *fact_of(const item *i) {
  return &facts[i->fact];
}

/* Where the group under way opens; e->count if it does not. */
static unsigned opening(const expectation *e) {
  unsigned at = e->at;
  while (at < e->count && !(e->items[at].kind == ITEM_OPENING && e->items[at].group == e->open))
    at++;
  return at;
}

/* Puts a frame behind an opening, where its sequence belongs. */
static void insert_frame(expectation *e, unsigned from, item new_one) {
  unsigned at = from + 1;
  while (at < e->count && (e->items[at].kind == ITEM_FRAME || e->items[at].kind == ITEM_SENT)) {
    const item *i = &e->items[at];
    if ((i->kind == ITEM_FRAME ? fact_of(i)->sequence : i->sequence) >= fact_of(&new_one)->sequence)
      break;
    at++;
  }
  insert(e, at, new_one);
}

void expect_text(expectation *e, const char *text, item_kind kind) {
  uint64_t sequence = fact_count > 0 ? facts[fact_count - 1].sequence : 0;
  insert(e, e->count, (item){.kind = kind, .sequence = sequence, .text = copy(text)});
  e->sent = true;
}

/* --- Groups --- */

void expect_group(expectation *e) {
  if (e->open == 0) {
    e->open = ++e->group;
    e->sent = false;
    insert(e, e->count, (item){.kind = ITEM_OPENING, .group = e->open});
    return;
  }
  if (!e->sent)
    return;
  for (const member *m = e->members; m < e->members + e->member_count; m++) {
    if (m->group == e->open && m->heard && !m->cut)
      return; /* its frames must not be overtaken by what is sent behind them */
  }
  unsigned from = opening(e);
  /* what was sent goes before the group, which begins with its last member */
  item moved = e->items[from];
  drop(e, from);
  unsigned end = e->count;
  insert(e, end, moved);
  for (unsigned at = from; at < end;) {
    item i = e->items[at];
    if (i.kind == ITEM_FRAME && e->members[i.member].group == e->open) {
      drop(e, at);
      insert_frame(e, --end, i);
    } else {
      at++;
    }
  }
}

static bool is_for(const fact *f, uint32_t serial) {
  return f->except == 0 || f->except != serial;
}

void expect_member(expectation *e, unsigned channel, uint64_t position, bool gap, uint32_t serial) {
  if (e->member_count == e->member_room) {
    e->member_room = e->member_room * 2 + 8;
    e->members = own(e->members, e->member_room * sizeof *e->members);
  }
  unsigned number = e->member_count++, from = opening(e);
  CHECK(from < e->count);
  e->members[number] = (member){.channel = channel, .group = e->open, .position = position, .active = true, .gap = gap};
  for (unsigned i = 0; i < fact_count; i++) {
    const fact *f = &facts[i];
    if (f->channel == channel && !f->nameless && f->sequence > position)
      insert_frame(e, from, (item){.kind = ITEM_FRAME, .member = number, .fact = i, .either = !is_for(f, serial)});
  }
}

member *expect_active(const expectation *e, unsigned channel) {
  for (unsigned i = 0; i < e->member_count; i++) {
    if (e->members[i].channel == channel && e->members[i].active)
      return &e->members[i];
  }
  return NULL;
}

void expect_header(expectation *e, uint64_t epoch) {
  unsigned at = opening(e);
  uint64_t low = UINT64_MAX;
  char text[TEXT_MAX];
  bool any = false;
  CHECK(at < e->count);
  drop(e, at);
  for (unsigned i = 0; i < e->member_count; i++) {
    const member *m = &e->members[i];
    if (m->group != e->open)
      continue;
    low = m->position < low ? m->position : low;
    any = any || !m->cut;
    if (!m->gap || m->cut)
      continue;
    snprintf(text, sizeof text, "event: gap\ndata: %c\n\n", 'a' + (int)m->channel);
    insert(e, at++, (item){.kind = ITEM_GAP, .group = e->open, .member = i, .text = copy(text)});
  }
  if (any) {
    snprintf(text, sizeof text, "id: %016llx-%llu\n\n", (unsigned long long)epoch, (unsigned long long)low);
    insert(e, at, (item){.kind = ITEM_ID, .group = e->open, .text = copy(text)});
  }
  e->open = 0;
}

void expect_fact(expectation *e, unsigned number, uint32_t serial) {
  const fact *f = &facts[number];
  member *m = expect_active(e, f->channel);
  if (m != NULL)
    m->heard = true;
  if (m == NULL || (!is_for(f, serial) && f->instead == NULL))
    return;
  insert(e, e->count, (item){.kind = ITEM_FRAME, .member = (unsigned)(m - e->members), .fact = number});
  if (!is_for(f, serial))
    e->items[e->count - 1].text = copy(f->instead);
}

void expect_leave(expectation *e, member *m, bool cut) {
  m->active = false;
  m->cut = m->cut || cut;
  e->told[m->channel]++;
  if (!cut || m->group != e->open)
    return;
  for (unsigned k = e->at; k < e->count;) { /* its group was not reached: none of it comes */
    if (e->items[k].kind == ITEM_FRAME && e->items[k].member == (unsigned)(m - e->members)) {
      free(e->items[k].text);
      drop(e, k);
    } else {
      k++;
    }
  }
}

/* --- What came --- */

/* May it be missing? */
static bool is_optional(const expectation *e, const item *i, unsigned refused) {
  if (i->kind == ITEM_GAP)
    return i->prepaid;
  if (i->kind == ITEM_OPENING) { /* nothing waits for a group without members */
    const member *m = e->members;
    while (m < e->members + e->member_count && (m->group != i->group || m->cut))
      m++;
    return m == e->members + e->member_count;
  }
  if (i->kind != ITEM_FRAME)
    return false;
  const member *m = &e->members[i->member];
  return m->gapped || m->cut || (fact_of(i)->nameless && refused >= fact_of(i)->step);
}

static bool is_text_of(const item *i, const char *text) {
  if (i->kind == ITEM_OPENING || i->prepaid)
    return false;
  if (i->kind != ITEM_FRAME)
    return strcmp(i->text, text) == 0;
  const fact *f = fact_of(i);
  if (i->text != NULL)
    return strcmp(i->text, text) == 0;
  return strcmp(f->text, text) == 0 || (i->either && f->instead != NULL && strcmp(f->instead, text) == 0);
}

static void fail(const expectation *e, const char *text) {
  for (unsigned i = 0; i < e->member_count; i++) {
    const member *m = &e->members[i];
    fprintf(stderr, "member %u: channel %c, group %u, from %llu%s%s%s%s%s\n", i, 'a' + (int)m->channel, m->group,
            (unsigned long long)m->position, m->active ? ", active" : "", m->gap ? ", gap" : "", m->cut ? ", cut" : "",
            m->dead ? ", dead" : "", m->gapped ? ", gapped" : "");
  }
  fprintf(stderr, "received:\n%s", text);
  for (unsigned k = e->at; k < e->count && k < e->at + 8; k++) {
    const item *i = &e->items[k];
    fprintf(stderr, "expected (kind %d, member %u, group %u):\n%s", (int)i->kind, i->member, i->group,
            i->text != NULL         ? i->text
            : i->kind == ITEM_FRAME ? fact_of(i)->text
                                    : "\n");
  }
  abort();
}

/* Takes the item at k, which came: those before it did not. */
static void take(expectation *e, unsigned k, const char *text) {
  while (e->at < k) {
    const item *i = &e->items[e->at];
    if (i->kind == ITEM_OPENING) { /* it may get members yet */
      item opening_item = *i;
      drop(e, e->at);
      insert(e, k--, opening_item);
      continue;
    }
    e->at++;
    if (i->kind != ITEM_FRAME || fact_of(i)->nameless)
      continue;
    member *m = &e->members[i->member];
    m->dead = m->dead || !m->gapped; /* it is cut */
  }
  const item *i = &e->items[e->at++];
  if (i->kind == ITEM_FRAME) {
    member *m = &e->members[i->member];
    if (m->dead)
      fail(e, text);
    m->gapped = false;
  }
  if (i->kind == ITEM_END)
    e->ended = true;
}

/* A slow reader is told a gap. */
static bool is_gap(const char *text, unsigned *channel) {
  static const char start[] = "event: gap\ndata: ";
  if (strncmp(text, start, sizeof start - 1) != 0)
    return false;
  *channel = (unsigned)(text[sizeof start - 1] - 'a');
  return *channel < CHANNELS;
}

void receive(expectation *e, const char *text, unsigned refused) {
  unsigned k = e->at, channel;
  if (strcmp(text, HEARTBEAT) == 0 && !(k < e->count && is_text_of(&e->items[k], text)))
    return;
  while (k < e->count && !is_text_of(&e->items[k], text) && is_optional(e, &e->items[k], refused))
    k++;
  bool found = k < e->count && is_text_of(&e->items[k], text);
  if (is_gap(text, &channel) && skips[channel] && !(found && k == e->at)) {
    if (found)
      e->items[k].prepaid = true; /* this one, or one that a slow reader was told */
    for (unsigned i = 0; i < e->member_count; i++)
      e->members[i].gapped = e->members[i].gapped || e->members[i].channel == channel;
    return;
  }
  if (!found)
    fail(e, text);
  take(e, k, text);
}

void expect_nothing(expectation *e, unsigned refused) {
  for (unsigned k = e->at; k < e->count; k++) {
    if (!is_optional(e, &e->items[k], refused))
      fail(e, "(nothing)\n");
  }
}

void expect_free(expectation *e) {
  for (unsigned k = 0; k < e->count; k++)
    free(e->items[k].text);
  free(e->items);
  free(e->members);
  *e = (expectation){0};
}

void facts_free(void) {
  for (unsigned i = 0; i < fact_count; i++) {
    free(facts[i].text);
    free(facts[i].instead);
  }
  free(facts);
  facts = NULL;
  fact_count = 0;
}
