-- A client: reads an event stream as a browser's EventSource does, and reconnects by itself (WHATWG HTML, 9.2).
local check = require "eventstream.check"
local core = require "eventstream.core"
local driver = require "eventstream.driver"
local headers = require "eventstream.headers"
local json = require "eventstream.json"
local place = require "eventstream.place"
local url = require "eventstream.url"

local HEAD_SECONDS = 30      -- for connecting and the answer's head
local QUEUE_BYTES = 262144   -- what may wait for events() before the server is held back
local REDIRECTS = 20         -- as browsers have it
local ENDED, DONE = "the stream ended", "the server answered 204: it has nothing more" -- no failures
local RETRY_LEAST = 0.1      -- seconds: "retry: 0" would spin
local RETRY_MOST = 60        -- of what grows by failures; a server may ask for more

---@class eventstream.Source
---@field url string
---@field state "connecting"|"open"|"closed"
---@field last_event_id string? what it had last
---@field failure string? why it is closed, where it was not close()
---@field data any the script's own
local Source = {}

local FIELDS = {
  state = function(source) return rawget(source, "_state") end,
  failure = function(source) return rawget(source, "_failure") end,
  last_event_id = function(source)
    local id = source._core:last_id()
    return id ~= "" and id or nil
  end,
}

local meta = { __index = function(source, name)
  local field = FIELDS[name]
  if field then return field(source) end
  return Source[name]
end }

local contexts = {} -- of TLS, by the file of authorities

local function tls_context(ca_file)
  local key = ca_file or ""
  if contexts[key] then return contexts[key] end
  local found, tls = pcall(require, "eventstream.tls")
  if not found then
    return nil, "https needs OpenSSL, which was not there when eventstream was built (libssl-dev, openssl-devel)"
  end
  local context, message = tls.context(ca_file)
  if not context then return nil, ("ca_file: %s: %s"):format(ca_file or "the system's", message) end
  contexts[key] = context
  return context
end

-- --- What is asked ---

-- Headers that are for the origin that they were meant for (Fetch, 4.4; RFC 9110, 15.4).
local PRIVATE = { authorization = true, cookie = true, ["proxy-authorization"] = true }
local OWN = { host = true, connection = true, ["last-event-id"] = true, ["accept-encoding"] = true }

