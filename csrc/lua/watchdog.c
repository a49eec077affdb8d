/* watchdog: notices a callback that runs for too long, and so holds up all the others, and tells where it is.
 *
 * A thread of its own looks at the clock, only while something is called. When a call has taken too long it sends the
 * loop's thread a signal, whose handler sets a Lua hook (which is all that a handler may do), and the hook, at the next
 * instruction of the script, tells the stack. Where no instruction comes, because the script is within a C function, in
 * compiled code or in a coroutine of its own, the thread says at least that. The thread touches no Lua state. */
#include "lua/binding.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define SIGNAL SIGURG /* its default action is none, so that one that comes late does no harm */

struct es_watchdog {
  es_state *state;
  pthread_t watched; /* the thread that calls */
  uv_thread_t thread;
  uv_mutex_t mutex;
  uv_cond_t changed;
  bool ends;          /* by the mutex */
  bool has_signal;    /* the signal's action is ours */
  atomic_bool parked; /* the thread waits until something is called */
  _Atomic uint64_t limit_ns;
  _Atomic uint64_t since; /* when the call began; 0: none runs */
  atomic_bool told;
  /* of the call, on the loop's thread */
  lua_State *L;
  es_stream *stream;
  /* a script's own hook, while ours is set */
  lua_Hook hook;
  int hook_mask, hook_count;
};

static es_watchdog *guarded; /* whom the signal is for */

static void tell(lua_State *L, es_watchdog *w) {
  const es_request *request = w->stream != NULL ? w->stream->exchange->request : NULL;
  double seconds = (double)(uv_hrtime() - atomic_load(&w->since)) / 1e9;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 8))
    return;
  es_push_state_hook(L, w->state, "blocked");
  lua_pushnumber(L, seconds);
  if (request != NULL) {
    lua_pushlstring(L, request->method.ptr, request->method.len);
    lua_pushliteral(L, " ");
    lua_pushlstring(L, request->path.ptr, request->path.len);
    lua_concat(L, 3);
  } else {
    lua_pushnil(L);
  }
  es_traceback(L, L, 0);
  lua_call(L, 3, 0);
  lua_settop(L, top);
}

