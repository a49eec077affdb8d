--- Clients that are gone without a word: their cable is cut. The kernel's patience is a minute, so that all cases run
-- side by side in one. Needs root and iproute2 for a network namespace; without them it is pending.

local cable = require "spec.support.cable"
local net = require "spec.support.net"
local process = require "spec.support.process"
local streams = require "spec.support.streams"
local uv = require "luv"

local unpack = table.unpack or unpack -- luacheck: ignore

local HEARTBEAT = 1 -- as in cable_server
local NOISE = 5 -- seconds
-- When a stream is over after the cut, at the earliest and at the latest: the kernel gives up a minute after the first
-- byte that is not answered (a subscriber's: half of its history's seconds and 10 more), and probes silence after a
-- minute, every 10 s.
local CASES = {
  { "quiet", "timeout", 55, HEARTBEAT + 60, "with heartbeats" },
  { "mute", "timeout", 55, 60 + 6 * 10, "without heartbeats" },
  { "calm", "timeout", 65, HEARTBEAT + 120 / 2 + 10, "that is published to" },
  { "busy", "slow", 0, 60, "that is published more than the kernel takes" },
  { "full", "slow", 55, HEARTBEAT + 60, "whose own events have filled its backlog" },
  { "waits", "slow", 55, HEARTBEAT + 60, "whose handler waits for room" },
}

describe("a client whose cable is cut #long", function()
  local impossible, server, loud, begun
  local closed = { down = {}, silent = {} }

  local function collect()
    local number = 0
    for _, line in ipairs(server.lines) do
      local case, name, reason, at = line:match "^closed (%a+)/(%a+) (%a+) (%d+)$"
      if case then
        number = number + 1
        closed[name][case] = { reason = reason, seconds = (tonumber(at) - begun[name]) / 1e9 }
      end
    end
    return number == 2 * #CASES
  end

  lazy_setup(function()
    local ok, why = cable.lay()
    if not ok then
      impossible = why
      return
    end
    server = process.lua { "spec/support/cable_server.lua", cable.server.down, cable.server.silent }
    for _, name in ipairs { "down", "silent" } do
      local here, there = cable.server[name], cable.client[name]
      local mute
      loud, mute = server:wait_line("^port " .. here:gsub("%.", "%%.") .. " (%d+) (%d+)$")
      local paths = {}
      for _, case in ipairs(CASES) do
        if case[1] ~= "mute" then paths[#paths + 1] = ("/%s/%s"):format(case[1], name) end
      end
      local clients = cable.lua { "spec/support/cable_clients.lua", there, here, loud, unpack(paths) }
      local silent = cable.lua { "spec/support/cable_clients.lua", there, here, mute, "/mute/" .. name }
      for _ = 1, #paths do clients:wait_line "^reading" end
      silent:wait_line "^reading"
    end
    begun = {}
    for _, name in ipairs { "down", "silent" } do
      cable.cut(name)
      begun[name] = uv.hrtime()
    end
    local client = net.connect(tonumber(loud), cable.server.silent):get "/cut"
    client:take()
    client:close()
    process.wait(collect, 60 + 6 * 10 + 10, function() return "the ends of all streams: " .. server.stdout end)
  end)

  lazy_teardown(function()
    streams.finish()
    if not impossible then cable.remove() end
  end)

  for _, name in ipairs { "down", "silent" } do
    for _, case in ipairs(CASES) do
      local kind, reason, earliest, latest, what = unpack(case)
      it(("is told as %q: a stream %s, cable %s"):format(reason, what, name), function()
        if impossible then return pending(impossible) end
        local is = closed[name][kind]
        assert.is_truthy(is, "nothing was told")
        print(("dead_peer_spec: %s, %s: %s after %.1f s"):format(name, kind, is.reason, is.seconds))
        assert.equal(reason, is.reason)
        assert.is_true(is.seconds >= earliest and is.seconds <= latest + NOISE,
          ("after %.1f s, and not within %d to %d"):format(is.seconds, earliest, latest))
      end)
    end
  end

  it("leaves nothing of its stream, and no handler waiting", function()
    if impossible then return pending(impossible) end
    local client = net.connect(tonumber(loud), cable.server.silent):get "/left"
    local _, _, body = client:take()
    assert.equal("0 0\n", body)
    for _, name in ipairs { "down", "silent" } do
      assert.is_truthy(server.stdout:find(("told waits/%s closed\n"):format(name), 1, true), server.stdout)
    end
    assert.equal("", server.stderr)
  end)
end)
