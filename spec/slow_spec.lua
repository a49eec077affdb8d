--- Slow readers: those that refuse bytes while more than half of the history lies ahead of them.

local uv = require "luv"
local net = require "spec.support.net"
local channels = require "spec.support.channels"

local blocks, data, hub, join = channels.blocks, channels.data, channels.hub, channels.join

local PAD = (" "):rep(50000)

-- One event a turn, numbered from `from` on, until done() is true; returns the last number.
local function publish_until(app, channel, from, done)
  local i = from - 1
  repeat
    i = i + 1
    assert(i < from + 2000, "nothing became of the reader")
    channels.run(app, function() channel:publish(i .. PAD) end)
  until done()
  return i
end

local function number(text)
  return tonumber(text:match "^%d+")
end

describe("a slow reader", function()
  after_each(channels.finish)

  local function open(options)
    local reasons = {}
    local app, port = hub(nil, function(stream)
      local n = #reasons + 1
      reasons[n] = false
      stream:on_close(function(reason) reasons[n] = reason end)
      return stream:subscribe "news"
    end)
    options.history_bytes = 1e9
    return app, port, app:channel("news", options), reasons
  end

  it("is disconnected: on_close says slow, its connection is reset, and it is counted", function()
    local app, port, news, reasons = open { history = 20 }
    local client = join(port)
    client:pause()
    publish_until(app, news, 1, function() return reasons[1] end)
    assert.equal("slow", reasons[1])
    assert.equal(1, app:stats().slow)
    assert.equal(0, news.subscribers)
    assert.equal(0, app:stats().connections)
    local handed = app:stats().bytes_out
    client:resume()
    client:wait_end()
    assert.is_true(#client.received < handed) -- the kernel has forgotten the rest
    assert.is_false((select(2, channels.body(client))))
  end)

  it("is left alone while no more than half of the history lies ahead of it", function()
    local app, port, news, reasons = open { history = 400 }
    local client = join(port)
    client:pause()
    for i = 1, 200 do
      channels.run(app, function() news:publish(i .. PAD) end)
    end
    assert.is_false(reasons[1])
    client:resume()
    client:wait("data: 200" .. PAD, true)
    assert.equal(200, #data(client))
    assert.equal(0, app:stats().slow)
  end)

  it("that comes back resumes without a gap: half of the history was kept for it", function()
    local app, port, news, reasons = open { history = 100 }
    local client = join(port)
    client:pause()
    local last = publish_until(app, news, 1, function() return reasons[1] end)
    client:resume()
    client:wait_end()
    local list = data(client)
    for i = 1, #list do assert.equal(i, number(list[i])) end
    local back = join(port, "/", channels.last_id(client))
    assert.equal("resumed", app.results[2])
    back:wait(("data: %d%s\n"):format(last, PAD), true)
    local rest = data(back)
    assert.equal(last, #list + #rest)
    for i = 1, #rest do assert.equal(#list + i, number(rest[i])) end
    assert.equal(0, app:stats().gaps)
  end)

  it("is one by bytes, too", function()
    local app, port, news, reasons = open { history = 1e6 }
    app:channel("news", { history_bytes = 4e6 })
    local client = join(port)
    client:pause()
    local last = publish_until(app, news, 1, function() return reasons[1] end)
    assert.equal("slow", reasons[1])
    assert.is_true(last >= 40)
    assert.is_true(last <= 80)
  end)

  it("is one by age, too", function()
    local app, port, news, reasons = open { history = 1e6, history_seconds = 0.4 }
    local client = join(port)
    client:pause()
    local began = os.clock()
    publish_until(app, news, 1, function() return reasons[1] or os.clock() - began > 5 end)
    assert.equal("slow", reasons[1])
  end)

  it("is one by age at half of it also where newcomers keep joining behind", function()
    local stopped_at, ended_at
    local app, port = hub(nil, function(stream, request)
      if request.query.stops then stream:on_close(function() ended_at = uv.hrtime() end) end
      return stream:subscribe("news", { newcomer = "all" })
    end)
    local news = app:channel("news", { history = 1e6, history_bytes = 1e9, history_seconds = 3, flush = 0.1 })
    local client = join(port, "/?stops=1")
    client:pause()
    local before
    repeat -- until a pass finds the socket full
      before = app:stats().bytes_out
      channels.run(app, function()
        for _ = 1, 200 do news:publish(PAD:sub(1, 2000)) end
      end)
      local passed = false
      app:after(0.11, function() passed = true end)
      net.wait(function() return passed end, "a pass")
    until app:stats().bytes_out == before
    stopped_at = uv.hrtime()
    app:every(0.02, function() news:publish "y" end)
    local newcomers, last = 0, nil
    app:on_subscribe(function() newcomers = newcomers + 1 end)
    app:every(0.05, function() -- in a callback, which cannot wait for a connection
      if last then last:close() end
      local handle = uv.new_tcp()
      handle:connect("127.0.0.1", port, function()
        handle:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        handle:read_start(function() end)
      end)
      last = handle
    end)
    net.wait(function() return ended_at end, "the end of the one that stopped", 9)
    assert.is_true(newcomers > 5)
    assert.is_true((ended_at - stopped_at) / 1e9 < 2.5)
    last:close()
  end)

  it("of events without an id is one, too", function()
    local app, port, news, reasons = open { history = 20 }
    local client = join(port)
    client:pause()
    local i = 0
    while not reasons[1] do
      i = i + 1
      assert(i < 500)
      channels.run(app, function() news:publish { id = false, data = PAD } end)
    end
    assert.equal("slow", reasons[1])
  end)

  it("that reads a burst within its time is none", function()
    local app, port, news, reasons = open { history = 10 }
    local client = join(port)
    client:pause()
    channels.run(app, function()
      for i = 1, 100 do news:publish(i .. PAD) end
    end)
    channels.round_trip(port)
    client:resume()
    client:wait("data: 100" .. PAD, true)
    assert.equal(100, #data(client))
    assert.is_false(reasons[1])
  end)

  it("that never reads a burst is cut when its time is over", function()
    local app, port, news, reasons = open { history = 10 }
    local client = join(port)
    client:pause()
    channels.run(app, function()
      for i = 1, 100 do news:publish(i .. PAD) end
    end)
    assert.is_false(reasons[1])
    net.wait(function() return reasons[1] end, "the end of its time", 8)
    assert.equal("slow", reasons[1])
    assert.equal(1, app:stats().slow)
  end)

  it("that resumes from far behind is not cut for that", function()
    local app, port, news, reasons = open { history = 100 }
    local first = news:publish("1" .. PAD)
    for i = 2, 95 do news:publish(i .. PAD) end
    local client = join(port, "/", first)
    client:pause()
    channels.round_trip(port)
    for i = 96, 99 do
      channels.run(app, function() news:publish(i .. PAD) end)
    end
    assert.is_false(reasons[1])
    client:resume()
    client:wait("data: 99" .. PAD, true)
    local list = data(client)
    assert.equal(98, #list)
    for i = 1, 98 do assert.equal(i + 1, number(list[i])) end
    assert.equal(0, app:stats().slow)
  end)

  it("that resumed is cut when what it lacks would be evicted, and never misses it in silence", function()
    local app, port, news, reasons = open { history = 50 }
    local first = news:publish("1" .. PAD)
    for i = 2, 45 do news:publish(i .. PAD) end
    local client = join(port, "/", first)
    client:pause()
    channels.round_trip(port)
    publish_until(app, news, 46, function() return reasons[1] end)
    assert.equal("slow", reasons[1])
    client:resume()
    client:wait_end()
    for i, text in ipairs(data(client)) do assert.equal(i + 1, number(text)) end
  end)

  it("is none while it reads all that passes hand it, whatever they wait between two", function()
    local app, port, news, reasons = open { history = 1e6, history_seconds = 0.5, flush = 0.4 }
    local client = join(port)
    local last = 0
    news:publish "first"
    local interval = app:every(0.02, function()
      last = last + 1
      news:publish(last .. PAD)
    end)
    client:wait "data: 60 "
    interval:stop()
    assert.same({ false }, reasons)
  end)

  it("does not hold back the others", function()
    local _, port, news, reasons = open { history = 400 }
    local slow = {}
    for i = 1, 5 do
      slow[i] = join(port)
      slow[i]:pause()
    end
    local quick = join(port)
    for i = 1, 30 do
      news:publish(i .. PAD)
      quick:wait(("data: %d%s\n"):format(i, PAD), true)
    end
    for i = 1, 6 do assert.is_false(reasons[i]) end
  end)

  describe("with slow = skip", function()
    it("finishes the event under way, is told of one gap, and goes on at the newest", function()
      local app, port, news, reasons = open { history = 20, slow = "skip" }
      local client = join(port)
      client:pause()
      local last = publish_until(app, news, 1, function() return app:stats().skipped > 0 end)
      client:resume()
      client:wait "event: gap\n"
      client:wait(("data: %d%s\n"):format(last, PAD), true)
      news:publish "end"
      local list = channels.wait_data(client, "end")
      local at = 1
      while list[at] ~= "gap:news" do
        assert.equal(at, number(list[at]))
        assert.equal(#PAD + #tostring(at), #list[at])
        at = at + 1
      end
      assert.equal(last, number(list[at + 1]))
      assert.equal("end", list[at + 2])
      assert.equal(at + 2, #list)
      assert.is_false(reasons[1])
      assert.same({ 1, 1, 0 }, { app:stats().skipped, app:stats().gaps, app:stats().slow })
    end)

    it("is told of one gap only, however often it skips before it reads", function()
      local app, port, news, reasons = open { history = 20, slow = "skip" }
      local client = join(port)
      client:pause()
      local last = publish_until(app, news, 1, function() return app:stats().skipped > 0 end)
      for i = last + 1, last + 100 do
        channels.run(app, function() news:publish(i .. PAD) end)
      end
      channels.round_trip(port)
      client:resume()
      news:publish "end"
      local list, gaps, before = channels.wait_data(client, "end"), 0, 0
      for _, text in ipairs(list) do
        if text == "gap:news" then
          gaps = gaps + 1
        elseif text ~= "end" then
          assert.is_true(number(text) > before)
          if gaps == 0 then assert.equal(before + 1, number(text)) end
          before = number(text)
        end
      end
      assert.equal(1, gaps)
      assert.is_false(reasons[1])
      assert.equal(last + 100, before)
    end)

    it("can skip again when it has read", function()
      local app, port, news = open { history = 20, slow = "skip" }
      local client = join(port)
      local last = 0
      for round = 1, 3 do
        client:pause()
        last = publish_until(app, news, last + 1, function() return app:stats().skipped == round end)
        client:resume()
        client:wait(("data: %d%s\n"):format(last, PAD), true)
      end
      local gaps = 0
      for _, text in ipairs(data(client)) do
        if text == "gap:news" then gaps = gaps + 1 end
      end
      assert.equal(3, gaps)
    end)

    it("keeps the id true: what it resumes from, cut behind the gap, loses nothing in silence", function()
      local app, port, news = open { history = 20, slow = "skip" }
      local client = join(port)
      client:pause()
      local last = publish_until(app, news, 1, function() return app:stats().skipped > 0 end)
      client:resume()
      client:wait "event: gap\n"
      client:wait(("data: %d%s\n"):format(last, PAD), true)
      for _, block in ipairs(blocks(client)) do
        local id, text = block:match "^id: (%S+)\ndata: (%d+)"
        if text then
          local back = join(port, "/", id)
          local kept = tonumber(text) >= last - 20
          assert.equal(kept and "resumed" or "gap", app.results[#app.results])
          back:close()
        end
      end
    end)

    it("skips in one channel and misses nothing of another", function()
      local app, port = hub()
      local news = app:channel("news", { history = 20, history_bytes = 1e9, slow = "skip" })
      local weather = app:channel("weather", { history = 1e6, history_bytes = 1e9 })
      local client = join(port, "/?to=news,weather")
      client:pause()
      local i = 0
      while app:stats().skipped == 0 do
        i = i + 1
        channels.run(app, function()
          news:publish("n" .. i .. PAD)
          weather:publish("w" .. i)
        end)
      end
      client:resume()
      weather:publish "end"
      local at, gaps = 0, 0
      for _, text in ipairs(channels.wait_data(client, "end")) do
        local word = text:match "^w(%d+)$"
        if word then
          at = at + 1
          assert.equal(at, tonumber(word))
        end
        if text == "gap:news" then gaps = gaps + 1 end
      end
      assert.equal(i, at)
      assert.equal(1, gaps)
    end)
  end)
end)

describe("a slow reader of what a stream sends and what is published, in turns", function()
  after_each(channels.finish)

  it("takes no more than limits.backlog_bytes, and all of it arrives in order", function()
    local opened
    local app, port = hub({ limits = { backlog_bytes = 65536 } }, function(stream)
      opened = stream
      stream:hold()
      return stream:subscribe "news"
    end)
    local news = app:channel("news", { history = 1e6, history_bytes = 1e9 })
    local client = join(port)
    client:pause()
    channels.run(app, function()
      for _ = 1, 200 do news:publish(PAD) end -- more than the kernel takes
    end)
    local pairs_of = 0
    channels.run(app, function()
      while opened:comment("own " .. pairs_of) do
        news:publish("published " .. pairs_of)
        pairs_of = pairs_of + 1
      end
      news:publish "end"
    end)
    assert.is_true(pairs_of > 100 and pairs_of < 65536 / 40, pairs_of)
    client:resume()
    client:wait "data: end\n\n"
    local body = channels.body(client)
    local at = 1
    for i = 0, pairs_of - 1 do
      for _, text in ipairs { (": own %d\n"):format(i), ("data: published %d\n"):format(i) } do
        local from, to = body:find(text, at, true)
        assert(from, text)
        at = to
      end
    end
  end)
end)

-- A connection's share of a turn is so many writes; that it is used up is no refusal, and must not hide that the reader
-- stands still.
describe("a reader that stands still, and whose stream sends between what is published,", function()
  after_each(channels.finish)

  -- How it ended, where its socket had taken so many events before the burst.
  local function reason_after(taken, listen, connect)
    local opened, reason
    local app, port = hub({ limits = { backlog_bytes = 1048576 } }, function(stream)
      opened = stream
      stream:hold()
      stream:on_close(function(why) reason = why end)
      return stream:subscribe "news"
    end)
    local news = app:channel("news", { history = 200, flush = 0 })
    if listen then listen(app) end
    local client = connect and connect() or net.connect(port)
    client:get "/"
    client:wait("\nid: " .. channels.ID .. "\n\n")
    client:pause()
    for _ = 1, taken do
      channels.run(app, function() news:publish(("x"):rep(2000)) end)
      net.settle()
    end
    channels.run(app, function()
      for _ = 1, 80 do
        opened:comment "own"
        news:publish(("x"):rep(600))
      end
    end)
    net.settle()
    for _ = 1, 1000 do
      channels.run(app, function() news:publish(("y"):rep(600)) end)
      if reason then break end
    end
    return reason
  end

  it("is told apart as slow, whatever its socket still takes", function()
    for taken = 0, 80, 8 do assert.equal("slow", reason_after(taken)) end
  end)

  it("is told apart as slow over a Unix socket", function()
    for taken = 0, 80, 8 do
      local path = os.tmpname()
      os.remove(path)
      local function listen(app) app:listen { path = path } end
      assert.equal("slow", reason_after(taken, listen, function() return net.connect(path) end))
      os.remove(path)
    end
  end)
end)

describe("readers that leave while frames are handed out", function()
  after_each(channels.finish)

  it("do no harm to those that stay", function()
    local app, port = hub()
    local news = app:channel("news", { history = 1e5, history_bytes = 1e9 })
    local clients = {}
    for i = 1, 60 do clients[i] = join(port) end
    for i = 1, 200 do
      news:publish(i .. (" "):rep(1000))
      if i % 5 == 0 then
        local leaving = clients[i / 5]
        if i % 10 == 0 then leaving:reset() else leaving:close() end
      end
      if i % 3 == 0 then net.settle() end
    end
    for i = 41, 60 do
      clients[i]:wait("data: 200" .. (" "):rep(1000), true)
      local list = data(clients[i])
      assert.equal(200, #list)
      for j = 1, 200 do assert.equal(j, number(list[j])) end
    end
    channels.wait_stat(app, "subscribers", 20)
  end)
end)
