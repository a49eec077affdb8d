--- eventstream.test: an app's handlers run against clients without a port, and time that is moved by hand.
---
--- A client is the other half of a real connection, so that what it sees is what a browser would: the request goes
--- through the parser, the events through the encoder. From the first one on time stands still, for all intervals,
--- sleeps and heartbeats, until it is moved; luv's own timers are not held. A script's `return app:serve { ... }` only
--- returns the app.
local App = require "eventstream.app"
local check = require "eventstream.check"
local core = require "eventstream.core"
local json = require "eventstream.json"
local place = require "eventstream.place"

local has_luv, uv = pcall(require, "luv")

local M = {}

place.tested = true -- app:serve only returns the app

---@class eventstream.TestClient
---@field status integer? of the answer, once it has come
---@field headers table<string, string> the answer's, by names in small letters
---@field body string what came behind the head: a stream's bytes, or an ordinary answer's body
---@field events eventstream.Received[] what came, in order
---@field retry integer? milliseconds that the stream told last
---@field last_event_id string?
---@field closed boolean whether the server has ended the answer
---@field stream eventstream.Stream? the stream, as handlers see it
---@field reason eventstream.Reason? why it is over
local Client = {}
Client.__index = Client

local clients, apps, failures = {}, {}, {}
local held = false

-- --- What comes ---

local function take_head(client)
  local head, rest = client._raw:match "^(.-\r\n)\r\n(.*)$"
  if not head then return false end
  client.status = tonumber(head:match "^HTTP/1%.1 (%d%d%d)")
  for name, value in head:gmatch "\n([^:\r\n]+):[ \t]*([^\r\n]*)" do
    name = name:lower()
    client.headers[name] = client.headers[name] and client.headers[name] .. ", " .. value or value
  end
  client._raw = rest
  client._left = tonumber(client.headers["content-length"])
  client._chunked = (client.headers["transfer-encoding"] or ""):lower() == "chunked"
  local status = client.status
  local bare = status == 204 or status == 304 or client._method == "HEAD" -- whatever its length says (RFC 9112, 6.3)
  if client._left == 0 or bare then client.closed = true end
  return true
end

