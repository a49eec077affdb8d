-- Sockets that a service manager opened and passed on: systemd's socket activation (sd_listen_fds(3)).
local core = require "eventstream.core"

local M = {}

local FIRST = 3 -- the first descriptor that is passed on

-- Names by descriptor: LISTEN_FDNAMES lists them in order, separated by colons.
local function names_of(count)
  local names, fd = {}, FIRST
  for name in ((os.getenv "LISTEN_FDNAMES" or "") .. ":"):gmatch "([^:]*):" do
    if fd < FIRST + count then names[fd] = name end
    fd = fd + 1
  end
  return names
end

--- The descriptor of the first socket that was passed on, or of the one of that name; or nil and why there is none.
--- LISTEN_PID says whom they are meant for: a child inherits the variables, too. Who passes sockets on without a
--- service manager may leave it out.
---@param which true|string
---@return integer?, string?
function M.find(which)
  local count = tonumber(os.getenv "LISTEN_FDS" or "")
  if not count or count < 1 then return nil, "no socket was passed on (LISTEN_FDS is not set)" end
  local pid = os.getenv "LISTEN_PID"
  if pid and tonumber(pid) ~= core.pid() then
    return nil, "the sockets were passed on to another process (LISTEN_PID)"
  end
  if which == true then return FIRST end
  local names = names_of(count)
  for fd = FIRST, FIRST + count - 1 do
    if names[fd] == which then return fd end
  end
  return nil, ("no socket named '%s' was passed on (LISTEN_FDNAMES)"):format(which)
end

return M
