-- One client of an app inside nginx: the threads that serve its request, and what its handler may wait for.
--
-- The thread that nginx runs sees to the end: it waits for news, and when the exchange is over it calls what is to be
-- told. The handler has a thread, which a client that leaves can end; and a stream has one that takes what is due from
-- the core and brings it to nginx, and in which its intervals are called. nginx may end them all without a word
-- (ngx.exit in a handler does): the core then hears of it by the request's guard, and Owner:lost does what is left.
local base = require "resty.core.base"
local core = require "eventstream.core"
local ffi = require "ffi"
local ngx = require("eventstream.place").nginx
local semaphore = require "ngx.semaphore"
local worker = require "eventstream.openresty.worker"

local M = {}

local DAY = 86400         -- waits are renewed
local HANDLER_SECONDS = 5 -- a handler that waits for something else than its stream has so long after its end

local weak = { __mode = "kv" }
local by_stream = setmetatable({}, weak)
local by_thread = setmetatable({}, weak) -- of handlers

local Owner = {}
Owner.__index = Owner

-- --- Waiting ---

-- The handler waits until something wakes it, or for so long; false at the time's end.
local function wait(owner, what, seconds)
  local turn = owner.turn
  if not turn then
    turn = semaphore.new(0)
    owner.turn = turn
  end
  owner.waits = what
  local woken = turn:wait(seconds)
  owner.waits = nil
  return woken
end

local function wake(owner)
  if not owner.waits then return end
  owner.waits = nil
  owner.turn:post(1)
end

-- The stream is over: the handler is told so once; at its next wait it stays, until its thread is ended.
local function dead(owner)
  if owner.told then
    owner.parked = true
    owner.news:post(1)
    while true do wait(owner, nil, DAY) end
  end
  owner.told = true
  return nil, "closed"
end

--- The backlog has room again.
function Owner:roomy()
  if self.waits == "room" then wake(self) end
end

local function own(stream)
  local owner = by_stream[stream]
  return owner and owner.handler == coroutine.running() and owner or nil
end

local Stream = core.stream
local check_sleep = Stream._check_sleep

-- Where send says no. A thread that brings bytes to nginx makes room itself; the handler waits for it.
local function refused(stream, send, event, why)
  local owner = by_stream[stream]
  local thread = coroutine.running()
  if not owner or (thread ~= owner.handler and thread ~= owner.pump) then return nil, why end
  local ok = nil
  while not ok and why == "backlog" do
    if thread == owner.pump then
      owner:bring()
    elseif not stream.closed then
      wait(owner, "room", DAY)
    end
    ok, why = send(stream, event)
    if thread == owner.pump and why == "backlog" then return nil, why end
  end
  if ok then return ok end
  if why == "closed" and thread == owner.handler then return dead(owner) end
  return nil, why
end

local function sender(who, send)
  return function(stream, event)
    local fine, ok, why = pcall(send, stream, event)
    if not fine then
      if not core.is_stream(stream) then ok = ("%s: call it with a colon: stream:%s(...)"):format(who, who) end
      error(ok, 2)
    end
    if ok then return ok end
    return refused(stream, send, event, why)
  end
end

Stream.send = sender("send", Stream.send)
Stream.comment = sender("comment", Stream.comment)

function Stream:sleep(seconds)
  local fine, message = pcall(check_sleep, self, seconds)
  if not fine then error(message, 2) end
  local owner = own(self)
  if not owner then
    error("sleep: only the stream's own handler can wait; in a callback use stream:after or stream:every", 2)
  end
  if self.closed or not self:flush() then return dead(owner) end -- which sends the head
  wait(owner, "sleep", seconds > 0.001 and seconds or 0.001) -- a wait of 0 would let nobody else run
  if self.closed then return dead(owner) end
  return true
end

--- eventstream.await.
function M.await(start)
  if type(start) ~= "function" then error("await: function expected, got " .. type(start), 2) end
  local owner = by_thread[coroutine.running()]
  if not owner then error("await: only a handler can wait (this is no handler's own coroutine)", 2) end
  if owner.over or owner.handle:reason() then return dead(owner) end
  local values, count
  local live = true
  start(function(...)
    if not live or values then return end
    values, count = { ... }, select("#", ...)
    if owner.waits == "await" then wake(owner) end
  end)
  while not values and not owner.over do wait(owner, "await", DAY) end
  live = false
  if values then return unpack(values, 1, count) end
  return dead(owner)
end

-- --- What scripts are called for ---

