-- Thousands of clients that send a byte now and then, to hold their connections: each is cut on time, while others are
-- served as if they were not there.
local uv = require "luv"
local net = require "spec.support.net"
local process = require "spec.support.process"

describe("5,000 slow requests #long", function()
  after_each(function()
    process.kill_all()
    net.finish()
  end)

  it("are cut on time, and told why, while others are served", function()
    local limit, served, slowest = 4, 0, 0
    local app, port = net.serve(function(app)
      app:get("/", function() return "hello" end)
    end, { limits = { header_seconds = limit, connections = 6000 } })
    local clients = process.lua { "spec/support/loris_clients.lua", tostring(port), "5000", "1000" }
    while not clients:exited() do
      local start = uv.hrtime()
      local client = net.connect(port):get "/"
      assert.equal(200, (client:take()))
      client:close()
      served, slowest = served + 1, math.max(slowest, (uv.hrtime() - start) / 1e9)
    end
    assert.equal(0, (clients:wait_exit()), clients.stderr)
    local told, first, last = clients.stdout:match "(%d+) of 5000 told, first ([%d.]+), last ([%d.]+)"
    assert.equal(5000, tonumber(told))
    assert(tonumber(first) > limit - 0.5, first) -- one may have waited in the queue
    assert(tonumber(last) < limit + 3, last)
    assert(served > 100, served)
    assert(slowest < 1, slowest)
    assert.equal(5000, app:stats().rejected)
  end)
end)
