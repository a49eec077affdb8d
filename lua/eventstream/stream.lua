-- The stream's methods that are decisions and not hot work; the others are the core's (csrc/lua/stream.c).
local check = require "eventstream.check"
local core = require "eventstream.core"
local headers = require "eventstream.headers"

---@class eventstream.Stream
---@field closed boolean whether it is over
---@field last_event_id string? what the client says it had last: the header, else the query
---@field request eventstream.Request
---@field data any the script's own; dropped when the stream is over
---@field send fun(self: eventstream.Stream, event: eventstream.Event|string): true?, string? or nil and why
---@field comment fun(self: eventstream.Stream, text: string): true?, string? like send
---@field sleep fun(self: eventstream.Stream, seconds: number): true?, string? in its own handler only
---@field every fun(self: eventstream.Stream, seconds: number, fn: eventstream.Tick): eventstream.Interval
---@field after fun(self: eventstream.Stream, seconds: number, fn: eventstream.Tick): eventstream.Interval
---@field on_close fun(self: eventstream.Stream, fn: fun(reason: eventstream.Reason)) in order; late ones at once
---@field hold fun(self: eventstream.Stream): true?, string? stays open until it is closed
---@field expire fun(self: eventstream.Stream, seconds: number): true?, string? ends, "expired", so long from now
---@field flush fun(self: eventstream.Stream): true?, string? hands what is queued to the kernel now
---@field close fun(self: eventstream.Stream) after what was sent before, which has 5 s

---@alias eventstream.Tick fun(stream: eventstream.Stream)
---@alias eventstream.Reason "client"|"server"|"slow"|"timeout"|"expired"|"error"

---@type eventstream.Stream
local Stream = core.stream

local function check_self(stream, who)
  if not core.is_stream(stream) then
    error(("%s: call it with a colon: stream:%s(...)"):format(who, who), 0)
  end
end

local RESERVED = { ["content-type"] = true, date = true }

--- Sets a header of the head; the same name again replaces it. A list gives several lines.
---@param name string
---@param value string|number|(string|number)[]
---@return eventstream.Stream self
function Stream:header(name, value)
  check.call(check_self, self, "header")
  local block = self:_lines()
  if not block then
    error(self.closed and "header: the stream is over"
      or "header: the head is sent already; set headers before the first send, subscribe or sleep", 2)
  end
  local ok, lines = pcall(headers.lines, "header", name, value, RESERVED)
  if not ok then error(lines, 2) end
  self:_lines(headers.without(block, name) .. lines)
  return self
end

--- Answers with an ordinary response instead of a stream; the stream is over then. 204 tells a browser to stop; any
--- status but 200 ends its EventSource for good (WHATWG HTML, 9.2.3).
---@param status integer 200 to 599
---@param body string?
---@param fields table<string, string|number|(string|number)[]>?
function Stream:reject(status, body, fields)
  check.call(check_self, self, "reject")
  local block = self:_lines()
  if not block then
    if self.closed then return nil, "closed" end
    error("reject: the stream has begun; it can only be closed", 2)
  end
  local ok, code, lines, text = pcall(headers.answer, "reject", status, body, fields)
  if not ok then error(code, 2) end
  for name in pairs(fields or {}) do block = headers.without(block, name) end
  self:_answer(code, headers.without(block, "connection") .. lines, text)
  return true
end

local function check_newcomer(value)
  if value ~= "all" and check.whole(0)(value) then return 'a whole number, 0 or more, or "all"' end
end

local SUBSCRIBE = {
  since = function(value)
    if type(value) ~= "string" and not check.is_finite(value) then return 'an id or "live"' end
  end,
  newcomer = check_newcomer,
  on_gap = function(value)
    if value ~= "kept" and value ~= "live" then return '"kept" or "live"' end
  end,
  member = check.name,
}

