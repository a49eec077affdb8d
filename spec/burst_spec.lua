--- Bursts: more in one callback than the history holds, or than the sockets take, cuts nobody and loses nothing.

local uv = require "luv"
local net = require "spec.support.net"
local channels = require "spec.support.channels"

local data, hub, join, numbers = channels.data, channels.hub, channels.join, channels.numbers
local assert_list = channels.assert_list

local COUNT = 10000

local function assert_all(clients, wanted)
  for _, client in ipairs(clients) do
    channels.wait_data(client, wanted[#wanted])
    assert_list(wanted, data(client))
  end
end

local function join_all(port, count, path)
  local clients = {}
  for i = 1, count do clients[i] = join(port, path) end
  return clients
end

local function assert_unharmed(app)
  local stats = app:stats()
  assert.same({ 0, 0, 0 }, { stats.slow, stats.gaps, stats.skipped })
end

describe("a burst in one callback", function()
  after_each(channels.finish)

  for _, flush in ipairs { "auto", 0, 0.02 } do
    it("that is longer than the history reaches all subscribers with flush = " .. flush, function()
      local app, port = hub()
      local news = app:channel("news", { history = 10, flush = flush })
      local clients = join_all(port, 20)
      channels.run(app, function() channels.publish(news, COUNT) end)
      assert_all(clients, numbers(COUNT))
      assert_unharmed(app)
    end)

    it("behind subscribe in the same run of the handler reaches its stream with flush = " .. flush, function()
      local news
      local app, port = hub(nil, function(stream)
        stream:subscribe(news)
        channels.publish(news, COUNT)
      end)
      news = app:channel("news", { history = 10, flush = flush })
      assert_all({ net.connect(port):get "/" }, numbers(COUNT))
      assert_unharmed(app)
    end)
  end

  it("reaches those that skip when they are slow, too", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10, slow = "skip" })
    local clients = join_all(port, 5)
    channels.run(app, function() channels.publish(news, COUNT) end)
    assert_all(clients, numbers(COUNT))
    assert_unharmed(app)
  end)

  it("of events without an id reaches all subscribers", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10 })
    local clients = join_all(port, 5)
    channels.run(app, function()
      for i = 1, COUNT do news:publish { id = false, data = i } end
    end)
    assert_all(clients, numbers(COUNT))
    assert_unharmed(app)
  end)

  it("of large events reaches all subscribers", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10 })
    local clients = join_all(port, 5)
    local pad = (" "):rep(100000)
    channels.run(app, function()
      for i = 1, 40 do news:publish(i .. pad) end
    end)
    for _, client in ipairs(clients) do
      client:wait(("data: 40%s\n"):format(pad), true)
      assert.equal(40, #data(client))
    end
    assert_unharmed(app)
  end)

  it("in two channels reaches those who have both, merged", function()
    local app, port = hub { channels = { ["*"] = { history = 10 } } }
    local clients = join_all(port, 5, "/?to=a,b")
    local a, b = app:channel "a", app:channel "b"
    channels.run(app, function()
      for i = 1, COUNT do (i % 3 == 0 and a or b):publish(i) end
    end)
    assert_all(clients, numbers(COUNT))
    assert_unharmed(app)
  end)

  it("with sends in between reaches its stream in order", function()
    local app, port = hub { channels = { news = { history = 10 } } }
    local client = join(port)
    local news, stream, wanted = app:channel "news", app:streams()[1], {}
    channels.run(app, function()
      for i = 1, 2000 do
        news:publish("p" .. i)
        wanted[#wanted + 1] = "p" .. i
        if stream:send("s" .. i) then wanted[#wanted + 1] = "s" .. i end
      end
    end)
    assert_all({ client }, wanted)
    assert_unharmed(app)
  end)

  it("behind a subscribe to another channel reaches its stream, with and without a send in between", function()
    for _, sends in ipairs { true, false } do
      local app, port = hub { channels = { news = { history = 10 } } }
      local client = join(port)
      local news, stream = app:channel "news", app:streams()[1]
      channels.run(app, function()
        stream:subscribe "weather"
        if sends then stream:send "0" end
        channels.publish(news, COUNT)
      end)
      assert_all({ client }, numbers(sends and 0 or 1, COUNT))
      assert_unharmed(app)
    end
  end)

  it("and a close behind it reaches everybody", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10 })
    local clients = join_all(port, 5)
    channels.run(app, function()
      channels.publish(news, 3000)
      news:close()
    end)
    for _, client in ipairs(clients) do
      client:wait_end()
      assert_list(numbers(3000), data(client))
    end
  end)

  it("in on_subscribe reaches the newcomer", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10 })
    app:on_subscribe(function() channels.publish(news, COUNT) end)
    assert_all({ net.connect(port):get "/" }, numbers(COUNT))
    assert_unharmed(app)
  end)

  it("outside of callbacks reaches all subscribers", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10 })
    local clients = join_all(port, 5)
    channels.publish(news, COUNT)
    assert_all(clients, numbers(COUNT))
    assert_unharmed(app)
  end)

  it("and another in the next turns reach readers that read", function()
    local app, port = hub()
    local news = app:channel("news", { history = 10 })
    local clients, total = join_all(port, 5), 0
    for _ = 1, 5 do
      channels.run(app, function() channels.publish(news, total + 1, total + 2000) end)
      total = total + 2000
      for _, client in ipairs(clients) do channels.wait_data(client, total) end
    end
    assert_all(clients, numbers(total))
    assert_unharmed(app)
  end)

  it("leaves no more than the history behind", function()
    local app, port = hub(nil, function(stream) return stream:subscribe("news", { newcomer = "all" }) end)
    local news = app:channel("news", { history = 10 })
    local clients = join_all(port, 3)
    channels.run(app, function() channels.publish(news, COUNT) end)
    assert_all(clients, numbers(COUNT))
    news:publish "last"
    for _, client in ipairs(clients) do channels.wait_data(client, "last") end
    channels.round_trip(port)
    local late = join(port)
    news:publish "end"
    local list = channels.wait_data(late, "end")
    assert.equal("end", list[#list])
    assert.equal(11, #list)
  end)
end)

describe("a burst in one callback that meets a reader whose socket is full", function()
  after_each(channels.finish)

  -- A reader that has stopped, one event behind; its stream, and why that was ended.
  local function stopped(history, options)
    local reasons = {}
    local app, port = hub(options, function(stream)
      stream:on_close(function(reason) reasons[1] = reason end)
      return stream:subscribe "news"
    end)
    local news, pad, count = app:channel("news", { history = history, history_bytes = 1e9, flush = 0 }), "x", 0
    pad = pad:rep(2000)
    local client = join(port)
    client:pause()
    repeat
      local taken = app:stats().bytes_out
      channels.run(app, function() news:publish(pad) end)
      net.settle()
      count = count + 1
    until app:stats().bytes_out == taken
    return client, app, news, count, reasons
  end

  for _, case in ipairs {
    { name = "a little longer than half of the history", history = 100, count = 60 },
    { name = "of three quarters of the history", history = 100, count = 75 },
    { name = "of three quarters, with a large backlog", history = 100, count = 75, backlog = 1e8 },
    { name = "of nearly the whole history", history = 1000, count = 900 },
  } do
    it(case.name .. ", does not cut it, and all of it arrives", function()
      local client, app, news, before, reasons = stopped(case.history, { limits = { backlog_bytes = case.backlog } })
      channels.run(app, function() channels.publish(news, case.count) end)
      net.settle()
      assert.same({}, reasons)
      client:resume()
      local list = channels.wait_data(client, tostring(case.count))
      assert.equal(before + case.count, #list)
      assert_list(numbers(case.count), { (table.unpack or unpack)(list, before + 1) }) -- luacheck: ignore
      assert_unharmed(app)
    end)
  end
end)

describe("flush", function()
  after_each(channels.finish)

  -- Seconds between the arrival of an event and that of the next, which is published when the first has come.
  local function between(flush)
    local app, port = hub()
    local news = app:channel("news", { flush = flush })
    local client = join(port)
    news:publish "1"
    channels.wait_data(client, "1")
    local first = uv.hrtime()
    news:publish "2"
    news:publish "3"
    channels.wait_data(client, "2")
    assert.same(numbers(3), data(client)) -- what was published meanwhile comes along
    return (uv.hrtime() - first) / 1e9
  end

  it("of seconds keeps passes that far apart", function()
    assert.is_true(between(0.3) > 0.2)
  end)

  it("of 0 and auto wait for nothing", function()
    assert.is_true(between(0) < 0.2)
    assert.is_true(between "auto" < 0.2)
  end)

  it("of seconds is no delay for a close of the channel", function()
    local app, port = hub()
    local news = app:channel("news", { flush = 60 })
    local client = join(port)
    news:publish "1"
    channels.wait_data(client, "1")
    news:publish "2"
    news:close()
    client:wait_end()
    assert.same(numbers(2), data(client))
  end)

  it("of seconds is no delay for a close of the stream", function()
    local app, port = hub()
    local news = app:channel("news", { flush = 60 })
    local client = join(port)
    news:publish "1"
    channels.wait_data(client, "1")
    news:publish "2"
    app:streams()[1]:close()
    client:wait_end()
    assert.same(numbers(2), data(client))
  end)

  it("of seconds is no delay for what a send follows", function()
    local app, port = hub()
    local news = app:channel("news", { flush = 60 })
    local client = join(port)
    news:publish "1"
    channels.wait_data(client, "1")
    news:publish "2"
    app:streams()[1]:send "3"
    assert.same(numbers(3), channels.wait_data(client, "3"))
  end)

  it("that is made shorter holds from then on", function()
    local app, port = hub()
    local news = app:channel("news", { flush = 3600 })
    local client = join(port)
    news:publish "1"
    channels.wait_data(client, "1")
    news:publish "2"
    app:channel("news", { flush = 0 })
    news:publish "3"
    assert.same(numbers(3), channels.wait_data(client, "3"))
  end)
end)
