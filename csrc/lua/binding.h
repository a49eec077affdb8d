/* binding: what the files of this folder share.
 *
 * One es_state belongs to a Lua state: it owns the loop and a Lua thread of its own on which all callbacks start, so
 * that no caller's coroutine is ever kept. Lua meets an app, a stream, an interval and a listener as userdata that hold
 * a pointer; the C object knows its box and the other way round, and whichever goes first clears the other's pointer.
 *
 * Who owns what: the app owns its server, its intervals and its streams; a stream owns its handler's task, its
 * intervals and its Lua references. A stream's memory is counted: one for the running exchange, one for the userdata,
 * one for the task. Dropping userdata ends nothing: what runs is anchored here, in the registry.
 *
 * Functions: l_... is a lua_CFunction; es_push_... pushes; es_check_... raises. Errors of scripts end at es_call and
 * es_task_resume, the only two doors into Lua. What is done beside these on state->L may raise, too, where memory is out,
 * and nobody is below who could catch it: it stands within es_protect. */
#ifndef ES_LUA_BINDING_H
#define ES_LUA_BINDING_H

#include "core/frame.h"
#include "lua/compat.h"
#include "net/exchange.h"
#include "net/hosted.h"
#include "net/intake.h"
#include "net/loop.h"
#include "net/server.h"
#include "net/subscription.h"
#include "net/timer.h"

typedef struct es_task es_task;
typedef struct es_stream es_stream;
typedef struct es_interval es_interval;
typedef struct es_watchdog es_watchdog;

typedef struct es_state {
  es_loop loop;
  lua_State *L;                     /* callbacks start here */
  int thread_ref;                   /* anchors L */
  int hooks_ref;                    /* functions from the Lua side: json, suggest */
  int protect_ref;                  /* a function that es_protect need not make */
  int closed_ref;                   /* "closed", for coroutines on which nothing may be allocated */
  int reasons_ref;                  /* why streams end, by es_reason: clean-ups want no memory */
  es_task *running;                 /* whose coroutine runs now */
  uint64_t calls;                   /* into Lua */
  es_watchdog *watchdog;            /* or NULL */
  int on_wake_ref;                  /* of another server that drives the loop by ticks */
  int (*post)(void *waiter, int n); /* its semaphores' */
  int (*count)(void *waiter);       /* below 0: somebody waits */
  uv_signal_t signals[2];
  int on_signal_ref;
  bool has_signals, open;
} es_state;

typedef struct es_app {
  uint32_t refs; /* counted: by its userdata and by each stream */
  es_state *state;
  es_server *server; /* NULL once closed */
  bool relayed;      /* its events go to a backplane first, which delivers them */
  bool logs;         /* its Lua side is told of each answer */
  bool missed;       /* for want of memory its Lua side was not told of a subscription's end */
  int self_ref;      /* anchors the userdata, and so its table of hooks, from its first use until it is closed */
  es_stream *streams;
  es_interval *intervals;
} es_app;

/* What an event touches stands first. */
struct es_stream {
  es_exchange *exchange;
  es_app *app;   /* NULL once its app is gone, which is only while Lua closes */
  es_task *task; /* the handler, until it returns */
  uint32_t refs;
  bool is_stream : 1; /* else an ordinary request */
  bool held : 1;      /* hold() was called */
  bool used : 1;      /* something was sent */
  bool ended : 1;     /* on_end has come */
  bool over : 1;      /* and is through */
  bool running : 1;   /* hosted: its handler has not returned */
  bool rung : 1;      /* hosted: the time of an interval has come */
  es_interval *intervals;
  es_stream *prev, *next; /* the app's */
  es_job late_job;        /* on_close that came late; whether anything still feeds it */
  int on_close_ref;       /* a list of functions */
  int data_ref;           /* stream.data */
  int request_ref;        /* a request that a script has written to */
  int lines_ref;          /* header lines, until the head is sent */
  es_connection *hosted;  /* where another server hosts it, until its handle goes */
};

/* --- state.c --- */

/* The state of this Lua, made by the module's loader. */
es_state *es_state_of(lua_State *L);