local function trace(message)
  return { tostring(message), debug.traceback("", 2) }
end

-- Calls a function of the script's; its error is reported, and false returned.
local function call(owner, fn, ...)
  local ok, failure, second, third = xpcall(fn, trace, ...)
  if ok then return true, failure, second, third end
  if type(failure) ~= "table" then failure = { tostring(failure), "" } end
  owner.app._hooks.report(failure[1], failure[2], owner.stream)
  return false
end

local function run_handler(owner, fn, first, second)
  local thread = coroutine.running()
  owner.handler = thread
  by_thread[thread] = owner
  local ok, status, lines, body = call(owner, fn, first, second)
  owner.handler = nil
  if not ok then
    owner.handle:failed()
  elseif owner.stream then
    owner.handle:done()
  else
    owner.handle:done(status, lines, body)
  end
  owner.news:post(1)
  owner.bytes:post(1)
end

-- The handler's thread, as long as it runs: afterwards nginx would keep it until it is asked what became of it.
local function reap(owner, thread)
  if owner.handler or not thread then return thread end
  ngx.thread.wait(thread)
end

-- --- Bytes ---

-- The first bytes are the core's head: nginx writes its own, with these fields.
local OWN = { connection = true, date = true, ["transfer-encoding"] = true }

local function send_head(owner, bytes)
  bytes = owner.begun and owner.begun .. bytes or bytes
  local from, to = bytes:find("\r\n\r\n", 1, true)
  if not from then
    owner.begun = bytes
    return ""
  end
  local head = bytes:sub(1, from + 1)
  ngx.status = tonumber(head:match "^HTTP/1%.1 (%d+)")
  local fields = {}
  for name, value in head:gmatch "\n([^:\r\n]+): ([^\r\n]*)" do
    local key = name:lower()
    if not OWN[key] then
      local before = fields[key]
      if before == nil then
        fields[key] = { name, value }
      else
        before[#before + 1] = value
      end
    end
  end
  if not fields["content-type"] then ngx.header["Content-Type"] = nil end -- instead of nginx's default
  for _, field in pairs(fields) do
    ngx.header[field[1]] = #field == 2 and field[2] or { unpack(field, 2) }
  end
  owner.begun = nil
  owner.headed = true
  ngx.send_headers()
  if owner.plain then owner.handle:plain() end
  return bytes:sub(to + 1)
end

-- Gives bytes to nginx; returns when the socket has taken them, or nil and why.
local function print_all(owner, bytes)
  if bytes == "" then return ngx.flush(true) end -- the head
  local ok, why = ngx.print(bytes)
  if ok and not (owner.plain and worker.output(owner.request)) then ok, why = ngx.flush(true) end
  return ok, why
end

--- Brings to nginx what is due. Returns a function of an interval instead, or whether that was all there will be.
function Owner:bring()
  local handle = self.handle
  if self.held then
    self.held = false
    local ok, why = ngx.flush(true)
    if not ok then handle:gone(why == "timeout" and "slow" or "client") end
  end
  while true do
    local due, more = handle:take()
    if type(due) ~= "string" then return due end
    if not self.headed then due = send_head(self, due) end
    local ok, why = print_all(self, due)
    if not ok and why ~= "header only" then -- which HEAD and 204 are
      handle:gone(why == "timeout" and "slow" or "client")
    elseif not more then
      self.away[0] = false
      return false
    end
  end
end

local function pump(owner)
  local bytes, stream = owner.bytes, owner.stream
  while true do
    local due = owner:bring()
    if due then
      if not call(owner, due, stream) then owner.handle:failed() end
    elseif due == nil then
      break
    else
      bytes:wait(DAY)
    end
  end
  owner.drained = true
  owner.news:post(1)
end

local function run_pump(owner)
  owner.pump = coroutine.running()
  pump(owner)
end

-- --- The end ---

local function tell_left(owner)
  local unsubscribed = owner.app._hooks.unsubscribed
  local channel = owner.handle:left()
  if not channel then return end
  while channel do
    if unsubscribed then unsubscribed(channel, owner.stream) end
    channel = owner.handle:left()
  end
  owner.handle:fed()
end

local function tell_closers(owner, reason)
  local list = owner.handle:closers()
  while list do
    local i = 1
    while list[i] do
      call(owner, list[i], reason)
      i = i + 1
    end
    list = owner.handle:closers()
  end
end

local function lost(owner)
  tell_closers(owner, owner.handle:reason() or "client")
  tell_left(owner)
  owner.handle:over()
end

--- The request went away, and its threads. Called by the driving thread, which must not wait.
function Owner:lost()
  self.over = true
  ngx.thread.spawn(lost, self)
end

local function finish(owner, thread, pumping)
  local handle, reason = owner.handle, owner.handle:reason()
  owner.over = true
  if owner.handler and owner.waits then
    wake(owner)
    ngx.sleep(0.001) -- it comes first
  end
  tell_closers(owner, reason)
  tell_left(owner)
  if pumping then
    while not owner.drained and not handle:closed() do owner.news:wait(DAY) end
    if not owner.drained then ngx.thread.kill(pumping) end
  else
    pump(owner)
  end
  local _, orderly = handle:closed()
  if orderly then ngx.eof() end
  -- a handler that waits for something of its own, a database's answer, may have it
  while owner.handler and not owner.parked and owner.news:wait(HANDLER_SECONDS) do end
  if owner.handler then ngx.thread.kill(thread) end
  handle:over()
  if orderly then return end
  return ngx.exit(reason == "client" and 499 or 444)
end

-- What nginx's structures begin with, since ever.
ffi.cdef [[
  typedef struct { void *data, *read, *write; int fd; } eventstream_ngx_connection;
  typedef struct { uint32_t signature; eventstream_ngx_connection *connection; } eventstream_ngx_request;
  void *ngx_http_cleanup_add(void *request, size_t size);
]]
local request_pointer = ffi.typeof "eventstream_ngx_request *"
local SIGNATURE = 0x50545448 -- "HTTP"

-- nginx looks for a client that leaves only where lua_check_client_abort is on, and then does not see it behind bytes
-- that nobody reads, as TLS always sends them at its end. So the socket is watched, too. In HTTP/2 and above nginx
-- reads everything, and knows.
local function watch_socket(owner)
  local request = ffi.cast(request_pointer, owner.request)
  if request.signature ~= SIGNATURE then return end
  owner.handle:watch(request.connection.fd)
end

local function nothing() end

-- Where it is on, it would end our threads without a word.
local function watch_client(owner)
  if not owner.stream then
    ngx.on_abort(nothing) -- who asked, and has shut its side, may have its answer
    return
  end
  ngx.on_abort(function() owner.handle:gone "client" end)
  if ngx.req.http_version() < 2 then watch_socket(owner) end
end

-- The app is closed. An EventSource would never come back after any status but 200 (WHATWG HTML, 9.2.3).
local function send_away()
  local method = ngx.req.get_method()
  local gets = method == "GET" or method == "HEAD" -- to any other a 200 would say that what it brought was taken
  if gets and (ngx.var.http_accept or ""):lower():find("text/event-stream", 1, true) then
    ngx.header["Content-Type"] = "text/event-stream"
    ngx.header["Cache-Control"] = "no-cache, no-transform"
    ngx.print(("retry: %d\n\n"):format(1000 + math.random(4000)))
    return
  end
  ngx.header["Retry-After"] = 1
  return ngx.exit(503)
end

--- Serves the request of the running thread.
---@param app eventstream.App
---@param bytes string the request
function M.serve(app, bytes)
  local handle, fn, first, second = app._core:host(bytes, ngx.var.remote_addr, ngx.var.remote_port)
  if not handle then return send_away() end
  local owner = setmetatable({
    app = app, handle = handle, stream = handle:stream(), bytes = semaphore.new(0), news = semaphore.new(0),
  }, Owner)
  -- bytes that are printed are what the socket gets: TLS and HTTP/2 hold them until they are flushed
  owner.plain = worker.brings and ngx.req.http_version() < 2 and ngx.var.https ~= "on"
  owner.request = base.get_request()
  owner.away = ffi.cast("bool *", handle:bind(owner, worker.address(owner.bytes.sem),
    worker.address(ffi.C.ngx_http_cleanup_add(owner.request, 0))))
  if not fn then
    pump(owner)
    local _, orderly = handle:closed()
    handle:over()
    return not orderly and ngx.exit(444) or nil
  end
  watch_client(owner)
  if owner.stream then by_stream[owner.stream] = owner end
  local thread = reap(owner, ngx.thread.spawn(run_handler, owner, fn, first, second))
  local pumping = owner.stream and ngx.thread.spawn(run_pump, owner)
  while not handle:reason() do
    owner.news:wait(DAY)
    thread = reap(owner, thread)
    tell_left(owner)
  end
  return finish(owner, thread, pumping)
end

return M
