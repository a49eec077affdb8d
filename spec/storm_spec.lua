-- Clients that die by the thousand, and storms of resets: they cost the others nothing, and nothing of them is left.
local net = require "spec.support.net"
local process = require "spec.support.process"
local uv = require "luv"

local function descriptors()
  local count, scan = 0, uv.fs_opendir("/proc/self/fd", nil, 1000)
  local list = uv.fs_readdir(scan)
  while list do
    count = count + #list
    list = uv.fs_readdir(scan)
  end
  uv.fs_closedir(scan)
  return count
end

describe("a storm #long", function()
  local app, port, witness, sent, seen, slowest
  local here

  -- A stream that is there all the time, and misses nothing.
  local function watch()
    local left = ""
    sent, seen, slowest = 0, 0, 0
    witness = net.connect(port):get "/news"
    witness:wait "\r\n\r\n"
    app:every(0.01, function()
      sent = sent + 1
      app:channel("news"):publish(("%d %d"):format(sent, uv.hrtime()))
    end)
    return function()
      local text = left .. witness.received
      witness.received = ""
      local last = 0
      for number, time, at in text:gmatch "data: (%d+) (%d+)\n()" do
        assert.equal(seen + 1, tonumber(number))
        seen, last = seen + 1, at
        slowest = math.max(slowest, (uv.hrtime() - tonumber(time)) / 1e9)
      end
      left = text:sub(math.max(last, 1))
    end
  end

  before_each(function()
    here = 0
    app, port = net.serve(function(a)
      a:stream("/news", function(stream)
        here = here + 1
        stream:on_close(function() here = here - 1 end)
        stream:subscribe "news"
      end)
    end, { limits = { connections = 6000 } })
  end)

  after_each(function()
    process.kill_all()
    net.finish()
  end)

  local function calm(look, before)
    net.wait(function()
      look()
      return app:stats().connections == 1
    end, function() return "all to be gone; " .. app:stats().connections .. " are there" end)
    local stats, more = app:stats(), sent + 10
    assert.same({ 1, 1, 1, 1 }, { stats.streams, stats.subscribers, stats.channels, here })
    net.wait(function()
      look()
      return seen >= more
    end)
    assert(slowest < 2, slowest) -- seconds
    assert(descriptors() <= before, descriptors())
    assert.same({}, app.errors)
  end

  it("of clients that are killed: thousands at once, three times", function()
    local look = watch()
    local before = descriptors()
    for _ = 1, 3 do
      local clients = process.lua { "spec/support/storm_clients.lua", tostring(port), "3000", "hold" }
      process.wait(function()
        look()
        return clients.lines[1]
      end)
      assert.equal("done", clients.lines[1])
      assert.equal(3001, app:stats().streams)
      clients:kill "sigkill"
      clients:wait_exit()
      calm(look, before)
    end
  end)

  it("of resets, at any moment of a client's life", function()
    local look = watch()
    local before = descriptors()
    local clients = process.lua { "spec/support/storm_clients.lua", tostring(port), "20000", "reset" }
    process.wait(function()
      look()
      return clients:exited()
    end)
    assert.equal("done", clients.lines[1], table.concat(clients.lines, "\n"))
    calm(look, before)
    assert(app:stats().accepted > 10000, app:stats().accepted)
  end)
end)
