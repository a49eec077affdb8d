-- What a process reads: the channels that it has subscribers for. A channel's history is read first; from then on the
-- news tell which streams have got something, and these are read, into the same logs as ever.
local core = require "eventstream.core"
local place = require "eventstream.place"
local entries = require "eventstream.redis.entries"
local pace = require "eventstream.redis.pace"
local timer = require "eventstream.timer"

local BLOCK_MS = 5000   -- of an XREAD
local IDLE_SECONDS = 30 -- a channel without subscribers is read so much longer
local KEYS = 500        -- streams that one XREAD asks for, and channels that one script looks at
local HISTORIES = 16    -- that are under way at once
local AT_REST = 0.1     -- seconds between two rounds where nothing is read but what is for all processes

local IS_EVENT = { own = true, given = true, none = true }

local M = {}

local Reader = {}
Reader.__index = Reader

--- Of a place: its app, link, keys, publisher and presence.
function M.new(home)
  local self = setmetatable({
    home = home,
    reading = {},    -- by name: { channel, last = number of its last event, keys, idle = seconds, pace }
    keys = {},       -- names by key, of those; and that of the control stream
    wanted = {},     -- names that are to be read, though nobody waits for them
    waiters = {},    -- by function: the names that are to be read before it is called, and up to where Redis is now
    refused = {},    -- by name: why a channel cannot be read, of the last round that tried
    control = 0,     -- the number of the control stream's last entry
    began_at = -math.huge, pace = AT_REST,
  }, Reader)
  self.keys[home.control_key] = ""
  self.rest = timer.new(function() self:read() end)
  return self
end

function Reader:reads(name) return self.reading[name] ~= nil end

--- Has a channel read from now on, if Redis is there.
function Reader:want(name)
  if self.home.link.ready then self.wanted[name] = true end
end

--- Calls the function, with true, when the channels are read (or refused), up to where Redis is now.
function Reader:await(names, fn)
  self.waiters[fn] = names
  self:poke()
end

--- It is not to be called any more.
function Reader:let_go(fn)
  self.waiters[fn] = nil
  if self.round then self.round.waiters[fn] = nil end
end

-- --- What has come ---

function Reader:warn(key)
  if self.warned then return end
  self.warned = true
  place.tell(("redis: %s has an entry that is no event of ours"):format(key))
end

-- Appends what has come of several channels, up to a number.
function Reader:take(flat, to)
  local home = self.home
  local app, token, excepts = home.app, home.token, home.publisher.excepts
  local time = os.time() * 1000 + home.skew
  for at = 0, #flat - entries.PLACES, entries.PLACES do
    local number, kind, before = flat[at + entries.NUMBER], flat[at + entries.KIND], flat[at + entries.BEFORE]
    if number > to then return end -- the rest comes again
    home.losses:tell_before(number)
    local name = flat[at + entries.CHANNEL] or self.keys[flat[at + entries.KEY]]
    local read = self.reading[name]
    if flat[at + entries.KEY] == home.control_key then
      if before > self.control then self.lapsed = true end -- those between are gone
      self.control = number
    end
    if IS_EVENT[kind] then
      if read then
        if kind ~= "none" then
          if before > read.last then core.handover.lose(read.channel, before) end -- those between are gone
          read.last = number
        end
        local except
        if flat[at + entries.PROCESS] == token then
          local count = flat[at + entries.COUNT]
          except = excepts[count]
          if except then excepts[count] = nil end
        end
        local age = time - flat[at + entries.TIME]
        local fine = pcall(read.channel._deliver, read.channel, kind, flat[at + entries.PACKED], except, number,
          age > 0 and age or 0)
        if not fine then self:warn(flat[at + entries.KEY]) end
      end
    elseif kind == "members" then
      if read then home.presence:take(name, flat[at + entries.PROCESS], flat[at + entries.PACKED]) end
    elseif kind == "loss" then
      home.losses:hear(flat[at + entries.PACKED], number)
    elseif kind == "close" then -- both the channel and the control stream have it
      local channel = read and read.channel
      if not channel and flat[at + entries.CHANNEL] and name ~= "" then channel = app._hooks.known("channel", name) end
      if channel then channel:_end() end
      if read then self:forget(name) end
    else
      self:warn(flat[at + entries.KEY])
    end
  end
end