/* The next instruction of the script. An error, of memory, is the script's. */
static void on_hook(lua_State *L, lua_Debug *where) {
  es_watchdog *w = guarded;
  (void)where;
  if (w == NULL) {
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  lua_sethook(L, w->hook, w->hook_mask, w->hook_count);
  if (L != w->L || atomic_load(&w->since) == 0 || atomic_exchange(&w->told, true))
    return;
  tell(L, w);
}

static void on_signal(int number) {
  es_watchdog *w = guarded;
  (void)number;
  if (w == NULL || w->L == NULL || lua_gethook(w->L) == on_hook)
    return;
  w->hook = lua_gethook(w->L);
  w->hook_mask = lua_gethookmask(w->L);
  w->hook_count = lua_gethookcount(w->L);
  lua_sethook(w->L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/* Looks at the running call: nanoseconds until the next look. */
static uint64_t look(es_watchdog *w, uint64_t *asked, uint64_t *said) {
  uint64_t since = atomic_load(&w->since), limit = atomic_load(&w->limit_ns), now = uv_hrtime();
  if (since == 0 || now - since < limit)
    return since == 0 ? limit : limit - (now - since);
  if (*asked != since) {
    *asked = since;
    if (w->has_signal)
      pthread_kill(w->watched, SIGNAL);
  } else if (*said != since && now - since >= 2 * limit && !atomic_exchange(&w->told, true)) {
    *said = since;
    fprintf(
        stderr,
        "eventstream: a handler or callback has run for %.1f s, and holds up all the others; it is in C, in compiled "
        "code or in a coroutine of its own\n",
        (double)(now - since) / 1e9);
  }
  return limit;
}

static void run(void *argument) {
  es_watchdog *w = argument;
  uint64_t asked = 0, said = 0;
  uv_mutex_lock(&w->mutex);
  while (!w->ends) {
    uint64_t wait = look(w, &asked, &said);
    if (atomic_load(&w->since) != 0) {
      uv_cond_timedwait(&w->changed, &w->mutex, wait > 1000000 ? wait : 1000000);
      continue;
    }
    /* a call that begins now sees that nobody looks, and wakes us; or we see that it has begun */
    atomic_store(&w->parked, true);
    if (atomic_load(&w->since) == 0)
      uv_cond_wait(&w->changed, &w->mutex);
    atomic_store(&w->parked, false);
  }
  uv_mutex_unlock(&w->mutex);
}

static void wake(es_watchdog *w) {
  uv_mutex_lock(&w->mutex);
  uv_cond_signal(&w->changed);
  uv_mutex_unlock(&w->mutex);
}

static bool take_signal(void) {
  struct sigaction action;
  if (sigaction(SIGNAL, NULL, &action) != 0 || action.sa_handler != SIG_DFL)
    return false;
  action = (struct sigaction){.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  return sigaction(SIGNAL, &action, NULL) == 0;
}

/* The thread gets no signals: they are the process's, and the script's. */
static int start(es_watchdog *w) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int err = uv_thread_create(&w->thread, run, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return err;
}

void es_watchdog_set(es_state *state, double seconds) {
  es_watchdog *w = state->watchdog;
  uint64_t limit = (uint64_t)(seconds * 1e9);
  if (w != NULL) { /* the loop is everybody's: the shortest limit holds */
    if (limit < atomic_load(&w->limit_ns))
      atomic_store(&w->limit_ns, limit);
    return;
  }
  w = calloc(1, sizeof *w);
  if (w == NULL || uv_mutex_init(&w->mutex) != 0) {
    free(w);
    return; /* it is a help, and no need */
  }
  w->state = state;
  w->watched = pthread_self();
  atomic_store(&w->limit_ns, limit);
  if (uv_cond_init(&w->changed) != 0) {
    uv_mutex_destroy(&w->mutex);
    free(w);
    return;
  }
  guarded = w;
  w->has_signal = take_signal();
  if (start(w) == 0) {
    state->watchdog = w;
    return;
  }
  guarded = NULL;
  uv_cond_destroy(&w->changed);
  uv_mutex_destroy(&w->mutex);
  free(w);
}

void es_watchdog_stop(es_state *state) {
  es_watchdog *w = state->watchdog;
  if (w == NULL)
    return;
  uv_mutex_lock(&w->mutex);
  w->ends = true;
  uv_cond_signal(&w->changed);
  uv_mutex_unlock(&w->mutex);
  uv_thread_join(&w->thread);
  state->watchdog = NULL;
  guarded = NULL;
  if (w->has_signal)
    signal(SIGNAL, SIG_DFL);
  uv_cond_destroy(&w->changed);
  uv_mutex_destroy(&w->mutex);
  free(w);
}

void es_watch_begin(es_state *state, lua_State *L, es_stream *stream, es_watched *outer) {
  es_watchdog *w = state->watchdog;
  *outer = (es_watched){NULL, NULL};
  if (w == NULL)
    return;
  *outer = (es_watched){w->L, w->stream};
  w->L = L;
  w->stream = stream;
  if (outer->L != NULL)
    return; /* the outer call's time runs on */
  w->watched = pthread_self();
  atomic_store(&w->told, false);
  atomic_store(&w->since, uv_hrtime());
  if (atomic_load(&w->parked))
    wake(w);
}

void es_watch_end(es_state *state, const es_watched *outer) {
  es_watchdog *w = state->watchdog;
  if (w == NULL)
    return;
  if (outer->L == NULL)
    atomic_store(&w->since, 0);
  if (w->L != NULL && lua_gethook(w->L) == on_hook)
    lua_sethook(w->L, w->hook, w->hook_mask, w->hook_count);
  w->L = outer->L;
  w->stream = outer->stream;
}
