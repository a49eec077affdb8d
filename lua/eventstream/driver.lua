-- What turns the core's loop: luv where it is installed, else the core itself.
--
-- luv is required at the file's top and not later: luv 1.44, first required inside a coroutine, calls back on that
-- coroutine.
local core = require "eventstream.core"
local place = require "eventstream.place"

if place.nginx then return require "eventstream.openresty.worker" end

local has_luv, uv = pcall(require, "luv")

if core.driver then return core.driver end -- loaded once more: there is one loop, and so one driver

local M = {}
core.driver = M
local loop = core.loop
local running, stopped = false, false
local poll, prepare, timer -- luv's handles, once attached
local holds = true         -- the poll handle keeps luv's loop alive

local function turn()
  loop.turn()
end

-- luv is about to wait: it must not sleep through a timer of the core's, nor be kept alive by an idle core.
local function before_wait()
  local due, alive = loop.due(), loop.alive()
  if alive ~= holds then
    holds = alive
    if alive then uv.ref(poll) else uv.unref(poll) end
  end
  if due >= 0 then uv.timer_start(timer, due, 0, due > 0 and loop.tick or turn) else uv.timer_stop(timer) end
end

--- Joins the core's loop to luv's; without luv, does nothing. Called whenever there may be something new to do, because
--- luv leaves a loop that holds nothing before it asks.
function M.attach()
  if not has_luv then return end
  if not poll then
    poll = assert(uv.new_poll(loop.fd()))
    prepare, timer = uv.new_prepare(), uv.new_timer()
    uv.poll_start(poll, "r", turn)
    uv.prepare_start(prepare, before_wait)
    uv.unref(prepare)
    uv.unref(timer)
  end
  if not holds then
    holds = true
    uv.ref(poll)
  end
end

--- Takes a new app in.
function M.join(app, backplane)
  if backplane then app._place = backplane:attach(app) end
  M.attach()
end

--- An app is closed, and nothing is left to do for it.
function M.leave() end

--- The callback of an app's own interval, which in a process always runs.
function M.elected(_, callback) return callback end

function M.alive()
  if poll then before_wait() end -- else our own handle would look like something to do
  return loop.alive() or (has_luv and uv.loop_alive()) or false
end

function M.turning()
  return loop.turning()
end

-- SIGINT and SIGTERM call the function while the loop runs. luv's handles are stopped and kept, not closed: luv 1.44
-- crashes at the end of a process that leaves a closing handle behind.
local signals = {}

local function watch_signals(on_signal)
  if not has_luv then return loop.signals(on_signal) end
  for _, name in ipairs { "sigint", "sigterm" } do
    signals[name] = signals[name] or uv.new_signal()
    uv.signal_start(signals[name], name, on_signal)
    uv.unref(signals[name])
  end
end

local function release_signals()
  if not has_luv then return loop.signals(nil) end
  for _, handle in pairs(signals) do uv.signal_stop(handle) end
end

--- Runs until stop() or until nothing is left to do.
---@param on_signal fun()
function M.run(on_signal)
  stopped, running = false, true
  watch_signals(on_signal)
  M.attach()
  if has_luv then
    uv.run()
  else
    while not stopped and loop.alive() do loop.wait() end
  end
  release_signals()
  running = false
end

--- Makes run() return when the running callback has.
function M.stop()
  stopped = true
  if running and has_luv then
    uv.stop()
  elseif running then
    loop.wake()
  end
end

function M.running()
  return running
end

return M