/* A table of the registry whose values are weak: key -> userdata. */
void es_push_objects(lua_State *L);

/* Runs a function of ours that uses state->L. False when Lua's memory was out, which ended it there; what it had pushed is
 * gone then. */
bool es_protect(es_state *state, void (*run)(void *argument), void *argument);

/* Calls the function below its arguments on state->L, leaving results, or nothing and false after an error, which was
 * reported to the app's on_error; without an app, to stderr. stream may be NULL. */
bool es_call(es_state *state, es_app *app, es_stream *stream, int arguments, int results);

/* Reports an error to on_error: takes message and traceback off state->L. May raise, as es_call may. */
void es_report(es_state *state, es_app *app, es_stream *stream);

/* Pushes a function of the app's hooks (NULL: of the state's), or of the state's. */
void es_push_hook(lua_State *L, es_app *app, const char *name);
void es_push_state_hook(lua_State *L, es_state *state, const char *name);

void es_unref(lua_State *L, int *ref);

/* Raises an error without a position: the Lua side adds the script's. */
int es_fail(lua_State *L, const char *format, ...);

/* Like luaL_checkudata; where it is a method's self that is missing, the message says what to write. */
void *es_check_self(lua_State *L, int index, const char *class, const char *noun);

/* Replaces the error object on the top by a text, whatever it is and whatever its __tostring does. */
void es_error_text(lua_State *L);

/* Seconds as an argument: finite, not negative (or above 0), at most 10 years. */
double es_check_seconds(lua_State *L, int index, const char *who, bool positive);

/* --- watchdog.c --- */

/* The call around another one. */
typedef struct es_watched {
  lua_State *L;
  es_stream *stream;
} es_watched;

/* From now on a call that takes so many seconds is told of. */
void es_watchdog_set(es_state *state, double seconds);
void es_watchdog_stop(es_state *state);

/* Around each call of a script, on L, for a stream or NULL. */
void es_watch_begin(es_state *state, lua_State *L, es_stream *stream, es_watched *outer);
void es_watch_end(es_state *state, const es_watched *outer);

/* --- loop.c --- */

/* Each es_open_... adds to the module's table, which is on the top. */
void es_open_loop(lua_State *L);

/* --- event.c --- */

#define ES_NUMBER_TEXT 40

typedef struct es_event_arg {
  es_event event;
  char data[ES_NUMBER_TEXT], id[ES_NUMBER_TEXT]; /* numbers as text */
  bool no_id;                                    /* id = false */
} es_event_arg;

/* Fills arg from the event at index, or raises. Strings are borrowed from the stack, where one may be pushed. */
void es_check_event(lua_State *L, int index, const char *who, es_event_arg *arg);
int l_encode(lua_State *L);
int l_id_text(lua_State *L);

/* --- task.c --- */

/* Starts a handler: the function and its arguments are moved off state->L. May raise, before the handler runs: then
 * stream->task, where there is one, is to be dropped. */
void es_task_start(es_stream *stream, int arguments);

/* The stream is over: a waiting handler is resumed with nil, "closed". */
void es_task_stream_ended(es_task *task);

/* There is room for the event that the handler waits to send. */
void es_task_room(es_task *task);

/* Whether L is the coroutine of the handler; only then may the next three be called, by a lua_CFunction that returns
 * what they return. */
bool es_task_is(const es_task *task, const lua_State *L);
int es_task_sleep(es_task *task, lua_State *L, double seconds);
int es_task_send(es_task *task, lua_State *L, const es_event *event);

/* The stream is over already: nil, "closed" the first time; after that the handler ends here. */
int es_task_dead(es_task *task, lua_State *L);
int l_await(lua_State *L);

/* Lets go of a handler without running it: Lua is closing. */
void es_task_drop(es_task *task);

/* --- stream.c --- */

es_stream *es_stream_new(es_app *app, es_exchange *exchange);
void es_stream_unref(es_stream *stream);

/* Makes sure that the head is sent; false when memory is out (the stream is over then). */
bool es_stream_open(es_stream *stream);