-- A channel's whole history, up to where this process is; the rest comes as ever.
function Reader:prime(name, last, flat, time, members)
  local handover, home = core.handover, self.home
  local app = home.app
  local channel = app._hooks.channel("subscribe", name)
  local here = handover.sequence(app._core)
  local from, gone, first = 0, last, false
  for at = 0, #flat - entries.PLACES, entries.PLACES do
    local kind = flat[at + entries.KIND]
    if kind == "close" then -- it began anew
      from, gone = at + entries.PLACES, flat[at + entries.NUMBER]
    elseif IS_EVENT[kind] and not first then
      gone = flat[at + entries.BEFORE]
    end
    first = first or IS_EVENT[kind] or kind == "close"
  end
  handover.clear(channel)
  handover.set_channel(channel, gone, gone, true)
  local _, _, flush = home:bounds(name)
  local read = { channel = channel, last = gone, idle = 0, pace = pace.of(flush),
    key = home:key("channel", name), live_key = home:key("live", name) }
  for at = from, #flat - entries.PLACES, entries.PLACES do
    local number, kind = flat[at + entries.NUMBER], flat[at + entries.KIND]
    if number <= here and IS_EVENT[kind] then
      local age = math.max(0, time - flat[at + entries.TIME])
      local fine = pcall(handover.add_packed, channel, number, age, kind, flat[at + entries.PACKED])
      if not fine then self:warn(read.key) end
      read.last = number
    end
  end
  handover.done(channel)
  self.reading[name] = read
  self.keys[read.key], self.keys[read.live_key] = name, name
  self.pace = math.min(self.pace, read.pace)
  home.presence:take_all(name, members)
end

-- It is read no longer.
function Reader:forget(name)
  local read = self.reading[name]
  if not read then return end
  self.reading[name], self.keys[read.key], self.keys[read.live_key] = nil, nil, nil
  self.home.presence:forget(name)
end

--- Called each second: channels that nobody is subscribed to are left after a while.
function Reader:tick()
  self.pace = AT_REST
  for name, read in pairs(self.reading) do
    local _, _, flush = self.home:bounds(name)
    read.pace = pace.of(flush)
    self.pace = math.min(self.pace, read.pace)
    read.idle = read.channel.subscribers > 0 and 0 or read.idle + 1
    if read.idle > IDLE_SECONDS then
      core.handover.clear(read.channel)
      self:forget(name)
    end
  end
end

-- --- The rounds: there is one at a time ---

--- The link is cut; who waits waits on, for the next one.
function Reader:reset()
  local round = self.round
  self.round = nil
  if not round then return end
  for fn, names in pairs(round.waiters) do self.waiters[fn] = names end
  self.lapsed = true
end

--- What was read of the channels may have holes: Redis is another one than before.
function Reader:lapse() self.lapsed = true end

--- Stops what it does by itself.
function Reader:stop() timer.cancel(self.rest) end

-- Calls a command of the round's, and the function with its reply if the round goes on. refuse(why): what is to be done
-- with an error, in the place of cutting the link.
local function ask(self, round, arguments, fn, refuse, flat, seconds)
  local link = self.home.link
  link:call("reader", arguments, function(reply, message)
    if self.round ~= round or message == "closed" or self.home.over then return end
    if reply == nil and refuse and not link.tells_anew(message) then return refuse(message) end
    if reply == nil then return link:drop(message) end
    local fine, failure = pcall(fn, reply)
    if not fine then link:drop(tostring(failure)) end
  end, flat, seconds)
end

