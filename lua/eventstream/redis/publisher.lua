-- What a process publishes: it waits, is sent in order, and is forgotten when Redis has answered. While an answer is
-- waited for, what is published meanwhile gathers: load makes it cheaper.
local core = require "eventstream.core"
local place = require "eventstream.place"
local pace = require "eventstream.redis.pace"
local timer = require "eventstream.timer"

local BATCH, BATCH_BYTES = 500, 1048576 -- events that one script appends
local NAMES = 100000                    -- channels whose last number is remembered
local WAITING, WAITING_BYTES = 10000, 16777216

local IS_EVENT = { own = true, given = true, none = true } -- the rest tells processes of something

local M = {}

local Publisher = {}
Publisher.__index = Publisher

--- Of a place: its app, link, token, keys and channels' bounds.
function M.new(home, options)
  local self = setmetatable({
    home = home, most = options.waiting or WAITING, most_bytes = options.waiting_bytes or WAITING_BYTES,
    -- What waits, from first to last; up to sent it is under way. An event's count is its place and what was before.
    packed = {}, heads = {}, callbacks = {}, ids = {}, -- a callback that was told already is false
    first = 1, last = 0, sent = 0, before = 0, bytes = 0,
    known = {}, -- heads by kind and name
    excepts = {}, -- by count: the streams that are not to have it
    pace = math.huge, sent_at = -math.huge,
  }, Publisher)
  self.timer = timer.new(function() self:flush() end)
  return self
end

local function count_of(events) return events == 1 and "1 event is" or events .. " events are" end

--- How many wait, or are under way.
function Publisher:count() return self.last - self.first + 1 end

--- Whether nothing waits.
function Publisher:empty() return self.first > self.last end

--- Channels' options are looked up anew.
function Publisher:forget() self.known = {} end

--- Stops what it does by itself.
function Publisher:stop() timer.cancel(self.timer) end

-- What the events of a channel have in common.
function Publisher:head(name, kind)
  local heads = self.known[kind]
  if not heads then
    heads = {}
    self.known[kind] = heads
  end
  local head = heads[name]
  if not head then
    local history, milliseconds, flush = self.home:bounds(name)
    head = { name = name, kind = kind, history = history, milliseconds = milliseconds,
      pace = IS_EVENT[kind] and pace.of(flush) or 0 }
    heads[name] = head
  end
  return head
end

--- An event that is not taken: who waits for its answer is told, too.
function Publisher:refuse(callback, why)
  if callback then timer.after(0, function() self.home:call_back(callback, nil, why) end) end
  return nil, why
end

