--- What app:stats() counts of channels.

local net = require "spec.support.net"
local process = require "spec.support.process"
local uv = require "luv"
local eventstream = require "eventstream"
local channels = require "spec.support.channels"

local hub, join, publish = channels.hub, channels.join, channels.publish

describe("app:stats", function()
  after_each(channels.finish)

  it("counts what was published, once however many get it", function()
    local app, port = hub()
    join(port)
    join(port)
    publish(app:channel "news", 5)
    app:channel("weather"):publish "x"
    assert.equal(6, app:stats().published)
  end)

  it("does not count what could not be published", function()
    local app = hub()
    local news = app:channel "news"
    pcall(news.publish, news, {})
    news:close()
    news:publish "x"
    assert.equal(0, app:stats().published)
  end)

  it("counts the events that were sent to each", function()
    local app, port = hub()
    local one, other = join(port), join(port)
    publish(app:channel "news", 5)
    app:streams()[1]:send "x"
    for _, client in ipairs { one, other } do channels.wait_data(client, "5") end
    net.wait(function() return app:stats().events == 11 end, "11 events")
  end)

  it("counts the events of a replay", function()
    local app, port = hub()
    local ids = publish(app:channel "news", 50)
    channels.wait_data(join(port, "/", ids[10]), "50")
    assert.equal(40, app:stats().events)
  end)

  it("counts the bytes that left", function()
    local app, port = hub()
    local client = join(port)
    publish(app:channel "news", 50)
    channels.wait_data(client, "50")
    net.wait(function() return app:stats().bytes_out == #client.received end)
  end)

  it("counts resumes and gaps, one for each channel", function()
    local app, port = hub { channels = { a = { history = 1 }, b = { history = 1 } } }
    local first = app:channel("c"):publish "c1"
    for _, name in ipairs { "a", "b" } do publish(app:channel(name), 3) end
    join(port, "/?to=a,b,c")
    local function counted() return { app:stats().resumes, app:stats().gaps } end
    assert.same({ 0, 0 }, counted())
    join(port, "/?to=a,b,c", first)
    assert.same({ 1, 2 }, counted())
    join(port, "/?to=c,d", "never")
    assert.same({ 1, 4 }, counted())
  end)

  it("tells how many channels there are", function()
    local app, port = hub()
    local held = app:channel "held"
    publish(app:channel "kept", 1)
    join(port, "/?to=heard")
    collectgarbage()
    collectgarbage()
    assert.equal(3, app:stats().channels)
    held:close()
    assert.equal(2, app:stats().channels)
  end)

  it("tells how many subscriptions there are", function()
    local app, port = hub()
    local one = join(port, "/?to=a,b")
    join(port, "/?to=a")
    assert.equal(3, app:stats().subscribers)
    app:streams()[1]:unsubscribe "a"
    assert.equal(2, app:stats().subscribers)
    one:close()
    net.wait(function() return app:stats().subscribers < 2 end)
    app:channel("a"):close()
    app:channel("b"):close()
    assert.equal(0, app:stats().subscribers)
  end)

  it("has whole numbers, but for seconds", function()
    for name, value in pairs(hub():stats()) do
      if name == "uptime" or name == "loop_lag" then
        assert(value >= 0 and value < 60, name)
      else
        assert.matches("^%d+$", tostring(value), name)
      end
    end
  end)

  it("counts who was not served, by the reason", function()
    local app, port = hub { limits = { connections = 3, address_connections = 2, header_seconds = 0.05,
      header_bytes = 1000, body_bytes = 10 } }
    local function refused(text)
      local client = net.connect(port):send(text)
      client:wait_end()
      client:close()
      net.wait(function() return app:stats().connections == 0 end)
    end
    refused "nonsense\r\n\r\n"
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: " .. ("x"):rep(2000) .. "\r\n\r\n")
    refused "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"
    refused "GET / HTTP/1.1\r\n"
    local two = { net.connect(port):get "/", net.connect(port):get "/" }
    for _, client in ipairs(two) do client:wait "\r\n\r\n" end
    net.connect(port):get("/"):wait_end()
    local stats = app:stats()
    assert.same({ 1, 2, 1, 1, 0, 0, 5 }, { stats.rejected_malformed, stats.rejected_large, stats.rejected_late,
      stats.rejected_address, stats.rejected_full, stats.rejected_closing, stats.rejected })
  end)

  it("counts bytes, errors and time", function()
    local app, port = net.serve(function(a)
      a:post("/", function(request) return request.body end)
      a:get("/fails", function() error "on purpose" end)
    end)
    local request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    local client = net.connect(port):send(request)
    client:wait "hello"
    net.wait(function() return app:stats().bytes_out == #client.received end)
    assert.equal(#request, app:stats().bytes_in)
    assert.equal(0, app:stats().errors)
    net.connect(port):get("/fails"):take()
    assert.equal(1, app:stats().errors)
    local before = app:stats().uptime
    net.wait(function() return app:stats().uptime > before end)
  end)

  it("tells how late the loop is", function()
    local app = net.serve(function() end)
    local rang = 0
    app:every(0.01, function()
      rang = rang + 1
      if rang ~= 3 then return end
      local start = uv.hrtime()
      while uv.hrtime() - start < 1e8 do end -- 0.1 s, in which the next tick falls due
    end)
    net.wait(function() return rang > 5 end)
    local lag = app:stats().loop_lag
    assert(lag > 0.05 and lag < 5, lag)
  end)

  it("tells for how long a handler held up the others, where no timer waits", function()
    local app, port = net.serve(function(one)
      one:get("/", function()
        local start = uv.hrtime()
        while uv.hrtime() - start < 1e8 do end
        return "done"
      end)
    end)
    net.connect(port):get("/"):take()
    local lag = app:stats().loop_lag
    assert(lag > 0.09 and lag < 5, lag)
  end)
end)

describe("eventstream.metrics", function()
  after_each(channels.finish)

  it("are what app:stats counts", function()
    local app, port = hub()
    join(port)
    publish(app:channel "news", 5)
    local text = eventstream.metrics(app)
    for _, line in ipairs { "eventstream_streams 1", "eventstream_published_total 5", "eventstream_accepted_total 1",
      'eventstream_rejected_total{reason="full"} 0', "# TYPE eventstream_backlog_bytes gauge" } do
      assert(("\n" .. text):find("\n" .. line .. "\n", 1, true), line .. " is not in\n" .. text)
    end
    assert.matches("\neventstream_uptime_seconds %d+%.%d+\n", text)
    local stats = app:stats()
    for name in pairs(stats) do -- nothing is forgotten
      local short = ({ slow = "slow_disconnects", backlog = "backlog_bytes", bytes_in = "received_bytes",
        bytes_out = "sent_bytes" })[name] or name:match "^rejected_(.*)$" or name
      assert(text:find(short, 1, true), name)
    end
    local ok, message = pcall(eventstream.metrics, {})
    assert.is_false(ok)
    assert.matches("metrics: app must be an app, not a table", message)
  end)

  it("are what Prometheus takes", function()
    local promtool = process.find "promtool" or "build/prometheus/usr/bin/promtool"
    if not uv.fs_stat(promtool) then return pending "promtool is not there: tools/unpack prometheus" end
    local app = hub()
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(eventstream.metrics(app))
    file:close()
    local check = process.spawn("sh", { "-c", ("exec %s check metrics < %s"):format(promtool, path) })
    local code = check:wait_exit()
    os.remove(path)
    assert.same({ 0, "", "" }, { code, check.stdout, check.stderr })
  end)
end)
