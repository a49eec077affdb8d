-- Timers that need no app, which may be closed.
local core = require "eventstream.core"

local M = {}

--- One that is still to be set, by timer:wait(seconds), as often as it is wanted.
function M.new(fn) return core.source(1, fn) end

--- One that is set.
function M.after(seconds, fn)
  local timer = M.new(fn)
  timer:wait(seconds)
  return timer
end

function M.cancel(timer)
  if timer then pcall(timer.stop, timer) end -- at a process' end the loop may be gone
end

return M
