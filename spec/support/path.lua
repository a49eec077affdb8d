--- A path to a server, which may be cut, and mended; and which may take its time: each piece of what goes through it is
--- late by so much, and what comes back is cut into pieces of any size.
local uv = require "luv"

local M = {}

local Path = {}
Path.__index = Path

local paths = {}

-- Passes bytes on, in their order; a timer for each piece.
local function pass_on(self, from, to, cut)
  from:read_start(function(err, bytes)
    local at = 1
    repeat
      local piece = bytes and bytes:sub(at, at + (cut and cut(#bytes) or #bytes) - 1)
      at = at + (piece and #piece or 0)
      local timer = uv.new_timer()
      self.open[timer] = true
      timer:start(self.milliseconds, 0, function()
        timer:close()
        self.open[timer] = nil
        if to:is_closing() then return end
        if err or not piece then return to:close() end
        to:write(piece)
      end)
    until not bytes or at > #bytes
  end)
end

function Path:accept(listener)
  local near = uv.new_tcp()
  listener:accept(near)
  if self.is_cut then return near:close() end
  local far = uv.new_tcp()
  near:nodelay(true)
  self.open[near], self.open[far] = true, true
  far:connect("127.0.0.1", self.to, function(err)
    if near:is_closing() or far:is_closing() then return end
    if err then return near:close() end
    pass_on(self, near, far)
    pass_on(self, far, near, self.cut_up)
  end)
end

--- Lays one to a port here: its own is path.port.
---@param milliseconds integer? each way
---@param cut_up fun(size: integer): integer? how many of so many bytes the next piece of a reply has
function M.lay(to, milliseconds, cut_up)
  local self = setmetatable({ to = to, milliseconds = milliseconds or 0, cut_up = cut_up, open = {} }, Path)
  self.listener = uv.new_tcp()
  assert(self.listener:bind("127.0.0.1", 0))
  assert(self.listener:listen(64, function() self:accept(self.listener) end))
  self.port = self.listener:getsockname().port
  paths[self] = true
  return self
end

--- Ends what goes through it; who comes is sent away, until it is mended.
function Path:cut()
  self.is_cut = true
  for handle in pairs(self.open) do
    if not handle:is_closing() then handle:close() end
  end
  self.open = {}
end

function Path:mend() self.is_cut = false end

function M.finish()
  for path in pairs(paths) do
    path:cut()
    path.listener:close()
  end
  paths = {}
end

return M
