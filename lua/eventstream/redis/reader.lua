-- What a process reads: the channels that it has subscribers for. A channel's history is read first; from then on the
-- news tell which streams have got something, and these are read, into the same logs as ever.
local core = require "eventstream.core"
local entries = require "eventstream.redis.entries"
local pace = require "eventstream.redis.pace"
local place = require "eventstream.place"
local timer = require "eventstream.redis.timer"

local BLOCK_MS = 5000   -- of an XREAD
local IDLE_SECONDS = 30 -- a channel without subscribers is read so much longer
local KEYS = 500        -- streams that one XREAD asks for
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
    wanted = {},     -- names that are to be read
    waiters = {},    -- functions to be called when they are, and all is read that Redis has by now
    lost = 0,        -- up to which number all was lost, as was told
    began_at = -math.huge, pace = AT_REST,
  }, Reader)
  self.keys[home.control_key] = ""
  self.rest = timer.new(function() self:read() end)
  return self
end

function Reader:reads(name) return self.reading[name] ~= nil end

--- Has a channel read from now on.
function Reader:want(name) self.wanted[name] = true end

--- Calls the function, with true, when all that was wanted is read, up to where Redis is now.
function Reader:await(fn)
  self.waiters[#self.waiters + 1] = fn
  self:poke()
end

-- --- What has come ---

-- Appends what has come of several channels, up to a number.
function Reader:take(flat, to)
  local home = self.home
  local app, token, excepts = home.app, home.token, home.publisher.excepts
  local time = os.time() * 1000 + home.skew
  for at = 0, #flat - entries.PLACES, entries.PLACES do
    local number, kind, before = flat[at + entries.NUMBER], flat[at + entries.KIND], flat[at + entries.BEFORE]
    if number > to then return end -- the rest comes again
    local name = flat[at + entries.CHANNEL] or self.keys[flat[at + entries.KEY]]
    local read = self.reading[name]
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
        read.channel:_deliver(kind, flat[at + entries.PACKED], except, number, age > 0 and age or 0)
      end
    elseif kind == "members" then
      if read then home.presence:take(name, flat[at + entries.PROCESS], flat[at + entries.PACKED]) end
    elseif kind == "loss" then
      local up_to = tonumber(flat[at + entries.PACKED]) or number
      if up_to > self.lost then -- else another process has said so, too
        self.lost = up_to
        app._core:lose(number) -- the first one's entry may be gone, and what came behind it read already
      end
    elseif kind == "close" and not flat[at + entries.CHANNEL] then -- the control stream has it, too
      if read then read.last = number end
    elseif kind == "close" then
      local channel = app._hooks.known("channel", name)
      if channel then channel:_end() end
      self:forget(name)
    elseif not self.warned then
      self.warned = true
      place.tell(("redis: %s has an entry that is no event of ours"):format(flat[at + entries.KEY]))
    end
  end
end

-- A channel's whole history, up to where this process is; the rest comes as ever.
function Reader:prime(name, last, flat, time, members)
  local handover, home = core.handover, self.home
  local app = home.app
  local channel = app._hooks.channel("subscribe", name)
  local here = handover.sequence(app._core)
  local from, gone = 0, last
  for at = 0, #flat - entries.PLACES, entries.PLACES do
    if flat[at + entries.KIND] == "close" then -- it began anew
      from, gone = at + entries.PLACES, flat[at + entries.NUMBER]
    elseif at == 0 then
      gone = flat[at + entries.BEFORE]
    end
  end
  handover.clear(channel)
  handover.set_channel(channel, gone, gone, true)
  local _, _, flush = home:bounds(name)
  local read = { channel = channel, last = gone, idle = 0, pace = pace.of(flush),
    key = home:key("channel", name), live_key = home:key("live", name) }
  for at = from, #flat - entries.PLACES, entries.PLACES do
    local number, kind = flat[at + entries.NUMBER], flat[at + entries.KIND]
    if number <= here and IS_EVENT[kind] then
      handover.add_packed(channel, number, math.max(0, time - flat[at + entries.TIME]), kind, flat[at + entries.PACKED])
      read.last = number
    end
  end
  handover.done(channel)
  self.reading[name] = read
  self.keys[read.key], self.keys[read.live_key] = name, name
  self.pace = math.min(self.pace, read.pace)
  home.presence:forget(name)
  for i = 1, #members, 2 do home.presence:take(name, members[i], members[i + 1]) end
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
  for _, fn in ipairs(round.waiters) do self.waiters[#self.waiters + 1] = fn end
  for name in pairs(round.wanted) do self.wanted[name] = true end
  self.lapsed = true
end

--- What was read of the channels may have holes: Redis is another one than before.
function Reader:lapse() self.lapsed = true end

--- Stops what it does by itself.
function Reader:stop() timer.cancel(self.rest) end

-- Calls a command of the round's, and the function with its reply if the round goes on.
local function ask(self, round, arguments, fn, flat, seconds)
  self.home.link:call("reader", arguments, function(reply, message)
    if self.round ~= round or message == "closed" or self.home.over then return end
    if reply == nil then return self.home.link:drop(message) end
    local fine, failure = pcall(fn, reply)
    if not fine then self.home.link:drop(tostring(failure)) end
  end, flat, seconds)
end

--- Begins a round, unless one is under way: new channels' histories, then what is new of all.
function Reader:read()
  local home = self.home
  if not home.link.ready or self.round or home.over then return end
  local round = { wanted = self.wanted, waiters = self.waiters, all = self.lapsed }
  self.round, self.wanted, self.waiters, self.lapsed, self.began_at = round, {}, {}, false, core.now()
  local names = {}
  for name in pairs(round.wanted) do
    if not self.reading[name] then names[#names + 1] = name end -- else it was on its way when it was asked for
  end
  if round.all then
    for name in pairs(self.reading) do names[#names + 1] = name end
  end
  if #names == 0 and #round.waiters == 0 and not round.all then return self:read_news(round, true) end
  if #names == 0 then names[1] = "" end -- only where the head is
  local left = #names
  for _, name in ipairs(names) do
    local key = home:key("channel", name)
    ask(self, round, { "EVALSHA", home.link.shas.history, 5, home.state_key, home.channels_key, key,
      home:key("members", name), home.nodes_key, name }, function(reply)
        local read, last = self.reading[name], tonumber(reply[2])
        round.head = math.max(round.head or 0, tonumber(reply[1]))
        if not read and name ~= "" then
          self:prime(name, last, entries.flat { { key, reply[3] } }, tonumber(reply[4]), reply[5])
        elseif read and #reply[3] == 0 and last > read.last then -- gone altogether, without an entry that tells of it
          read.last = last
          core.handover.lose(read.channel, last)
        end
        left = left - 1
        if left == 0 then self:read_news(round, false) end
      end)
  end
end

-- Which streams have got something. The steps that appended are told in their order, each with what was the newest
-- number before it: where that is another than here, news are missing, and all streams are read.
function Reader:read_news(round, block)
  local home = self.home
  local here = core.handover.sequence(home.app._core)
  local arguments = { "XREAD", "STREAMS", home.news_key, ("%.0f-0"):format(here) }
  if block then arguments = { "XREAD", "BLOCK", BLOCK_MS, "STREAMS", arguments[3], arguments[4] } end
  self.blocked, round.waiting = block, block
  ask(self, round, arguments, function(reply)
    self.blocked, round.waiting = false, false
    local news = reply and reply[1][2] or {}
    local keys, seen, to = {}, {}, round.head or here
    local function add(key)
      if self.keys[key] and not seen[key] then
        seen[key], keys[#keys + 1] = true, key
      end
    end
    for _, step in ipairs(news) do
      to = math.max(to, tonumber((step[1]:match "^%d+")))
      for i = 3, #step[2], 2 do add(step[2][i]) end
    end
    if #news > 0 and tonumber(news[1][2][2]) > here or round.all then
      for key in pairs(self.keys) do add(key) end
    end
    self:read_streams(round, keys, ("%.0f-0"):format(here), to, 1, {})
  end, false, block and BLOCK_MS / 1000 or 0)
end

-- Reads streams, some at a time, and takes up to a number what is in them.
function Reader:read_streams(round, keys, from, to, first, lists)
  if first > #keys then
    if #lists > 0 then self:take(entries.join(lists), to) end
    if to > core.handover.sequence(self.home.app._core) then self.home.app._core:pass(to) end -- wanted by nobody here
    return self:finish(round)
  end
  local last = math.min(first + KEYS - 1, #keys)
  local arguments, n = { "XREAD", "STREAMS" }, last - first + 1
  for i = 1, n do arguments[2 + i], arguments[2 + n + i] = keys[first + i - 1], from end
  ask(self, round, arguments, function(flat)
    lists[#lists + 1] = flat or nil
    self:read_streams(round, keys, from, to, last + 1, lists)
  end, true)
end

function Reader:finish(round)
  self.round = nil
  for _, fn in ipairs(round.waiters) do fn(true) end
  if next(self.wanted) or #self.waiters > 0 then return self:read() end
  local seconds = self.began_at + self.pace - core.now()
  if seconds > 0 then self.rest:wait(seconds) else self:read() end
end

--- Something else is to be read: ends the round that waits for what is new.
function Reader:poke()
  local home, round = self.home, self.round
  if not round then return self:read() end
  if not self.blocked then return end -- it comes to its end, and the next one begins
  self.blocked = false
  home.link:unblock(function(waited)
    if not waited and self.round == round and round.waiting then -- it was sooner than the XREAD
      self.blocked = true
      self:poke()
    end
  end)
end

return M
