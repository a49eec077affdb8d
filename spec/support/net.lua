-- Servers and raw clients in one process, both on luv's loop. Specs wait for what they want to see and never sleep:
-- every wait runs the loop until a condition holds, and fails when a watchdog rings first.
local uv = require "luv"
local core = require "eventstream.core"
local eventstream = require "eventstream"
local process = require "spec.support.process"

local M = {}
local apps, clients = {}, {}
local WATCHDOG_SECONDS = 10 * (tonumber(os.getenv "EVENTSTREAM_PATIENCE") or 1) -- more under valgrind

--- Runs the loop until condition() is true; returns its value.
function M.wait(condition, what, seconds)
  local late, timer = false, uv.new_timer()
  process.countdown(timer, seconds or WATCHDOG_SECONDS, function() late = true end)
  local value = condition()
  while not value and not late do
    uv.run("once")
    value = condition()
  end
  timer:close()
  if not value then
    error(("watchdog: waited in vain for %s"):format(type(what) == "function" and what() or what or "a condition"), 2)
  end
  return value
end

--- Runs the loop for turns that are due already, until nothing is.
function M.settle()
  for _ = 1, 5 do uv.run("nowait") end
end

--- An app that finish() closes. define(app) adds its routes. Errors of scripts are collected in app.errors.
function M.serve(define, options)
  options = options or {}
  local errors = {}
  options.on_error = options.on_error or function(message, traceback, stream)
    errors[#errors + 1] = { message = message, traceback = traceback, stream = stream }
  end
  local app = eventstream.new(options)
  app.errors = errors
  define(app)
  local listener = assert(app:listen { port = 0 })
  apps[#apps + 1] = app
  return app, listener.port, listener
end

local Client = {}

-- client.received is put together when somebody looks: piece by piece, megabytes would be copied at each.
local meta = {}

function meta.__index(client, key)
  if key ~= "received" then return Client[key] end
  local pieces = client.pieces
  if #pieces > 1 then client.pieces = { table.concat(pieces) } end
  return client.pieces[1] or ""
end

function meta.__newindex(client, key, value)
  if key == "received" then client.pieces = { value } else rawset(client, key, value) end
end

--- Connects to a port (on 127.0.0.1, or another address), or to a Unix socket's path. client.received is all that came,
--- client.ended that the server closed, client.failure the error that ended it ("ECONNRESET").
function M.connect(where, address)
  local client = setmetatable({ pieces = {}, ended = false }, meta)
  local handle = type(where) == "number" and uv.new_tcp() or uv.new_pipe(false)
  client.handle = handle
  local connected
  local function on_connect(err)
    connected = true
    client.failure = err
    if not err then client:resume() end
  end
  if type(where) == "number" then
    handle:nodelay(true) -- pieces go out as they are sent
    handle:connect(address or "127.0.0.1", where, on_connect)
  else
    handle:connect(where, on_connect)
  end
  M.wait(function() return connected end, "a connection")
  clients[#clients + 1] = client
  return client
end

function Client:send(bytes)
  self.handle:write(bytes)
  return self
end

--- Sends a request; headers is a list of lines.
function Client:request(method, path, headers, body)
  local lines = { ("%s %s HTTP/1.1"):format(method, path), "Host: localhost" }
  for _, line in ipairs(headers or {}) do lines[#lines + 1] = line end
  if body then lines[#lines + 1] = "Content-Length: " .. #body end
  return self:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or ""))
end

function Client:get(path, headers)
  return self:request("GET", path, headers)
end

--- Waits until what came matches a Lua pattern (or contains a text, if plain); returns the captures.
function Client:wait(pattern, plain)
  local function story()
    return ("%q; so far: %q (ended: %s, failure: %s)"):format(pattern, self.received:sub(-2000), tostring(self.ended),
      tostring(self.failure))
  end
  M.wait(function() return self.received:find(pattern, 1, plain) or self.ended end, story)
  if not self.received:find(pattern, 1, plain) then error("the server closed before " .. story(), 2) end
  return select(3, self.received:find(pattern, 1, plain))
end

--- Waits until the server has closed; returns all that came.
function Client:wait_end()
  local function so_far() return ("the end; so far: %q"):format(self.received:sub(-2000)) end
  M.wait(function() return self.ended end, so_far)
  return self.received
end

--- Status, headers (lower case) and body of the first answer; a chunked body is put together.
function Client:answer()
  local head, rest = self.received:match("^(.-\r\n)\r\n(.*)$")
  assert(head, "no whole head: " .. self.received)
  local headers = {}
  for name, value in head:gmatch("\n([^:\r\n]+): ([^\r\n]*)") do headers[name:lower()] = value end
  if headers["transfer-encoding"] == "chunked" then
    local chunks, at, complete = {}, 1, false
    while true do
      local from, to, size = rest:find("^(%x+)\r\n", at)
      if not from then break end
      size = tonumber(size, 16)
      if size == 0 then
        complete = rest:sub(to + 1, to + 2) == "\r\n"
        break
      end
      chunks[#chunks + 1] = rest:sub(to + 1, to + size)
      at = to + size + 3
    end
    return tonumber(head:match("^HTTP/1.1 (%d+)")), headers, table.concat(chunks), complete
  end
  return tonumber(head:match("^HTTP/1.1 (%d+)")), headers, rest
end

--- FIN: sends no more, still reads.
function Client:shutdown()
  self.handle:shutdown()
end

--- Leaves: FIN.
function Client:close()
  if not self.handle:is_closing() then self.handle:close() end
end

--- Leaves: RST.
function Client:reset()
  if not self.handle:is_closing() then self.handle:close_reset() end
end

--- Reads no more, until resume().
function Client:pause()
  self.handle:read_stop()
end

function Client:resume()
  self.handle:read_start(function(failure, bytes)
    if bytes then
      self.pieces[#self.pieces + 1] = bytes
    else
      self.ended, self.failure = true, failure
    end
  end)
end

--- Waits for a whole ordinary answer, and takes it off what came: status, headers (lower case), body. bodiless: it is
--- known to have no body, as that of HEAD.
function Client:take(bodiless)
  local status, lines = self:wait("^HTTP/1%.1 (%d%d%d)(.-\r\n)\r\n")
  local headers, size = {}, 0
  for name, value in lines:gmatch "\n([^:\r\n]+): ([^\r\n]*)" do headers[name:lower()] = value end
  local start = self.received:find("\r\n\r\n", 1, true) + 4
  if not bodiless then size = tonumber(headers["content-length"] or 0) end
  M.wait(function() return #self.received >= start + size - 1 or self.ended end, "an answer's body")
  local body = self.received:sub(start, start + size - 1)
  assert(#body == size, ("the answer has %d of %d bytes"):format(#body, size))
  self.received = self.received:sub(start + size)
  return tonumber(status), headers, body
end

local function anchored()
  local threads, functions = 0, 0
  for _, value in pairs(debug.getregistry()) do
    if type(value) == "thread" then threads = threads + 1 end
    if type(value) == "function" then functions = functions + 1 end
  end
  return threads, functions
end

local threads_before, functions_before -- once the driver and its handles are there; what is left is told once

--- Closes all clients: before what stands between them and a server goes.
function M.close_clients()
  for _, client in ipairs(clients) do client:close() end
  clients = {}
end

--- Closes all clients and apps, and checks that nothing is left: for after_each.
function M.finish()
  M.close_clients()
  for _, app in ipairs(apps) do app:close { grace = 0 } end
  apps = {}
  M.wait(function() return not core.loop.alive() end, "the end of all apps")
  M.settle()
  local threads, functions = anchored()
  if not threads_before then threads_before, functions_before = threads, functions end
  local more_threads, more_functions = threads - threads_before, functions - functions_before
  threads_before, functions_before = math.max(threads, threads_before), math.max(functions, functions_before)
  assert(more_threads <= 0, "a coroutine is left")
  assert(more_functions <= 0, "a function is left")
end

-- A whole life once, so that what stays for good is counted as such.
do
  local app, fired = M.serve(function() end), false
  app:after(0.001, function() fired = true end)
  M.wait(function() return fired end)
  process.wait(function() return true end) -- its watchdog is one, too
  M.finish()
end

return M
