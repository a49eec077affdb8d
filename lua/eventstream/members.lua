-- Who is there: the names that streams gave when they subscribed, by channel. Those of this process; where several
-- serve one app, a backplane knows the others'.
local M = {}
M.__index = M

function M.new()
  return setmetatable({ channels = {} }, M)
end

--- A stream's name in a channel.
function M:join(name, stream, member)
  local channel = self.channels[name] or {}
  self.channels[name] = channel
  channel[stream] = member
end

--- Whether it had one.
function M:leave(name, stream)
  local channel = self.channels[name]
  if not channel or not channel[stream] then return false end
  channel[stream] = nil
  if not next(channel) then self.channels[name] = nil end
  return true
end

--- Forgets those who are not there any more. streams_of(name): a list of the streams that are.
function M:sweep(streams_of)
  for name, channel in pairs(self.channels) do
    local there = {}
    for _, stream in ipairs(streams_of(name)) do there[stream] = channel[stream] end
    self.channels[name] = next(there) and there or nil
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