/* The handler returned. */
void es_stream_handler_done(es_stream *stream);

/* A script's error, already reported, costs this stream. */
void es_stream_failed(es_stream *stream);

/* The exchange is over: tells the script. Where it is hosted, its holder does, until es_stream_over. */
void es_stream_ended(es_stream *stream);
void es_stream_over(es_stream *stream);

/* Subscriptions are over: tells the script. */
void es_stream_gone(es_stream *stream);

/* Lets go of it without telling: Lua is closing. */
void es_stream_drop(es_stream *stream);

/* Asks at the turn's end whether anything still feeds it. */
void es_stream_check_fed(es_stream *stream);

/* An on_close function was added after the end: calls it at the turn's end. */
void es_stream_call_late(es_stream *stream);

/* --- stream_class.c --- */

/* Pushes the one userdata of that class that stands for the stream, which counts it; true when it had to be made. */
bool es_push_box(lua_State *L, es_stream *stream, const void *key, const char *class_name);
int l_box_gc(lua_State *L);
void es_push_stream(lua_State *L, es_stream *stream);

/* Pushes why a stream ended, as scripts know it; allocates nothing. */
void es_push_reason(lua_State *L, const es_stream *stream);
es_stream *es_check_stream(lua_State *L, int index);
es_stream *es_test_stream(lua_State *L, int index); /* or NULL */

/* Pushes room for so many streams; pushes a list of those that were put there. In between nothing may be allocated: a
 * finalizer of the script's could end streams. */
es_stream **es_new_list(lua_State *L, size_t count);
void es_push_list(lua_State *L, es_stream **list, size_t count);
void es_open_stream_class(lua_State *L);

/* --- channel.c --- */

es_channel *es_check_channel(lua_State *L, int index);
es_channel *es_test_channel(lua_State *L, int index); /* or NULL */
void es_push_channel(lua_State *L, es_channel *channel);
void es_open_channel_class(lua_State *L);

/* --- request.c --- */

void es_push_request(lua_State *L, es_stream *stream);
void es_open_request_class(lua_State *L);

/* --- interval.c --- */

/* Makes an interval of app (or stream) from the arguments 2 (seconds) and 3 (function), and pushes its userdata. */
int es_new_interval(lua_State *L, es_app *app, es_stream *stream, bool repeats, const char *who);
void es_interval_free(es_interval *interval);
void es_interval_free_all(es_app *app, bool repeating); /* the app's own; only those that repeat */

/* Pushes the function of a hosted stream's interval whose time has come; false when there is none. */
bool es_interval_push_rung(lua_State *L, es_stream *stream);
void es_open_interval_class(lua_State *L);

/* --- listener.c --- */

/* Pushes a listener's userdata, to be filled with a reference. */
es_listener **es_new_listener(lua_State *L);
void es_open_listener_class(lua_State *L);

/* --- file.c --- */

/* Answers with what lies from an index on: status, header lines, and a text or a file as the body. */
void es_stream_answer(lua_State *L, int index, es_stream *stream);
void es_open_file_class(lua_State *L);

/* --- hosted.c --- */

int l_host(lua_State *L);

/* A hosted connection's request has become a stream. */
void es_hosted_begins(es_stream *stream);
void es_open_hosted_class(lua_State *L);

/* --- handover.c --- */

void es_open_handover(lua_State *L);

/* --- pair.c --- */

void es_open_pair_class(lua_State *L);

/* --- source.c --- */

void es_open_source_class(lua_State *L);

/* --- app.c --- */

es_app *es_check_app(lua_State *L, int index);

/* The app stays until it is closed, whoever holds its userdata, which is the first argument. */
void es_app_anchor(lua_State *L, es_app *app);

/* Asks the Lua side what to do with a request: true, and a function with two arguments on state->L, which is to be
 * called; or false: it is answered. */
bool es_app_route(es_stream *stream);

void es_app_unref(es_app *app); /* NULL is allowed */

/* Lets an app go that has nothing left to do. */
void es_app_rest(es_app *app);
void es_open_app_class(lua_State *L);

#endif
