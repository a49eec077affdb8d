-- An app's history as bytes, from one process to its successor: sequence, channels, and their frames as they were
-- written. Clients that come back resume as if nothing had been.
local channels = require "eventstream.channels"
local core = require "eventstream.core"

local M = {}
local FORMAT, END = "eventstream 1", "end\n"

--- All that the app's channels keep. What is published behind that is not in it: close the app at once.
---@param app eventstream.App
---@return string
function M.export(app)
  local handover = core.handover
  local id, gone, given_gone = handover.app(app._core)
  local parts = { ("%s %d %s %.0f %.0f\n"):format(FORMAT, os.time(), id, gone, given_gone) }
  for _, name in ipairs(handover.names(app._core)) do
    local channel = channels.known(app._core, "export", name) or channels.find(app._channels, app._core, "export", name)
    local count, its_gone, its_given_gone, gives = handover.channel(channel)
    parts[#parts + 1] = ("%d %.0f %.0f %.0f %d\n%s"):format(#name, count, its_gone, its_given_gone, gives and 1 or 0,
      name)
    for i = 1, count do
      local sequence, age, bytes, own, stands = handover.frame(channel, i)
      parts[#parts + 1] = ("%.0f %.0f %d %d %.0f\n"):format(sequence, age, #bytes, own and #own or 0, stands or 0)
      parts[#parts + 1] = own or ""
      parts[#parts + 1] = bytes
    end
  end
  parts[#parts + 1] = END
  return table.concat(parts)
end

local function import(app, text)
  local handover = core.handover
  local at = 1
  local function line(pattern)
    local stop = text:find("\n", at, true)
    local values = { text:sub(at, (stop or 0) - 1):match("^" .. pattern .. "$") }
    if not stop or not values[1] then error("this is no history", 0) end
    at = stop + 1
    for i, value in ipairs(values) do
      if value:find "^%d+$" then values[i] = tonumber(value) end -- an id may look like a number, too
    end
    return (unpack or table.unpack)(values)
  end
  local function take(count)
    if at + count - 1 > #text then error("the history is cut", 0) end
    at = at + count
    return text:sub(at - count, at - 1)
  end
  local time, id, gone, given_gone = line(FORMAT .. " (%d+) (%x+%-%d+) (%d+) (%d+)")
  local passed = math.max(0, os.time() - time) * 1000
  if text:sub(-#END) ~= END then error("the history is cut", 0) end
  handover.set_app(app._core, id, gone, given_gone)
  while at <= #text - #END do
    local length, count, its_gone, its_given_gone, gives = line "(%d+) (%d+) (%d+) (%d+) (%d)"
    local channel = channels.find(app._channels, app._core, "import", take(length))
    handover.set_channel(channel, its_gone, its_given_gone, gives == 1)
    for _ = 1, count do
      local sequence, age, size, own, stands = line "(%d+) (%d+) (%d+) (%d+) (%d+)"
      local given = own > 0 and take(own) or nil
      handover.add_frame(channel, sequence, age + passed, take(size), given, stands)
    end
    handover.done(channel)
  end
end

--- Takes over what export gave, before the first client comes and before anything is published. Nil and why, where it
--- cannot be: the app then begins anew, as far as it has not come.
---@param app eventstream.App
---@param text string
---@return true?, string?
function M.import(app, text)
  local ok, message = pcall(import, app, text)
  if not ok then return nil, message end
  return true
end

return M