-- The bytes of the body that are there, without their chunks.
local function take_body(client)
  if not client._chunked then
    local bytes = client._left and client._raw:sub(1, client._left) or client._raw
    client._raw = client._raw:sub(#bytes + 1)
    if client._left then
      client._left = client._left - #bytes
      client.closed = client._left == 0
    end
    return bytes
  end
  local pieces, at = {}, 1
  while true do
    local size, from = client._raw:match("^(%x+)\r\n()", at)
    if not size then break end
    size = tonumber(size, 16)
    if #client._raw < from + size + 1 then break end
    pieces[#pieces + 1] = client._raw:sub(from, from + size - 1)
    at = from + size + 2
    if size == 0 then client.closed = true end
  end
  client._raw = client._raw:sub(at)
  return table.concat(pieces)
end

local function read_events(client, bytes)
  local from = 1
  while from do
    local kind, data, id, on = client._reader:feed(bytes, from)
    if kind then
      client.events[#client.events + 1] = { event = kind, data = data, id = id ~= "" and id or nil }
    elseif on then
      client.retry = data
    end
    from = on
  end
  local id = client._reader:last_id()
  client.last_event_id = id ~= "" and id or nil
end

-- Sends what is left of the request, and takes what has come; whether there was any of either.
local function receive(client)
  local any = false
  if client._sent then
    local taken = client._half:send(client._sent)
    any = taken ~= nil and taken > 0
    client._sent = taken and taken < #client._sent and client._sent:sub(taken + 1) or nil
  end
  if client._paused or client.left then return any end
  while true do
    local bytes = client._half:receive()
    if not bytes then
      if not client._ended then any, client._ended, client.closed = true, true, true end
      return any
    end
    if bytes == "" then return any end
    any = true
    client._raw = client._raw .. bytes
    if (client.status or take_head(client)) and not client.closed then
      local body = take_body(client)
      client.body = client.body .. body
      if body ~= "" and client.headers["content-type"] == "text/event-stream" then read_events(client, body) end
    end
  end
end

-- --- Time ---

local ROUNDS = 10000 -- of a script that never comes to rest

-- Whether the apps have read anything since: a large request takes them turns in which nothing else happens.
local function have_read()
  local any = false
  for app, own in pairs(apps) do
    local bytes = app._core:stats().bytes_in
    any = any or bytes ~= own.bytes
    own.bytes = bytes
  end
  return any
end

-- Lets all happen that is due now.
local function settle()
  local quiet, rounds = 0, 0
  while quiet < 3 do
    if has_luv then uv.run "nowait" end
    local busy = core.loop.turn() > 0
    for _, client in ipairs(clients) do busy = receive(client) or busy end
    busy = have_read() or busy
    quiet = busy and 0 or quiet + 1
    rounds = rounds + 1
    if rounds == ROUNDS then error("the app does not come to rest: something is always due", 0) end
  end
  local failure = table.remove(failures, 1)
  if failure then error(failure, 0) end
end

local function hold()
  if place.nginx then error("test: inside nginx there is none", 0) end
  if not held then core.hold_time(true) end
  held = true
end

local function advance(seconds)
  local wrong = check.duration(seconds)
  if wrong then error(("advance: seconds must be %s, not %s"):format(wrong, check.show(seconds)), 0) end
  hold()
  settle()
  local left = math.floor(seconds * 1000 + 0.5)
  while left > 0 do
    local step = math.max(1, math.min(left, core.next_due() or left)) -- each at its time, and in order
    core.move_time(step)
    left = left - step
    settle()
  end
end

--- Lets all happen that is due now. Raises what a handler or a callback raised, unless the app has an on_error.
function M.settle()
  check.call(hold)
  check.call(settle)
end

--- Moves time, and lets all happen that falls due meanwhile, each at its time. Raises as settle does.
---@param seconds number
function M.advance(seconds)
  check.call(advance, seconds)
end

-- --- Clients ---

local asking -- the client whose request is under way

-- Stands between an app and the core, as long as it is tested: what a handler raises is raised in the test that made it
-- run, and a client knows its stream.
local function join(app)
  if apps[app] then return end
  if app._place and not place.nginx then
    error("request: the app has a backplane, which has a time of its own: make it without one in tests", 0)
  end
  local hooks = app._hooks
  local own = { dispatch = hooks.dispatch, report = hooks.report }
  apps[app] = { hooks = own, bytes = 0 }
  function hooks.dispatch(...)
    local kind, handler, second, third = own.dispatch(...)
    local client = asking
    if kind ~= "stream" or not client then return kind, handler, second, third end
    return kind, function(stream, request)
      client.stream = stream
      stream:on_close(function(reason) client.reason = reason end)
      return handler(stream, request)
    end
  end
  if app._has_on_error then return end
  function hooks.report(message)
    app._errors = app._errors + 1
    failures[#failures + 1] = message
  end
end

local function leave(app)
  for name, hook in pairs(apps[app].hooks) do app._hooks[name] = hook end
  app:close { grace = 0, spread = 0 }
end

local REQUEST = {
  method = check.string, headers = function(value)
    if type(value) ~= "table" then return "a table" end
  end,
  body = function(value)
    if type(value) ~= "string" and type(value) ~= "table" then return "a string or a table" end
  end,
  remote = check.string, last_event_id = check.string,
}

local function request(app, target, options)
  if getmetatable(app) ~= App then error("request: app must be an app, not " .. check.show(app), 0) end
  if type(target) ~= "string" or not target:find "^/[^%c ]*$" then
    error("request: target must be a path, as \"/news?x=y\", not " .. check.show(target), 0)
  end
  options = check.options("request", options, REQUEST)
  hold()
  join(app)
  local body, lines, named = options.body, {}, {}
  if type(body) == "table" then
    body, lines[1] = json.encode("request", "body", body), "Content-Type: application/json\r\n"
  end
  for name, value in pairs(options.headers or {}) do
    for _, one in ipairs(type(value) == "table" and value or { value }) do
      lines[#lines + 1] = ("%s: %s\r\n"):format(name, tostring(one))
    end
    named[name:lower()] = true
  end
  if not named.host then lines[#lines + 1] = "Host: localhost\r\n" end
  if options.last_event_id then lines[#lines + 1] = ("Last-Event-ID: %s\r\n"):format(options.last_event_id) end
  if body then lines[#lines + 1] = ("Content-Length: %d\r\n"):format(#body) end
  local method = options.method or (body and "POST" or "GET")
  local fine, half = pcall(core.pair, app._core, options.remote or "127.0.0.1")
  if not fine then
    error(half .. (half:find "closed$" and ": test.finish closes it, so make it anew for each test" or ""), 0)
  end
  local client = setmetatable({
    headers = {}, body = "", events = {}, closed = false, _raw = "", _app = app, _target = target, _options = options,
    _method = method, _reader = core.reader(2 ^ 30), _half = half,
    _sent = ("%s %s HTTP/1.1\r\n%s\r\n%s"):format(method, target, table.concat(lines), body or ""),
  }, Client)
  clients[#clients + 1] = client
  asking = client
  local settled, message = pcall(settle)
  asking = nil
  if not settled then error(message, 0) end
  return client
end

--- A client's request to an app, which has no need to listen, and all that follows at once.
---@param app eventstream.App
---@param target string "/news?x=y"
---@param options { method: string?, headers: table?, body: string|table|nil, remote: string?, last_event_id: string? }?
---@return eventstream.TestClient
function M.request(app, target, options)
  local client = check.call(request, app, target, options)
  return client
end

--- The same for a stream's handler alone, in an app of its own (client.app).
---@param handler eventstream.Handler
---@param options table? as of request; and target, default "/"; and app: options of eventstream.new
---@return eventstream.TestClient
function M.stream(handler, options)
  local own = {}
  for name, value in pairs(options or {}) do own[name] = value end
  local app = check.call(App.new, own.app)
  local target = own.target or "/"
  own.app, own.target = nil, nil
  app:stream("/", { methods = { "GET", "POST" } }, handler)
  app:stream("/*", { methods = { "GET", "POST" } }, handler)
  local client = check.call(request, app, target, own)
  client.app = app
  return client
end

local function check_self(client, who)
  if getmetatable(client) ~= Client then error(("%s: call it with a colon: client:%s()"):format(who, who), 0) end
end

--- The client leaves.
function Client:leave()
  check.call(check_self, self, "leave")
  self.left = true
  self._half:close()
  check.call(settle)
end

--- The same client again, as a browser comes back: with the id that it had last.
---@return eventstream.TestClient
function Client:reconnect()
  check.call(check_self, self, "reconnect")
  if not self.left and not self.closed then self:leave() end
  local options = {}
  for name, value in pairs(self._options) do options[name] = value end
  options.last_event_id = self.last_event_id or options.last_event_id
  local client = check.call(request, self._app, self._target, options)
  return client
end

--- Reads no more, as a slow reader.
function Client:pause()
  check.call(check_self, self, "pause")
  self._paused = true
end

--- Reads on.
function Client:resume()
  check.call(check_self, self, "resume")
  self._paused = false
  check.call(settle)
end

--- The names of the channels that its stream is subscribed to, sorted.
---@return string[]
function Client:subscriptions()
  check.call(check_self, self, "subscriptions")
  local names = {}
  for _, channel in ipairs(self._app:channels()) do
    for _, stream in ipairs(channel:streams()) do
      if stream == self.stream then names[#names + 1] = channel.name end
    end
  end
  table.sort(names)
  return names
end

--- The data of all events, or of those of one type.
---@param event string?
---@return string[]
function Client:data(event)
  check.call(check_self, self, "data")
  local list = {}
  for _, each in ipairs(self.events) do
    if not event or each.event == event then list[#list + 1] = each.data end
  end
  return list
end

--- The next event that was not taken yet; nil: there is none.
---@return eventstream.Received?
function Client:next()
  check.call(check_self, self, "next")
  self._taken = (self._taken or 0) + 1
  local event = self.events[self._taken]
  if not event then self._taken = self._taken - 1 end
  return event
end

--- Ends all clients and their apps, and lets time go on: for after_each.
function M.finish()
  for _, client in ipairs(clients) do client._half:close() end
  clients, failures = {}, {}
  for app in pairs(apps) do leave(app) end
  apps = {}
  pcall(settle)
  if held then core.hold_time(false) end
  held = false
end

return M