--- What the core calls for each event that is published, and for a channel that is closed.
function Publisher:relay(name, kind, packed, except, callback, id)
  packed = packed or ""
  local at = self.last + 1
  if IS_EVENT[kind] and (at - self.first >= self.most or self.bytes + #packed > self.most_bytes) then
    local state = self.home.link.ready and "redis is slow" or self.home:away()
    return self:refuse(callback, "too much waits: " .. state)
  end
  local head = self:head(name, kind)
  self.last = at
  self.packed[at], self.heads[at], self.callbacks[at], self.ids[at] = packed, head, callback, id
  self.bytes = self.bytes + #packed
  if except then self.excepts[self.before + at] = except end
  if not self.sending and (head.pace == 0 or at - self.sent >= BATCH) then
    self:flush() -- into the connection's buffer, which is written at the turn's end
  elseif head.pace < self.pace or not (self.planned or self.sending) then
    self:plan(head.pace)
  end
  return true
end

-- At the turn's end, or when it is time for the next batch.
function Publisher:plan(seconds)
  if seconds < self.pace then self.pace = seconds end
  if self.sending or not self.home.link.ready then return end
  self.planned = true
  self.timer:wait(math.max(0, self.sent_at + self.pace - core.now()))
end

--- Sends what waits, if it is not on its way.
function Publisher:flush()
  self.planned = false
  local home = self.home
  if not home.link.ready or self.sending or self.sent >= self.last then return end
  local from, to, size = self.sent + 1, self.sent, 0
  local arguments = { "EVALSHA", home.link.shas.publish, 5, home.state_key, home.channels_key,
    home.done_key .. ":" .. home.token, home.control_key, home.news_key, home.epoch, home.token, NAMES, home.prefix,
    ("%.0f"):format(self.before + from) }
  local n, head, row = #arguments, nil, nil
  while to < self.last and to - from + 1 < BATCH and size < BATCH_BYTES do
    to = to + 1
    if self.heads[to] ~= head then
      head, row = self.heads[to], n + 5
      arguments[n + 1], arguments[n + 2], arguments[n + 3] = head.name, head.kind, head.history
      arguments[n + 4], arguments[row], n = head.milliseconds, 0, row
    end
    n = n + 1
    arguments[n], arguments[row], size = self.packed[to], arguments[row] + 1, size + #self.packed[to]
  end
  self.sent, self.sent_at = to, core.now()
  self.sending, self.pace = true, to < self.last and 0 or math.huge
  home.link:call("commands", arguments, function(rows, message)
    if message == "closed" then return end
    if message and home.link.tells_anew(message) then return home.link:drop(message) end
    self.sending = false
    self:answered(from, to, rows, message)
  end)
end

-- What the script has replied to a batch: about the first so many of it.
function Publisher:answered(from, to, rows, message)
  local told = {}
  for i = 1, rows and #rows or 0, 2 do
    local number, last = rows[i], math.min(to, from + rows[i + 1] - 1)
    if type(number) == "number" then
      self:settle(from, last, number, nil, told)
    else
      self:settle(from, last, nil, number, told)
    end
    from = last + 1
  end
  if not rows then
    self:settle(from, to, nil, message, told)
  elseif from <= to then
    self.sent, self.pace = from - 1, 0 -- the rest is sent again
  end
  if self:empty() then
    self.before = self.before + self.last
    self.first, self.last, self.sent = 1, 0, 0
    if self.drained then timer.after(0, self.drained) end
  elseif self.sent < self.last then
    self:plan(self.pace)
  end
  for _, tell in ipairs(told) do tell() end -- who may publish
end

-- An answer for some in a row: the first one's number; or why not.
function Publisher:settle(from, to, number, message, told)
  local home, lost = self.home, 0
  for at = from, to do
    local callback, head, id = self.callbacks[at], self.heads[at], self.ids[at]
    if not number or not home.reader:reads(head.name) then self.excepts[self.before + at] = nil end
    if callback then
      if head.kind == "none" then
        id = true
      elseif number then
        id = id or ("%s-%.0f"):format(home.epoch, number + at - from)
      end
      told[#told + 1] = function() home:call_back(callback, number and id or nil, message) end
    elseif not number and IS_EVENT[head.kind] then
      if callback == nil then lost = lost + 1 end
    elseif not number then
      home:refused(head.kind, head.name, message, self.packed[at])
    end
    self.bytes = self.bytes - #self.packed[at]
    self.packed[at], self.heads[at], self.callbacks[at], self.ids[at] = nil, nil, nil, nil
  end
  self.first = to + 1
  if number then home.known = math.max(home.known, number + to - from) end
  if lost > 0 then place.tell(("redis: %s lost: %s"):format(count_of(lost), message)) end
end

--- The link is cut: what was done already is found out when it is sent again.
function Publisher:reset()
  self.sending, self.planned = false, false
  self.sent = self.first - 1
end

--- Who waits for an answer is told why there is none; the events wait on.
function Publisher:let_go(why)
  local told = {}
  for at = self.first, self.last do
    if self.callbacks[at] then told[#told + 1], self.callbacks[at] = self.callbacks[at], false end
  end
  for _, callback in ipairs(told) do self.home:call_back(callback, nil, why) end
end

--- Nothing waits any longer.
function Publisher:give_up(why)
  local lost = 0
  for at = self.first, self.last do
    if IS_EVENT[self.heads[at].kind] and self.callbacks[at] == nil then lost = lost + 1 end
  end
  if lost > 0 then
    place.tell(("redis: %s lost: the app was closed before Redis had taken them"):format(count_of(lost)))
  end
  self:let_go(why)
  self.first = self.last + 1
end

return M
