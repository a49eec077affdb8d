/* eventstream.loop, and what the luv driver and the core's own run() need beside it. */
#include "lua/binding.h"

static es_state *open_state(lua_State *L) {
  es_state *state = es_state_of(L);
  if (!state->open)
    luaL_error(L, "the loop is closed: Lua is closing");
  return state;
}

static int l_loop_fd(lua_State *L) {
  lua_pushinteger(L, es_loop_fd(&open_state(L)->loop));
  return 1;
}

static int l_loop_timeout(lua_State *L) {
  int ms = es_loop_timeout(&open_state(L)->loop);
  if (ms < 0)
    lua_pushnil(L);
  else
    lua_pushnumber(L, ms / 1000.0);
  return 1;
}

/* The same in milliseconds, -1 for none: what the luv driver asks for each time round. */
static int l_loop_due(lua_State *L) {
  lua_pushinteger(L, es_loop_timeout(&open_state(L)->loop));
  return 1;
}

/* Runs a turn unless one runs already; pushes how often it called Lua. */
static int turn(lua_State *L, void (*run)(es_loop *loop)) {
  es_state *state = open_state(L);
  uint64_t before = state->calls;
  if (!state->loop.turning)
    run(&state->loop);
  lua_pushinteger(L, (lua_Integer)(state->calls - before));
  return 1;
}

static void run_turn(es_loop *loop) {
  es_loop_turn(loop, false);
}

static void run_waiting(es_loop *loop) {
  es_loop_turn(loop, true);
}

static int l_loop_turn(lua_State *L) {
  return turn(L, run_turn);
}

static int l_loop_wait(lua_State *L) {
  return turn(L, run_waiting);
}

static int l_loop_tick(lua_State *L) {
  return turn(L, es_loop_tick);
}

/* pointer(): the es_loop, for modules that are built along with this one; wake(): they have made work. */
static int l_loop_pointer(lua_State *L) {
  lua_pushlightuserdata(L, &open_state(L)->loop);
  return 1;
}

/* turns(): how many there were. */
static int l_loop_turns(lua_State *L) {
  lua_pushnumber(L, (lua_Number)open_state(L)->loop.turns);
  return 1;
}

static int l_loop_wake(lua_State *L) {
  es_loop_wake(&open_state(L)->loop);
  return 0;
}

static int l_loop_alive(lua_State *L) {
  lua_pushboolean(L, es_loop_alive(&open_state(L)->loop));
  return 1;
}

static int l_loop_turning(lua_State *L) {
  lua_pushboolean(L, es_state_of(L)->loop.turning);
  return 1;
}

static void on_signal(uv_signal_t *signal, int number) {
  es_state *state = signal->data;
  if (state->on_signal_ref == LUA_NOREF)
    return;
  lua_rawgeti(state->L, LUA_REGISTRYINDEX, state->on_signal_ref);
  lua_pushinteger(state->L, number);
  if (lua_pcall(state->L, 1, 0, 0) != 0)
    lua_pop(state->L, 1); /* the function is our own, and handles its errors */
  es_loop_settle(&state->loop);
}

/* Calls the function at SIGINT and SIGTERM; nil gives the signals back. For a process without luv: two libuvs would
 * overwrite each other's handlers. */
static int l_loop_signals(lua_State *L) {
  es_state *state = open_state(L);
  es_unref(L, &state->on_signal_ref);
  if (!state->has_signals) {
    for (int i = 0; i < 2; i++) {
      uv_signal_init(&state->loop.uv, &state->signals[i]);
      uv_unref((uv_handle_t *)&state->signals[i]);
      state->signals[i].data = state;
    }
    state->has_signals = true;
  }
  if (lua_isnoneornil(L, 1)) {
    uv_signal_stop(&state->signals[0]);
    uv_signal_stop(&state->signals[1]);
    return 0;
  }
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushvalue(L, 1);
  state->on_signal_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  uv_signal_start(&state->signals[0], on_signal, SIGINT);
  uv_signal_start(&state->signals[1], on_signal, SIGTERM);
  return 0;
}

void es_open_loop(lua_State *L) {
  static const luaL_Reg loop[] = {{"fd", l_loop_fd},
                                  {"timeout", l_loop_timeout},
                                  {"due", l_loop_due},
                                  {"turn", l_loop_turn},
                                  {"tick", l_loop_tick},
                                  {"wait", l_loop_wait},
                                  {"alive", l_loop_alive},
                                  {"turning", l_loop_turning},
                                  {"pointer", l_loop_pointer},
                                  {"turns", l_loop_turns},
                                  {"wake", l_loop_wake},
                                  {"signals", l_loop_signals},
                                  {NULL, NULL}};
  lua_newtable(L);
  luaL_setfuncs(L, loop, 0);
  lua_setfield(L, -2, "loop");
}
