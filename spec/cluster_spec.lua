--- examples/cluster: one command, and its chat goes on when a process is killed.

local uv = require "luv"
local houses = require "spec.support.houses"
local process = require "spec.support.process"

local FOLDER = "examples/cluster"

describe("examples/cluster", function()
  for _, needed in ipairs { "redis-server", "haproxy", "curl" } do
    if not process.find(needed) then return pending(needed .. " is not installed") end
  end
  if not pcall(require, "eventstream.hiredis") then return pending "built without hiredis" end

  after_each(process.kill_all)

  -- Four free ports in a row.
  local function free_ports()
    while true do
      local port = houses.free_port()
      if port < 60000 then
        local fine = true
        for i = 1, 3 do
          local handle = uv.new_tcp()
          handle:bind("127.0.0.1", port + i)
          fine = fine and handle:listen(1, function() end) == 0
          handle:close()
        end
        uv.run "nowait"
        if fine then return port end
      end
    end
  end

  it("is one chat, in three processes, also when one of them dies", function()
    local port = free_ports()
    local env = { PORT = tostring(port), LUA = process.interpreter() }
    local cluster = process.spawn("sh", { FOLDER .. "/run" }, env)
    for _ = 1, 3 do cluster:wait_line "listening on http://127%.0%.0%.1:%d+/" end
    local url = ("http://127.0.0.1:%d/rooms/lobby?name="):format(port)

    local function join(name, id)
      local client = process.spawn("curl", { "-sSN", "--noproxy", "*", "--retry", "30", "--retry-delay", "1",
        "--retry-all-errors", "--max-time", "60", "-H", id and "Last-Event-ID: " .. id or "X: y", url .. name })
      client:wait_line "^id: "
      return client
    end

    local function say(name, text)
      local client = process.spawn("curl", { "-sSf", "--noproxy", "*", "--retry", "30", "--retry-delay", "1",
        "--retry-all-errors", "--max-time", "60", "-d", text, url .. name })
      assert.equal(0, client:wait_exit(), client.stderr)
    end

    local clients = { join "Ada", join "Bob", join "Cyd" } -- the fewest: each in another process
    clients[1]:wait_line "^data: Cyd$"
    say("Ada", "hello")
    for _, client in ipairs(clients) do client:wait_line "^data: hello$" end
    local id = clients[2].stdout:match ".*id: (%S+)"

    local file = assert(io.open(("/proc/%d/task/%d/children"):format(cluster.pid, cluster.pid)))
    local pids = {} -- Redis, the three, HAProxy
    for pid in file:read("*a"):gmatch "%d+" do pids[#pids + 1] = tonumber(pid) end
    file:close()
    assert.equal(5, #pids)
    say("Bob", "one of us is gone soon")
    for _, client in ipairs(clients) do client:wait_line "^data: one of us is gone soon$" end
    uv.kill(pids[2], "sigkill")
    say("Cyd", "still here")
    local back = join("Bob", id)
    back:wait_line "^data: still here$"
    assert.is_nil(back.stdout:find "event: gap")

    cluster:kill "sigterm"
    assert.same({ 0, 0 }, { cluster:wait_exit() })
    assert.equal(0, back:wait_exit(), back.stderr) -- its stream was ended, and not cut
  end)
end)
