-- What drives the core's loop in a worker of nginx's: one light thread, which ticks when something is due, and wakes
-- the threads of the clients that the core calls. It stands in for the driver of a process of its own.
local core = require "eventstream.core"
local ngx = require("eventstream.place").nginx
local dict = require "eventstream.openresty.dict"
local ffi = require "ffi"
local semaphore = require "ngx.semaphore"

local M = {}

-- Of OpenResty's LuaJIT: the request that the running coroutine is said to serve, or nil without one.
local has_exdata, exdata = pcall(require, "thread.exdata")

--- Whether bytes can be brought to a client while its thread sleeps.
M.brings = has_exdata

local BYTES, NEWS, ROOM, LOST = 1, 2, 4, 8 -- what a client is called for (csrc/net/hosted.h, csrc/lua/hosted.c)
local RENEW_SECONDS = 60          -- a timer's memory grows with what its thread does: the next one begins anew
local LEASE_SECONDS = 86400

pcall(ffi.cdef, [[
  extern volatile intptr_t ngx_terminate; // a sig_atomic_t: set when the worker ends without a word
  typedef struct {
    unsigned char *pos, *last;
    int64_t file_pos, file_last;
    unsigned char *start, *end;
    void *tag, *file, *shadow;
    uint32_t bits;
    int num;
  } eventstream_ngx_buf;
  typedef struct { eventstream_ngx_buf *buf; void *next; } eventstream_ngx_chain;
  intptr_t ngx_http_output_filter(void *request, eventstream_ngx_chain *chain);
]])

local loop, hosted = core.loop, core.hosted
local owners, calls = {}, {}
local wakeful          -- the semaphore that the driving thread waits on
local apps = setmetatable({}, { __mode = "k" })
local ticks = {}       -- functions of intervals whose time has come
local running, ended = false, false
local closing          -- options of app:close

local function on_wake()
  -- while nginx frees this Lua state, its semaphores are gone before our connections are
  if wakeful and not ended and ffi.C.ngx_terminate == 0 then wakeful:post(1) end
end

--- Wakes the driving thread.
M.wake = on_wake

--- Where something of C's is, for the core: a number.
function M.address(pointer)
  return tonumber(ffi.cast("intptr_t", pointer))
end

-- What ngx.flush sends through nginx's filters: a buffer that has nothing but the word to flush.
local FLUSH = 0x20
M.flush = ffi.new("eventstream_ngx_buf", { bits = FLUSH }) -- the chain's pointer does not keep it
local flush_chain = ffi.new("eventstream_ngx_chain", { buf = M.flush })
local output = ffi.C.ngx_http_output_filter
local AGAIN = -2

--- Writes what ngx.print left in nginx's buffers. Returns true, or nil when the socket has not taken it all.
function M.output(request)
  return output(request, flush_chain) ~= AGAIN or nil
end

jit.off(M.output) -- compiled code must not be called back, as it is where a filter is written in Lua

-- Brings bytes to a client whose thread sleeps: to wake it would cost more than all else. ngx.print writes for the
-- request that the running coroutine is said to serve. That its thread sleeps on our semaphore says that the request
-- is there: whatever ends that, ends the sleep.
local function bring(owner, bytes)
  exdata(owner.request)
  if not ngx.print(bytes) then
    owner.handle:gone "client"
  elseif M.output(owner.request) then
    owner.away[0] = false
  else -- its thread waits for the socket
    owner.held = true
    owner.bytes:post(1)
  end
end

local at, own -- the one that is being called; the driving thread's own request

local function wake(count)
  while at < count do
    at = at + 1
    local owner, what = owners[at], calls[at]
    if type(what) == "string" then
      bring(owner, what)
    elseif what >= LOST then
      if own then exdata(own) end
      owner:lost()
    else
      if what % 2 >= BYTES then owner.bytes:post(1) end
      if what % 4 >= NEWS then owner.news:post(1) end
      if what >= ROOM then owner:roomy() end
    end
    owners[at] = false
  end
end

local function wake_called()
  local count = hosted.called(owners, calls)
  own = has_exdata and exdata() or nil
  at = 0
  repeat
    local ok, failure = pcall(wake, count)
    if own then exdata(own) end
    if not ok then -- it costs this one, and the others' turn is still to come
      ngx.log(ngx.CRIT, "eventstream: ", failure)
      local owner = owners[at]
      owners[at] = false
      pcall(owner.handle.gone, owner.handle, "client")
    end
  until ok
end

-- --- The apps' own intervals ---

local ticking = {}

local function tick(app, callback)
  local ok, failure = xpcall(callback, function(message) return { tostring(message), debug.traceback("", 2) } end)
  ticking[callback] = nil
  if not ok then app._hooks.report(failure[1], failure[2], nil) end
