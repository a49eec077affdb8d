-- Who is there: the names that streams gave when they subscribed, by channel. Those of this process; where several
-- serve one app, a backplane knows the others'.
local timer = require "eventstream.timer"

local M = {}
M.__index = M

--- watched() says whether anybody wants to be told; tell(name) is called when it may be others that are there.
function M.new(watched, tell)
  return setmetatable({ channels = {}, changed = {}, watched = watched, tell = tell }, M)
end

--- There may be others now: told a moment later, once for all that happens meanwhile.
---@param channel eventstream.Channel? that is to be there until then
function M:touch(name, channel)
  if self.over or not self.watched() then return end
  self.timer = self.timer or timer.new(function()
    local changed = self.changed
    self.changed = {}
    for each in pairs(changed) do
      if not self.over then self.tell(each) end
    end
  end)
  if not next(self.changed) then self.timer:wait(0) end
  self.changed[name] = channel or self.changed[name] or true
end

--- The app is closed.
function M:stop()
  self.over = true
  timer.cancel(self.timer)
end

--- A stream's name in a channel.
function M:join(channel, stream, member)
  local name = channel.name
  local streams = self.channels[name] or {}
  self.channels[name] = streams
  streams[stream] = member
  self:touch(name, channel)
end

--- Whether it had one.
function M:leave(channel, stream)
  local name = channel.name
  local streams = self.channels[name]
  if not streams or not streams[stream] then return false end
  streams[stream] = nil
  if not next(streams) then self.channels[name] = nil end
  self:touch(name, channel)
  return true
end

--- Forgets those who are not there any more. streams_of(name): a list of the streams that are. Calls told(name) for
--- each channel that has any.
function M:sweep(streams_of, told)
  for name, streams in pairs(self.channels) do
    local there = {}
    for _, stream in ipairs(streams_of(name)) do there[stream] = streams[stream] end
    self.channels[name] = next(there) and there or nil
    self:touch(name)
    told(name)
  end
end

--- Adds a channel's names to a set.
function M:collect(name, set)
  for _, member in pairs(self.channels[name] or {}) do set[member] = true end
  return set
end

--- A set as a sorted list.
function M.sorted(set)
  local list = {}
  for member in pairs(set) do list[#list + 1] = member end
  table.sort(list)
  return list
end

return M