-- The channels that an argument names: a channel, a name, or a list of these. find(who, name) is asked for names.
local function channels_of(find, who, what)
  local list, many = {}, type(what) == "table"
  if many and next(what) == nil then error(who .. ": the list of channels is empty", 0) end
  for key in next, many and what or list do
    if type(key) ~= "number" or key < 1 or key > #what or key % 1 ~= 0 then
      error(('%s: channels must be a list, as { "news", "weather" }, not a table with the key %s%s'):format(who,
        check.show(key), #what > 0 and "; options come behind it" or ""), 0)
    end
  end
  for i = 1, many and #what or 1 do
    local each = what
    if many then each = what[i] end
    if type(each) == "string" then
      list[#list + 1] = find(who, each)
    elseif core.is_channel(each) then
      list[#list + 1] = each
    else
      error(("%s: channel must be a channel, a name or a list of these, not %s"):format(who, check.show(each)), 0)
    end
  end
  return list
end

local function start_of(stream, options)
  local since = options.since
  if since == "" then return nil, true, false end -- as an empty header: the client has none
  if type(since) == "number" then since = core.id_text(since) end
  if since ~= nil then return since, true, since == "live" end
  return stream.last_event_id, false, false
end

-- Of several, one that carries a given id comes first: it vouches for the others.
local function carriers_first(list, id)
  if not id then return list end
  for i = 2, #list do
    if list[i]:_carries(id) then
      table.insert(list, 1, table.remove(list, i))
      break
    end
  end
  return list
end

local RANK = { live = 1, resumed = 2, gap = 3 }

-- Subscribes to all or to none: only then is anyone told, who could send, and so part what belongs together.
local function subscribe(stream, what, options)
  check_self(stream, "subscribe")
  options = check.options("subscribe", options, SUBSCRIBE)
  local app = stream:_app()
  if stream.closed or not app then return nil, "closed" end
  if app.catch_up then app.catch_up() end -- the client may come from another process, which was further
  local list = channels_of(app.channel, "subscribe", what)
  for _, channel in ipairs(list) do
    local fine, message = stream:_admits(channel)
    if not fine then return nil, message end
  end
  local id, since, live = start_of(stream, options)
  local newcomer = options.newcomer == "all" and math.huge or options.newcomer or 0
  local result, begun = nil, {}
  for _, channel in ipairs(carriers_first(list, id)) do
    local fine, one, new =
      pcall(stream._subscribe, stream, channel, id, since, live, options.on_gap == "live", newcomer)
    if not fine or not one then -- closed by now, or out of memory
      for _, other in ipairs(begun) do stream:_unsubscribe(other) end
      if not fine then error(one, 0) end
      return nil, new
    end
    if not result or RANK[one] > RANK[result] then result = one end
    if new then begun[#begun + 1] = channel end
  end
  return result, app, begun
end

--- Subscribes to a channel, a name, or a list of these. A stream's first subscriptions start behind what the client had
--- last (`since`, else its Last-Event-ID, else the query), or at the newcomer's; later ones live, unless `since` says
--- so; since = "live" starts there, too, and asks for no newcomer's. What is subscribed already stays as it is, and is
--- "live". Returns "live", "resumed" or "gap", of several the last of these that is true of any; or nil, "closed", and
--- then none has begun.
---@param what eventstream.Channel|string|(eventstream.Channel|string)[]
--- `member` is a name under which the stream counts among channel:members() meanwhile.
---@param options { since: string|integer?, newcomer: integer|"all"|nil, on_gap: "kept"|"live"|nil, member: string? }?
---@return "live"|"resumed"|"gap"|nil, string?
function Stream:subscribe(what, options)
  local hooks = core.is_stream(self) and not self.closed and self:_app()
  if hooks and hooks.prepare then -- outside of what adds positions: it may wait
    local prepared, message = hooks.prepare(self, what, options)
    if prepared == nil and message then return nil, message end
    options = prepared
  end
  local result, app, begun = check.call(subscribe, self, what, options)
  if not result then return nil, app end
  for _, channel in ipairs(begun) do -- outside of what adds positions to errors: the functions may wait
    if self:_tell(channel) then
      app.joined(channel, self, options and options.member)
      if app.subscribed then app.subscribed(channel, self) end
    end
  end
  return result
end

local function nothing() end

local function unsubscribe(stream, what)
  check_self(stream, "unsubscribe")
  local app, any = stream:_app(), false
  for _, channel in ipairs(channels_of(app and app.known or nothing, "unsubscribe", what)) do
    any = stream:_unsubscribe(channel) or any
  end
  return any
end

--- Ends a subscription: nothing more of the channel is written, but for the rest of an event. False if there was none.
---@param what eventstream.Channel|string|(eventstream.Channel|string)[]
---@return boolean
function Stream:unsubscribe(what)
  local any = check.call(unsubscribe, self, what)
  return any
end

local Channel = core.channel

local function check_channel(self, name, callback, optional)
  if not core.is_channel(self) then error(("%s: call it with a colon: channel:%s(...)"):format(name, name), 3) end
  if type(callback) ~= "function" and not (optional and callback == nil) then
    error(("%s: callback must be a function, not %s"):format(name, check.show(callback)), 3)
  end
  return self:_app()
end

--- The names that streams gave as `member` when they subscribed: each once, sorted; in all processes of the app, where
--- this one has subscribers. A callback gets them wherever it is, or nil and why they cannot be known now.
---@param callback fun(names: string[]?, message: string?)?
---@return string[]?
function Channel:members(callback)
  local app = check_channel(self, "members", callback, true)
  if callback and app and app.names then return app.names(self, callback) end
  local names = app and app.members(self.name) or {}
  if not callback then return names end
  callback(names)
end

--- How many subscribers it has in all processes that share it by a backplane; without one, in this process. The
--- callback gets the number; or nil and why it cannot be known now.
---@param callback fun(count: integer?, message: string?)
function Channel:subscribers_total(callback)
  local app = check_channel(self, "subscribers_total", callback)
  if app and app.total then return app.total(self, callback) end
  callback(self.subscribers)
end

return Stream