end

-- Called by the core, in a tick: the function runs in a thread of its own, where it may wait. While it does, its
-- interval skips.
local function on_tick(app, callback)
  if ticking[callback] then return end
  ticking[callback] = app
  ticks[#ticks + 1] = callback
end

local function run_ticks()
  for i = 1, #ticks do
    local callback = ticks[i]
    ticks[i] = nil
    ngx.thread.spawn(tick, ticking[callback], callback)
  end
end

--- Whether this worker is the one that runs the app's own intervals.
function M.leads(app)
  if app._place then return app._place:leads() end
  return not ngx.worker.exiting()
end

-- --- Rounds ---

local function anything_left()
  for app in pairs(apps) do
    if app._core:busy() then return true end
  end
  return false
end

-- One round of the loop; returns the seconds until the next one is due. nginx's clock stands still while its threads
-- run: a timer that is set by a clock that is late rings late.
local function round()
  ngx.update_time()
  loop.tick()
  if #ticks > 0 then
    run_ticks()
    loop.tick() -- what they published goes out at once
  end
  wake_called()
  local wait = hosted.due()
  wait = wait < 0 and LEASE_SECONDS or wait / 1000
  for app in pairs(apps) do
    local seconds = app._place and app._place:round() or LEASE_SECONDS
    if seconds < wait then wait = seconds end
  end
  return wait
end

local function drive(premature)
  if premature then return end
  ngx.update_time()
  local renew = ngx.now() + RENEW_SECONDS
  while true do
    local ok, wait = pcall(round)
    if not ok then
      ngx.log(ngx.CRIT, "eventstream: ", wait)
      wait = 0.1
    end
    if ngx.worker.exiting() and not anything_left() then
      ended = true
      return
    end
    if wait > 0 then wakeful:wait(wait) else ngx.sleep(0.001) end
    if ngx.now() > renew and ngx.timer.at(0, drive) then return end
  end
end

-- A timer that rings early tells that the worker is to end.
local function await_end(premature)
  if not premature then
    ngx.timer.at(LEASE_SECONDS, await_end)
    return
  end
  for app in pairs(apps) do
    if app._place then app._place:leave() end
    app:close(closing)
  end
  ngx.timer.at(0, on_wake) -- a post alone would be seen at nginx's next event only, of which there may be none
end

--- Begins in this worker.
---@param options { grace: number?, spread: number? } of app:close, when the worker ends
function M.start(options)
  closing = options
  if running then return end
  running = true
  wakeful = semaphore.new(0)
  hosted.forked()
  for app in pairs(apps) do
    if app._place then app._place:start() end
  end
  hosted.drive(on_wake, M.address(ffi.C.ngx_http_lua_ffi_sema_post),
    M.address(ffi.C.ngx_http_lua_ffi_sema_count)) -- which ngx.semaphore has declared
  assert(ngx.timer.at(0, drive))
  assert(ngx.timer.at(LEASE_SECONDS, await_end))
end

--- Whether start was called in this worker.
function M.running() return running end

local OWN = debug.getinfo(1, "S").source:match "^(.*)openresty[/\\]worker%.lua$"
local sources = {}

--- The same for the same app in each worker, and after a reload: the name of the file that made it, without its folder,
--- which may be another one with each release, and its number among those of that name.
function M.source()
  local level, source = 2, OWN
  while source:sub(1, #OWN) == OWN or source == "=[C]" or source:sub(1, 2) == "=(" do
    local info = debug.getinfo(level, "S")
    level, source = level + 1, info and info.source or "?"
  end
  source = source:match "[^/\\]*$"
  sources[source] = (sources[source] or 0) + 1
  return source .. "#" .. sources[source]
end

--- Has a new app driven.
function M.join(app, backplane)
  if backplane then
    app._place = backplane:attach(app)
  else
    app._place = dict.attach(app, { name = "eventstream", prefix = M.source() })
  end
  apps[app] = true
  if running and app._place then app._place:start() end
  app._hooks.tick = function(callback) on_tick(app, callback) end
  on_wake()
end

--- It is closed: nothing is left to do for it.
function M.leave(app) apps[app] = nil end

-- --- What a process's driver has, too ---

function M.attach() end

--- The callback of an app's own interval: one that is made while the app is loaded runs in the elected worker only.
function M.elected(app, callback)
  if running or type(callback) ~= "function" then return callback end
  return function()
    if M.leads(app) then callback() end
  end
end

function M.stop() end

local function no_loop() error("loop: inside nginx its own loop drives the streams", 2) end

M.loop = { fd = no_loop, timeout = no_loop, turn = no_loop }

return M