-- The names that are to be read and are not yet: others were on their way when they were asked for.
local function missing(self, round, wanted)
  local names, seen = {}, {}
  local function add(name)
    if not self.reading[name] and not seen[name] then seen[name], names[#names + 1] = true, name end
  end
  for name in pairs(wanted) do add(name) end
  for _, list in pairs(round.waiters) do
    for _, name in ipairs(list) do add(name) end
  end
  return names
end

--- Begins a round, unless one is under way: new channels' histories, then what is new of all.
function Reader:read()
  local home = self.home
  if not home.link.ready or self.round or home.over then return end
  local round, wanted = { waiters = self.waiters, all = self.lapsed }, self.wanted
  self.round, self.wanted, self.waiters, self.lapsed, self.began_at = round, {}, {}, false, core.now()
  self.refused = {}
  local names = missing(self, round, wanted)
  if #names == 0 and not next(round.waiters) and not round.all then return self:read_news(round, true) end
  local read = {}
  for name in pairs(round.all and self.reading or {}) do read[#read + 1] = name end
  self:look_at(round, read, 1, function()
    self:read_histories(round, names, function() self:read_news(round, false) end)
  end)
end

-- Where Redis is now. In another term that is not where this process can go: its own ends before that.
local function see_head(self, round, number, nonce)
  if nonce ~= self.home.epoch then error("another term has begun", 0) end
  round.head = math.max(round.head or 0, tonumber(number))
end

-- What has become of the channels that are read: of some at a time, and where Redis is.
function Reader:look_at(round, names, first, done)
  local home, last = self.home, math.min(first + KEYS - 1, #names)
  local arguments = { "EVALSHA", home.link.shas.lapsed, 3, home.state_key, home.channels_key, home.nodes_key,
    home.prefix }
  for i = first, last do arguments[#arguments + 1] = names[i] end
  ask(self, round, arguments, function(reply)
    see_head(self, round, reply[1], reply[2])
    home.losses:learn(reply[3])
    for i = first, last do
      local read, at = self.reading[names[i]], 4 + (i - first) * 3
      local newest = tonumber(reply[at])
      if read and reply[at + 1] == 0 and newest > read.last then -- gone altogether, without an entry that tells of it
        read.last = newest
        core.handover.lose(read.channel, newest)
      end
      if read then home.presence:take_all(names[i], reply[at + 2]) end
    end
    if last >= #names then done() else self:look_at(round, names, last + 1, done) end
  end)
end

-- The histories of new channels, some at a time.
function Reader:read_histories(round, names, done)
  local home, next_one, left = self.home, 0, #names
  if left == 0 then return done() end
  local ask_next
  local function answered(name, why)
    self.refused[name] = why
    left = left - 1
    if left == 0 then done() else ask_next() end
  end
  function ask_next()
    next_one = next_one + 1
    local name = names[next_one]
    if not name then return end
    local key = home:key("channel", name)
    ask(self, round, { "EVALSHA", home.link.shas.history, 5, home.state_key, home.channels_key, key,
      home:key("members", name), home.nodes_key, name }, function(reply)
        see_head(self, round, reply[1], reply[6])
        local fine, why = pcall(self.prime, self, name, tonumber(reply[2]), entries.flat { { key, reply[3] } },
          tonumber(reply[4]), reply[5])
        answered(name, not fine and tostring(why) or nil)
      end, function(why) answered(name, why) end)
  end
  for _ = 1, math.min(HISTORIES, #names) do ask_next() end
end

-- Which streams have got something. The steps that appended are told in their order, each with what was the newest
-- number before it: where that is another than here, news are missing, and all streams are read.
function Reader:read_news(round, block)
  local home = self.home
  local here = core.handover.sequence(home.app._core)
  local from = ("%.0f-18446744073709551615"):format(here) -- whatever stands behind a number
  local arguments = { "XREAD", "STREAMS", home.news_key, from }
  if block then arguments = { "XREAD", "BLOCK", BLOCK_MS, "STREAMS", home.news_key, from } end
  self.blocked, round.waiting = block, block
  ask(self, round, arguments, function(reply)
    self.blocked, round.waiting = false, false
    local news = reply and reply[1][2] or {}
    local keys, seen, told, to, missed = {}, {}, {}, here, round.all
    local function add(key)
      if not seen[key] then
        seen[key], keys[#keys + 1] = true, key
      end
    end
    for _, step in ipairs(news) do
      local fields = step[2]
      local before, nonce = fields[2]:match "^(%d+) (%x+)$"
      if before and not home.terms[nonce] and not round.all then -- begun while the link stood
        return home.link:drop "another term has begun"
      end
      missed = missed or tonumber(before) ~= to
      to = tonumber((step[1]:match "^%d+"))
      for i = 3, #fields, 2 do
        if self.keys[fields[i]] and fields[i + 1] ~= "" then
          told[#told + 1] = { fields[i], fields[i + 1] }
        elseif self.keys[fields[i]] then
          add(fields[i])
        end
      end
    end
    if round.head and round.head > to then
      missed, to = true, round.head
    end
    if missed then
      for key in pairs(self.keys) do add(key) end
    elseif #keys > 0 then
      for _, event in ipairs(told) do add(event[1]) end
    end
    self:read_streams(round, keys, from, to, 1, #keys == 0 and #told > 0 and { entries.told(told) } or {})
  end, nil, false, block and BLOCK_MS / 1000 or 0)
end

-- Reads streams, some at a time, and takes up to a number what is in them.
function Reader:read_streams(round, keys, from, to, first, lists)
  if first > #keys then
    if #lists > 0 then self:take(entries.join(lists), to) end
    self.home.losses:tell_before(to + 1)
    if to > core.handover.sequence(self.home.app._core) then self.home.app._core:pass(to) end -- wanted by nobody here
    return self:finish(round)
  end
  local last = math.min(first + KEYS - 1, #keys)
  local arguments, n = { "XREAD", "STREAMS" }, last - first + 1
  for i = 1, n do arguments[2 + i], arguments[2 + n + i] = keys[first + i - 1], from end
  ask(self, round, arguments, function(flat)
    lists[#lists + 1] = flat
    self:read_streams(round, keys, from, to, last + 1, lists)
  end, nil, true)
end

function Reader:finish(round)
  self.home.link.attempts = 0 -- it is one to work with
  for fn in pairs(round.waiters) do fn(true) end -- who may wait anew
  self.round = nil
  if next(self.wanted) or next(self.waiters) then return self:read() end
  local seconds = self.began_at + self.pace - core.now()
  if seconds > 0 then self.rest:wait(seconds) else self:read() end
end

--- Something else is to be read: ends the round that waits for what is new.
function Reader:poke()
  local round = self.round
  if not round then return self:read() end
  if not self.blocked then return end -- it comes to its end, and the next one begins
  self.blocked = false
  self.home.link:unblock(function(waited)
    if not waited and self.round == round and round.waiting then -- it was sooner than the XREAD
      self.blocked = true
      self:poke()
    end
  end)
end

return M
