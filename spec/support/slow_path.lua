--- A path to a server that takes its time: each piece of what goes through it is late by so much, and what comes back
--- is cut into pieces of any size.
local uv = require "luv"

local M = {}

local open = {}

-- Passes bytes on, in their order; a timer for each piece.
local function pass_on(from, to, milliseconds, cut)
  from:read_start(function(err, bytes)
    local at = 1
    repeat
      local piece = bytes and bytes:sub(at, at + (cut and cut(#bytes) or #bytes) - 1)
      at = at + (piece and #piece or 0)
      local timer = uv.new_timer()
      open[timer] = true
      timer:start(milliseconds, 0, function()
        timer:close()
        open[timer] = nil
        if to:is_closing() then return end
        if err or not piece then return to:close() end
        to:write(piece)
      end)
    until not bytes or at > #bytes
  end)
end

--- Lays one to a port here: its own port.
---@param milliseconds integer each way
---@param cut fun(size: integer): integer how many of so many bytes the next piece of a reply has
function M.lay(port, milliseconds, cut)
  local listener = uv.new_tcp()
  assert(listener:bind("127.0.0.1", 0))
  assert(listener:listen(16, function()
    local near, far = uv.new_tcp(), uv.new_tcp()
    listener:accept(near)
    near:nodelay(true)
    open[near], open[far] = true, true
    far:connect("127.0.0.1", port, function(err)
      if err then return near:close() end
      pass_on(near, far, milliseconds)
      pass_on(far, near, milliseconds, cut)
    end)
  end))
  open[listener] = true
  return listener:getsockname().port
end

function M.finish()
  for handle in pairs(open) do
    if not handle:is_closing() then handle:close() end
  end
  open = {}
end

return M
