/* stream_oracle: what each client must receive, told by the order of the calls alone.
 *
 * A stream's expected events stand in a list: what is sent at its end; what is published at the end of each subscriber's;
 * a group of subscriptions as its header (gap events and one block with an id), behind which the replays are put in the
 * order of their sequences. What a client receives must be that list from its front on. Left out may be only
 * - frames of a channel behind a gap event that a slow reader was told, up to the next one that comes,
 * - frames of a subscription that the script ended, once one of them is missing,
 * - frames without an id, where the socket had refused bytes since.
 * Where memory was made to fail, only the framing is checked. */
#ifndef ES_FUZZ_STREAM_ORACLE_H
#define ES_FUZZ_STREAM_ORACLE_H

#include "net/server.h"
#include "test/check.h"
#include "test/memory.h"

#include <stdbool.h>

#define CHANNELS 4
#define CLIENTS 6
#define TEXT_MAX 1024 /* of an event, at most */
#define HEARTBEAT ": \n\n"

/* What was published. */
typedef struct fact {
  uint64_t sequence;
  unsigned channel;
  bool nameless;   /* has no id */
  char given[8];   /* its id, where the script gave it */
  uint32_t except; /* the serial of the stream that it is not for; 0: none */
  unsigned step;   /* when */
  char *text;      /* as an event */
  char *instead;   /* what the spared one gets of it; NULL: nothing */
} fact;

/* One subscription of one client. */
typedef struct member {
  unsigned channel, group;
  uint64_t position; /* where it starts */
  bool active;       /* gets what is published */
  bool heard;        /* something was, since it was made */
  bool gap;          /* which its group's header tells */
  bool cut;          /* ended by the script: nothing more need come */
  bool dead;         /* something of it is missing: nothing more may come */
  bool gapped;       /* a gap was told: something may be missing */
} member;

typedef enum item_kind { ITEM_FRAME, ITEM_SENT, ITEM_GAP, ITEM_ID, ITEM_OPENING, ITEM_END } item_kind;

typedef struct item {
  item_kind kind;
  unsigned member; /* of a frame */
  unsigned group;  /* of a gap, an id, or an opening: the header of a group that is still being made */
  unsigned fact;
  uint64_t sequence; /* of a text: it follows all that was published up to it */
  bool either;       /* the spared one may get it whole: it subscribed anew */
  bool prepaid;      /* a gap that may have been told already */
  char *text;        /* of what is not a frame */
} item;

typedef struct expectation {
  item *items;
  unsigned count, room, at;
  member *members;
  unsigned member_count, member_room;
  unsigned group;          /* how many there were */
  unsigned open;           /* the group that is being made; 0: none */
  bool sent;               /* something was, since it was opened */
  unsigned told[CHANNELS]; /* ends of subscriptions of which on_gone or on_end must tell */
  bool ended;              /* its last chunk was seen */
} expectation;

extern fact *facts;
extern unsigned fact_count;
extern bool skips[CHANNELS]; /* the channel's option was, at some time */
extern unsigned step_now;

/* Memory of the oracle's own, which never fails. */
void *own(void *memory, size_t size);

/* A group's header must have that place, until its group is complete. */
void expect_group(expectation *e);

/* A subscription was made, at a position; serial: of its stream. */
void expect_member(expectation *e, unsigned channel, uint64_t position, bool gap, uint32_t serial);
member *expect_active(const expectation *e, unsigned channel);

/* The group is complete. */
void expect_header(expectation *e, uint64_t epoch);

/* A fact is for all its channel's subscribers. */
void expect_fact(expectation *e, unsigned fact, uint32_t serial);

/* Bytes of the stream's own: behind all that there is. */
void expect_text(expectation *e, const char *text, item_kind kind);

/* The subscription ends; cut: at once, and not with what was published before. */
void expect_leave(expectation *e, member *m, bool cut);

/* An event came; refused: the last step at which the socket was full (0: never). */
void receive(expectation *e, const char *text, unsigned refused);

/* All is delivered: nothing that must come is left. */
void expect_nothing(expectation *e, unsigned refused);

void expect_free(expectation *e);
void facts_free(void);

#endif
