-- Who is subscribed, in all processes: how many, told each second; and their names, told when they change. What a
-- process has told counts for as long as it is heard of.
local core = require "eventstream.core"
local members = require "eventstream.members"
local timer = require "eventstream.timer"

local NODE_SECONDS = 15  -- a process that was not heard of for so long is dead
local KEY_SECONDS = 3600 -- what is told of a channel is kept for so long, so that what dead ones told goes by itself

local M = {}

local Presence = {}
Presence.__index = Presence

--- Of a place: its app, link, token, keys, publisher and reader.
function M.new(home)
  local self = setmetatable({ home = home, others = {}, told = {}, heard_at = -math.huge,
    renewed = { presence = {}, members = {} }, -- by name: when their keys were told to live on
    -- names of channels: whose members are to be told, were, and were not taken
    changed = {}, named = {}, again = {} }, Presence)
  self.timer = timer.new(function() self:tell_changed() end)
  return self
end

local function nothing() end

-- --- How many ---

function Presence:tell_count(name, count)
  local home = self.home
  local key = home:key("presence", name)
  local arguments = count > 0 and { "HSET", key, home.token, count } or { "HDEL", key, home.token }
  home.link:call("commands", arguments, nothing)
  self.told[name] = count > 0 and count or nil
end

-- Keys of what this process has told live on.
function Presence:renew(what, told)
  local renewed, home = self.renewed[what], self.home
  local due = core.now() - KEY_SECONDS / 3
  for name in pairs(told) do
    if (renewed[name] or -math.huge) < due then
      renewed[name] = core.now() - KEY_SECONDS / 6 * math.random() -- not all at once the next time
      home.link:call("commands", { "EXPIRE", home:key(what, name), KEY_SECONDS }, nothing)
    end
  end
  for name in pairs(renewed) do
    if not told[name] then renewed[name] = nil end
  end
end

--- Redis may have forgotten what was told, and has not heard what happened meanwhile.
function Presence:reset()
  self.told, self.heard_at, self.renewed = {}, -math.huge, { presence = {}, members = {} }
  for name in pairs(self.named) do self.changed[name] = true end
  for name in pairs(self.home.app._members.channels) do self.changed[name] = true end
  self:tell_changed()
end

--- Stops what it does by itself.
function Presence:stop() timer.cancel(self.timer) end

--- Called each second: tells what has changed, and that this process lives.
function Presence:tell()
  local home = self.home
  if not home.link.ready then return end
  if core.now() - self.heard_at > NODE_SECONDS / 3 then
    self.heard_at = core.now()
    home.link:script("commands", "alive", { home.nodes_key }, { home.token, NODE_SECONDS }, function(reply, message)
      self:heard(reply, message)
    end)
  end
  for name in pairs(self.again) do self:tell_members(name) end
  self.again = {}
  for name, read in pairs(home.reader.reading) do
    local count = read.channel.subscribers
    if count ~= (self.told[name] or 0) then self:tell_count(name, count) end
  end
  for name in pairs(self.told) do
    if not home.reader:reads(name) then self:tell_count(name, 0) end
  end
  self:renew("presence", self.told)
  self:renew("members", self.named)
end

-- What the script `alive` has said.
function Presence:heard(reply, message)
  if not reply then return self:failed(message) end
  local known = self.known
  self.known = true
  if reply[1] == 1 and known then return self:reset() end -- Redis has forgotten us, and perhaps all others
  self:keep(reply[2])
end

-- A script that was refused, as Redis is not what it was.
function Presence:failed(message)
  if message ~= "closed" and self.home.link.tells_anew(message) then self.home.link:drop(message) end
end

--- A channel's names were not taken.
function Presence:refused(name) self.again[name] = true end

--- Nobody is subscribed here any more.
function Presence:leave()
  local home = self.home
  for name in pairs(self.told) do self:tell_count(name, 0) end
  home.link:call("commands", { "ZREM", home.nodes_key, home.token }, nothing)
end

--- What channel:subscribers_total asks.
function Presence:total(channel, callback)
  local home = self.home
  if not home.link.ready then
    timer.after(0, function() home:call_back(callback, nil, home:away()) end)
    return
  end
  home.link:script("commands", "total", { home:key("presence", channel.name), home.nodes_key }, { home.token },
    function(reply, message)
      home:call_back(callback, reply and math.floor(reply) + channel.subscribers or nil, message)
      if not reply then self:failed(message) end
    end)
end

-- --- Their names ---

-- Whether that is new.
local function put(others, process, text)
  text = text ~= "" and text or nil
  if others[process] == text then return false end
  others[process] = text
  return true
end

--- Another process' names of a channel, with a NUL between them.
function Presence:take(name, process, text)
  if process == self.home.token then return end
  self.others[name] = self.others[name] or {}
  if put(self.others[name], process, text) then self.home.app._members:touch(name) end
end

function Presence:forget(name) self.others[name] = nil end

-- Drops those of processes that are not among these.
local function keep(self, name, living)
  local any = false
  for process in pairs(self.others[name]) do
    if not living[process] then any, self.others[name][process] = true, nil end
  end
  if any then self.home.app._members:touch(name) end
end

--- All of them: each process, and its names.
function Presence:take_all(name, list)
  local living = {}
  self.others[name] = self.others[name] or {}
  for i = 1, #list, 2 do
    living[list[i]] = true
    self:take(name, list[i], list[i + 1])
  end
  keep(self, name, living)
end

-- Of the processes that live only.
function Presence:keep(list)
  local living = {}
  for _, process in ipairs(list) do living[process] = true end
  for name in pairs(self.others) do keep(self, name, living) end
end

local function add(set, text)
  for member in text:gmatch "[^%z]+" do set[member] = true end
end

--- Adds the names that the other processes have.
function Presence:collect(name, set)
  for _, text in pairs(self.others[name] or {}) do add(set, text) end
end

--- What channel:members asks: Redis, which knows the names also where the channel is not read here.
function Presence:names(channel, callback)
  local home = self.home
  if not home.link.ready then
    timer.after(0, function() home:call_back(callback, nil, home:away()) end)
    return
  end
  home.link:script("commands", "names", { home:key("members", channel.name), home.nodes_key }, {},
    function(reply, message)
      if not reply then
        home:call_back(callback, nil, message)
        return self:failed(message)
      end
      local set = home.app._members:collect(channel.name, {})
      for i = 1, #reply, 2 do
        if reply[i] ~= home.token then add(set, reply[i + 1]) end
      end
      home:call_back(callback, members.sorted(set))
    end)
end

--- The names of this process' streams have changed: told once for all that happens in a turn.
function Presence:tell_members(name)
  if not self.home.link.ready then return end -- all are told when it is
  if not next(self.changed) then self.timer:wait(0) end
  self.changed[name] = true
end

function Presence:tell_changed()
  local changed, home = self.changed, self.home
  self.changed = {}
  for name in pairs(changed) do
    local list = {}
    for member in pairs(home.app._members:collect(name, {})) do list[#list + 1] = member end
    table.sort(list)
    self.named[name] = list[1] and true or nil
    home:relay(name, "members", table.concat(list, "\0"))
  end
end

return M
