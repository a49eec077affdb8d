--- Cables that can be cut: a network namespace of its own, joined to this one by two pairs of virtual interfaces. Needs
-- root and iproute2. Names carry this process's id; addresses are of 198.18.0.0/15, which is for such tests (RFC 2544).
--
-- "down": the link goes down, as that of a neighbour does whose cable is pulled: the kernel finds nobody who answers.
-- "silent": packets are taken and vanish, as behind a router when the cable is cut farther away.
local process = require "spec.support.process"
local uv = require "luv"

local M = {}

local PID = uv.os_getpid()
local SPACE, NET = ("es%d"):format(PID), ("%d"):format(PID % 250)

M.space = SPACE
--- Where the server listens for a cable, and where the client's end of it is.
M.server = { down = ("198.18.%s.1"):format(NET), silent = ("198.18.%s.5"):format(NET) }
M.client = { down = ("198.18.%s.2"):format(NET), silent = ("198.19.%s.1"):format(NET) }

local function run(line)
  local args = {}
  for word in line:gmatch "%S+" do args[#args + 1] = word end
  local child = process.spawn("ip", args)
  local code = child:wait_exit()
  return code == 0, ("ip %s: exit %d: %s"):format(line, code, child.stderr)
end

local MAY_FAIL = { -- without the privilege, or the kernel's modules
  "netns add SPACE",
  "link add SPACEa type veth peer name SPACEb netns SPACE",
  "link add SPACEc type veth peer name SPACEd netns SPACE",
}

local LAY = {
  "-n SPACE link set lo up",
  "addr add 198.18.NET.1/30 dev SPACEa",
  "addr add 198.18.NET.5/30 dev SPACEc",
  "-n SPACE addr add 198.18.NET.2/30 dev SPACEb",
  "-n SPACE addr add 198.18.NET.6/30 dev SPACEd",
  "-n SPACE addr add 198.19.NET.1/32 dev lo",
  "link set SPACEa up",
  "link set SPACEc up",
  "-n SPACE link set SPACEb up",
  "-n SPACE link set SPACEd up",
  "route add 198.19.NET.1/32 via 198.18.NET.6",
}

local CUTS = {
  down = "-n SPACE link set SPACEb down",
  silent = "-n SPACE addr del 198.19.NET.1/32 dev lo", -- SPACEd still answers for it, and forwards nothing
}

local function fill(line)
  return (line:gsub("SPACE", SPACE):gsub("NET", NET))
end

--- Lays both. False and why where that is not possible here.
function M.lay()
  if not process.find "ip" then return false, "iproute2 is not installed" end
  for _, line in ipairs(MAY_FAIL) do
    local ok, message = run(fill(line))
    if not ok then
      M.remove()
      return false, "no network namespace can be made: " .. message
    end
  end
  for _, line in ipairs(LAY) do
    local ok, message = run(fill(line))
    if not ok then
      M.remove()
      error(message)
    end
  end
  return true
end

function M.cut(name)
  assert(run(fill(CUTS[name])))
end

--- Makes the silent one whole again.
function M.mend()
  assert(run(fill "-n SPACE addr add 198.19.NET.1/32 dev lo"))
end

--- Runs a Lua script at the other end.
function M.lua(args)
  local all = { "netns", "exec", SPACE, process.interpreter() }
  for _, each in ipairs(args) do all[#all + 1] = each end
  return process.spawn("ip", all)
end

--- The programs at the other end must have been ended before. With the namespace its ends of the cables go, and ours.
function M.remove()
  run("link del " .. SPACE .. "a")
  run("link del " .. SPACE .. "c")
  run("netns del " .. SPACE)
end

return M