local function header_lines(own)
  local lines, named = {}, {}
  for name, value in pairs(own or {}) do
    lines[#lines + 1] = { name = name, text = headers.lines("connect", name, value, OWN) }
    named[name:lower()] = true
  end
  table.sort(lines, function(a, b) return a.name < b.name end)
  if not named.accept then lines[#lines + 1] = { name = "Accept", text = "Accept: text/event-stream\r\n" } end
  if not named["cache-control"] then
    lines[#lines + 1] = { name = "Cache-Control", text = "Cache-Control: no-cache\r\n" }
  end
  return lines, named
end

-- What tells of a body is dropped with it (RFC 9110, 15.4).
local OF_BODY = { digest = true, ["last-modified"] = true }

local function is_of_body(name)
  return name:find "^content%-" or OF_BODY[name]
end

-- Methods of which a server wants to be told that there is no body (RFC 9110, 8.6).
local BODIED = { POST = true, PUT = true, PATCH = true }

-- The request of the moment. An id is sent as it came, and not where a header cannot carry it.
local function request_text(source)
  local target, method, body = source._target, source._target_method, source._target_body
  local foreign = not url.same_origin(target, source._url)
  local parts = { ("%s %s HTTP/1.1\r\nHost: %s\r\n"):format(method, target.target, target.authority) }
  for _, line in ipairs(source._lines) do
    local name = line.name:lower()
    if not (foreign and PRIVATE[name] or source._dropped and is_of_body(name)) then parts[#parts + 1] = line.text end
  end
  local id = source._core:last_id()
  if id ~= "" and not id:find "[%z\1-\31\127]" then parts[#parts + 1] = ("Last-Event-ID: %s\r\n"):format(id) end
  if body then
    if source._body_type then parts[#parts + 1] = ("Content-Type: %s\r\n"):format(source._body_type) end
    parts[#parts + 1] = ("Content-Length: %d\r\n"):format(#body)
  elseif BODIED[method] then
    parts[#parts + 1] = "Content-Length: 0\r\n"
  end
  parts[#parts + 1] = "\r\n"
  parts[#parts + 1] = body
  return table.concat(parts)
end

-- --- Its life ---

-- Who waits in next() looks again.
local function wake(source)
  local resume = source._resume
  source._resume = nil
  if resume then resume() end
end

-- Without an on_error the operator is told: of the first failure in a row, and of the end.
local function tell(source, message, seconds)
  if source._on_error then return source._on_error(message, seconds, source) end
  if seconds and (source._failures > 1 or message == ENDED) or message == DONE then return end
  place.tell(("%s: %s%s"):format(source.url, message, seconds and "; it is tried again" or ""))
end

local function finish(source, message)
  if source._state == "closed" then return end
  source._state, source._failure = "closed", message
  source._core:stop()
  wake(source)
  if message then tell(source, message) end
end

local ask

local function jittered(seconds)
  return seconds * (1 + 0.5 * math.random())
end

-- Comes back later: after the server's time, and after one that grows where it fails again and again.
local function again(source, message, least)
  local seconds = math.max(source._retry / 1000, RETRY_LEAST)
  local failures = source._failures
  source._failures = failures + 1
  if failures > 0 then seconds = math.max(seconds, math.min(seconds * 2 ^ math.min(failures, 20), RETRY_MOST)) end
  seconds = math.max(jittered(seconds), least or 0)
  source._state = "connecting"
  source._target, source._target_method, source._target_body = source._url, source._method, source._body
  source._dropped, source._redirects = false, 0
  source._core:wait(seconds)
  tell(source, message, seconds)
end

function ask(source)
  source._state = "connecting"
  local target, context = source._target, nil
  if target.scheme == "https" then
    local message
    context, message = tls_context(source._ca_file)
    if not context then return finish(source, "connect: " .. message) end
  end
  local text = request_text(source)
  local fine, failure = source._core:open(target.host, target.port, context, text, HEAD_SECONDS, source._idle_seconds)
  if not fine then again(source, "connect: " .. failure) end
end

local REDIRECT = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

local function redirect(source, status, location)
  if not location or location == "" then
    return finish(source, ("the server answered %d, without a Location"):format(status))
  end
  source._redirects = source._redirects + 1
  if source._redirects > REDIRECTS then return finish(source, "too many redirects") end
  local target, message = url.resolve(source._target, location)
  if not target then
    return finish(source, ("the server answered %d, with a Location that is none: %s"):format(status, message))
  end
  source._target = target
  local posted = source._target_method == "POST"
  if status == 303 and source._target_method ~= "GET" or posted and (status == 301 or status == 302) then
    source._target_method, source._target_body, source._dropped = "GET", nil, true
  end
  source._core:wait(0)
end

-- Seconds that a Retry-After header asks for; its dates are not looked at.
local function retry_after(fields)
  local seconds = (fields["retry-after"] or ""):match "^%d+$"
  return seconds and math.min(tonumber(seconds), 86400) or nil
end

-- An error of the script's is not the server's: the stream has begun all the same.
local function tell_open(source, status, fields)
  local answer = { status = status, headers = fields }
  local traceback
  local ok, failure = xpcall(function() source._on_open(source, answer) end, function(message)
    traceback = debug.traceback("", 2):gsub("^\n", "")
    return tostring(message)
  end)
  if not ok then place.tell_error(failure, traceback) end
end

local function on_head(source, status, fields)
  if REDIRECT[status] then
    redirect(source, status, fields.location)
    return false
  end
  if status ~= 200 then
    local message = ("the server answered %d"):format(status)
    if status == 204 then
      finish(source, DONE)
    elseif source._retry_status(status) then
      again(source, message, retry_after(fields))
    else
      finish(source, message)
    end
    return false
  end
  local kind = (fields["content-type"] or "none"):lower():match "^%s*([^;%s]*)"
  if kind ~= "text/event-stream" then
    finish(source, ("the server answered with the type %s, and not text/event-stream"):format(kind))
    return false
  end
  local coding = (fields["content-encoding"] or "identity"):lower()
  if coding ~= "identity" then
    finish(source, ("the server answered with the coding %s, unasked"):format(coding))
    return false
  end
  source._state, source._failures = "open", 0
  if source._on_open then tell_open(source, status, fields) end
  wake(source)
  return source._state == "open"
end

local function on_event(source, kind, data, id)
  local event = { event = kind, data = data, id = id ~= "" and id or nil }
  if source._queue then
    source._queue[source._last + 1] = event
    source._last, source._queued = source._last + 1, source._queued + #data + 100
    if source._queued > QUEUE_BYTES then source._core:pause(true) end
    wake(source)
  end
  if source._on_event then source._on_event(event, source) end
end

local function listener(source)
  return function(what, ...)
    if source._state == "closed" then return false end
    if what == "event" then return on_event(source, ...) end
    if what == "head" then return on_head(source, ...) end
    if what == "retry" then
      source._retry = ...
    elseif what == "due" then
      ask(source)
    elseif what == "end" then
      local message = ...
      again(source, message ~= "" and message or ENDED)
    end
  end
end

-- --- What scripts call ---

local function check_self(source, who)
  if getmetatable(source) ~= meta then error(("%s: call it with a colon: source:%s()"):format(who, who), 0) end
end

--- Ends it, for good: nothing is called any more, and who waits for an event gets nil.
function Source:close()
  check.call(check_self, self, "close")
  if self._queue then self._queue, self._first, self._last, self._queued = {}, 1, 0, 0 end
  finish(self)
end

-- Whether the running coroutine may wait, and which it is where it is no handler.
local function waiter(source)
  if source._resume then error("next: another coroutine waits for this source already", 0) end
  if place.nginx then return true end -- its await says where it cannot
  local handler, within = core.in_handler()
  if handler then return true end
  local thread, main = coroutine.running()
  if not thread or main or within then
    error("next: only a handler, or a coroutine of your own, can wait; elsewhere use on_event", 0)
  end
  return false, thread
end

-- Waits to be woken: true; or nil, "closed" where a handler's stream is over.
local function wait(source, handler, thread)
  if handler then
    local woken, message = require "eventstream".await(function(resume)
      source._resume = function() resume(true) end
    end)
    if not woken then source._resume = nil end
    return woken, message
  end
  source._resume = function()
    local ok, message = coroutine.resume(thread)
    if not ok then place.tell_error(tostring(message), debug.traceback(thread)) end
  end
  coroutine.yield()
  return true
end

-- The first event that waits; or false, and why there is none any more.
local function take(source)
  check_self(source, "next")
  if not source._queue then error("next: the source has an on_event, which gets its events", 0) end
  if source._first > source._last then
    return false, source._state == "closed" and (source._failure or "closed") or nil
  end
  local event = source._queue[source._first]
  source._queue[source._first] = nil
  source._first, source._queued = source._first + 1, source._queued - #event.data - 100
  if source._first > source._last then
    source._first, source._last = 1, 0
    source._core:pause(false)
  end
  return event
end

-- The first event that waits; or false and why there is none any more; or false, nil and how to wait for one: true in a
-- handler, else the running coroutine.
local function look(source)
  local event, message = take(source)
  if event or message then return event, message end
  local handler, thread = waiter(source)
  return false, nil, handler or thread
end

-- Waits outside of what adds positions, where Lua 5.1 could not yield.
local function wait_by(source, how)
  return wait(source, how == true, how)
end

--- Waits for the next event, in a handler or in a coroutine of the script's own: the event; or nil and why when the
--- source is closed, or the handler's stream is.
---@return eventstream.Received?, string?
function Source:next()
  while true do
    local event, message, how = check.call(look, self)
    if event then return event end
    local woken
    if how then woken, message = wait_by(self, how) end
    if not woken then return nil, message end
  end
end

--- The same for a loop: `for event in source:events() do`. (Lua 5.1 cannot wait in there: call next().)
---@return fun(): eventstream.Received?
function Source:events()
  check.call(check_self, self, "events")
  return function() -- as next, and raising where the loop stands
    while true do
      local event, _, how = check.call(look, self)
      if event then return event end
      if not how or not wait_by(self, how) then return nil end
    end
  end
end

---@class eventstream.Received
---@field event string the type; "message" where none was given
---@field data string
---@field id string? the last that came, with this event or an earlier one

local function is_statuses(value)
  local wanted = "true (500, 502, 503, 504), or a list of statuses"
  if value == true or value == false then return end
  if type(value) ~= "table" then return wanted end
  for _, status in ipairs(value) do
    if check.whole(300)(status) or status > 599 then return wanted end
  end
end

local OPTIONS = {
  method = function(value)
    if type(value) ~= "string" or not value:find "^%u+$" then return 'a method, as "POST"' end
  end,
  headers = function(value)
    if type(value) ~= "table" then return "a table" end
  end,
  body = function(value)
    if type(value) ~= "string" and type(value) ~= "table" then return "a string or a table" end
  end,
  last_event_id = function(value)
    if type(value) ~= "string" or value:find "[%z\r\n]" then return "a string without line ends" end
  end,
  retry = check.whole(0), retry_status = is_statuses, idle_seconds = check.optional_seconds,
  event_bytes = check.whole(1), ca_file = check.path,
  on_event = check.callable, on_open = check.callable, on_error = check.callable,
}

---@class eventstream.ConnectOptions
---@field method string? default "GET", with a body "POST"
---@field headers table<string, string|number|(string|number)[]>?
---@field body string|table|nil a table is sent as JSON
---@field last_event_id string? to go on from
---@field retry integer? milliseconds until it comes back, until the server says otherwise; default 3000
---@field retry_status boolean|integer[]|nil statuses after which it comes back all the same; default none, as browsers
---@field idle_seconds number|false|nil silence after which it comes back; default: no limit
---@field event_bytes integer? the largest event; default 16777216
---@field ca_file string? certificate authorities, in the place of the system's
---@field on_event fun(event: eventstream.Received, source: eventstream.Source)?
---@field on_open fun(source: eventstream.Source, answer: { status: integer, headers: table<string, string> })?
---@field on_error fun(message: string, seconds: number?, source: eventstream.Source)? seconds: when it comes back

local DEFAULT_STATUSES = { 500, 502, 503, 504 }

local function statuses(value)
  local set = {}
  for _, status in ipairs(value == true and DEFAULT_STATUSES or value or {}) do set[status] = true end
  return function(status) return set[status] end
end

local function connect(address, options)
  options = check.options("connect", options, OPTIONS)
  if type(address) ~= "string" then error("connect: url must be a string, not " .. check.show(address), 0) end
  local target, message = url.parse(address)
  if not target then error(("connect: url '%s': %s"):format(address, message), 0) end
  if options.event_bytes and options.event_bytes > 2 ^ 30 then
    error("connect: event_bytes must be at most 1073741824", 0)
  end
  local lines, named = header_lines(options.headers)
  local body, body_type = options.body, nil
  if type(body) == "table" then body, body_type = json.encode("connect", "body", body), "application/json" end
  local method = options.method or (body and "POST" or "GET")
  if body and (method == "GET" or method == "HEAD") then error("connect: a " .. method .. " has no body", 0) end
  local source = setmetatable({
    url = address, _url = target, _target = target, _method = method, _target_method = method, _body = body,
    _target_body = body, _body_type = not named["content-type"] and body_type or nil, _lines = lines,
    _retry = options.retry or 3000, _retry_status = statuses(options.retry_status), _redirects = 0, _failures = 0,
    _idle_seconds = options.idle_seconds or 0, _ca_file = options.ca_file, _state = "connecting",
    _on_event = options.on_event, _on_open = options.on_open, _on_error = options.on_error,
  }, meta)
  if not options.on_event then source._queue, source._first, source._last, source._queued = {}, 1, 0, 0 end
  source._core = core.source(options.event_bytes or 16777216, listener(source))
  if options.last_event_id then source._core:last_id(options.last_event_id) end
  if target.scheme == "https" then
    local context
    context, message = tls_context(options.ca_file)
    if not context then error("connect: " .. message, 0) end
  end
  source._core:wait(0) -- the first callbacks come when the script has returned, too
  driver.attach()
  return source
end

meta.__close = function(source) finish(source) end

local M = {}

--- Reads the event stream at an address.
---@param address string
---@param options eventstream.ConnectOptions?
---@return eventstream.Source
function M.connect(address, options)
  local source = check.call(connect, address, options)
  return source
end

M.Source = Source

return M
