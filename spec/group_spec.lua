--- Streams with several channels: the subscribes without a wait in between are one group, whose frames are merged, and
--- one id resumes them all.

local net = require "spec.support.net"
local channels = require "spec.support.channels"

local blocks, data, hub, join = channels.blocks, channels.data, channels.hub, channels.join

-- Publishes words like "a1" in the channel that their letter names; returns the ids by word.
local function publish(app, ...)
  local ids = {}
  for _, word in ipairs { ... } do ids[word] = app:channel(word:sub(1, 1)):publish(word) end
  return ids
end

local function position(block)
  return tonumber(block:match "id: %x+%-(%d+)\n")
end

describe("a group of subscriptions", function()
  after_each(channels.finish)

  it("is merged in the order of publishing", function()
    local app, port = hub()
    local client = join(port, "/?to=a,b,c")
    local expected = {}
    for i = 1, 300 do
      expected[i] = ("abc"):sub(i * i % 3 + 1, i * i % 3 + 1) .. i
      publish(app, expected[i])
      if i % 50 == 0 then net.settle() end
    end
    assert.same(expected, channels.wait_data(client, expected[300]))
  end)

  it("resumes all of its channels from one id", function()
    local app, port = hub()
    local ids = publish(app, "a1", "b1", "c1", "b2", "a2", "c2", "x1", "a3")
    local client = join(port, "/?to=a,b,c", ids.b1)
    assert.same({ "resumed" }, app.results)
    assert.same({ "c1", "b2", "a2", "c2", "a3" }, channels.wait_data(client, "a3"))
  end)

  it("made one by one is the same group as a list", function()
    local app, port = hub(nil, function(stream)
      return stream:subscribe "a" .. " " .. stream:subscribe "b" .. " " .. stream:subscribe "c"
    end)
    local ids = publish(app, "a1", "b1", "c1", "b2", "a2")
    local client = join(port, "/", ids.b1)
    assert.same({ "c1", "b2", "a2" }, channels.wait_data(client, "a2"))
    assert.same({ "resumed resumed resumed" }, app.results)
    assert.equal(4, #blocks(client)) -- one id alone
  end)

  it("begins with all gap events, then one id alone, then the merged replay, then what is live", function()
    local app, port = hub { channels = { a = { history = 2 }, c = { history = 1 } } }
    local ids = publish(app, "b1", "a1", "c1", "b2", "a2", "c2", "b3", "a3", "a4")
    local client = join(port, "/?to=a,b,c", ids.b1)
    publish(app, "b4")
    channels.wait_data(client, "b4")
    local list = blocks(client)
    assert.equal("event: gap\ndata: a\n", list[1])
    assert.equal("event: gap\ndata: c\n", list[2])
    assert.equal(("id: %s\n"):format(ids.b1), list[3]) -- b still lacks what follows it
    assert.same({ "gap:a", "gap:c", "b2", "c2", "b3", "a3", "a4", "b4" }, data(client))
    for i = 4, #list - 1 do assert.is_true(position(list[i]) < position(list[i + 1])) end
    assert.equal(2, app:stats().gaps)
    assert.equal(1, app:stats().resumes)
    assert.same({ "gap" }, app.results)
  end)

  it("with gaps only begins with the lowest position from which it goes on", function()
    local app, port = hub { channels = { a = { history = 1 }, b = { history = 1 } } }
    local ids = publish(app, "a1", "b1", "b2", "a2")
    local client = join(port, "/?to=a,b", "never")
    channels.wait_data(client, "a2")
    assert.same({ "event: gap\ndata: a\n", "event: gap\ndata: b\n", ("id: %s\n"):format(ids.a1) },
      { channels.unpack(blocks(client), 1, 3) })
    assert.same({ "gap:a", "gap:b", "b2", "a2" }, data(client))
  end)

  it("tells its gaps once and not for ever, even to a client that is cut before its first event", function()
    local app, port = hub { channels = { a = { history = 2 } } }
    local ids = publish(app, "a1", "b1", "a2", "a3", "b2", "a4")
    local client = join(port, "/?to=a", ids.a1)
    local id = blocks(client)[2]:match "^id: (%S+)\n$"
    client:close()
    local back = join(port, "/?to=a", id)
    assert.same({ "gap", "resumed" }, app.results)
    assert.same({ "a3", "a4" }, channels.wait_data(back, "a4"))
  end)

  it("of a newcomer begins where the oldest of its frames does", function()
    local app, port = hub(nil, function(stream) return stream:subscribe({ "a", "b" }, { newcomer = 2 }) end)
    local ids = publish(app, "a1", "b1", "a2", "b2", "a3", "a4", "b3")
    local client = join(port)
    assert.same({ "b2", "a3", "a4", "b3" }, channels.wait_data(client, "b3"))
    local back = join(port, "/", blocks(client)[1]:match "id: (%S+)")
    assert.same({ "b2", "a3", "a4", "b3" }, channels.wait_data(back, "b3"))
    assert.equal(ids.a2, (blocks(client)[1]:match "id: (%S+)"))
  end)

  it("of more channels than are merged at once is merged nevertheless", function()
    local list = {}
    for i = 1, 100 do list[i] = "c" .. i end
    local app, port = hub(nil, function(stream) return stream:subscribe(list) end)
    local first = app:channel("c1"):publish "0"
    local expected = {}
    for i = 1, 3000 do
      expected[i] = tostring(i)
      app:channel("c" .. i * 37 % 100 + 1):publish(i)
    end
    local client = join(port, "/", first)
    assert.same(expected, channels.wait_data(client, "3000"))
  end)

  it("reaches a client of HTTP/1.0 the same", function()
    local app, port = hub { channels = { a = { history = 2 } } }
    local ids = publish(app, "b1", "a1", "b2", "a2", "b3", "a3")
    local client = net.connect(port):send(
      ("GET /?to=a,b HTTP/1.0\r\nHost: x\r\nLast-Event-ID: %s\r\n\r\n"):format(ids.b1))
    client:wait "data: a3\n\n"
    publish(app, "b4")
    client:wait "data: b4\n\n"
    assert.same({ "gap:a", "b2", "a2", "b3", "a3", "b4" }, data(client))
    assert.equal("event: gap\ndata: a\n", blocks(client)[1])
    assert.equal(("id: %s\n"):format(ids.b1), blocks(client)[2])
  end)
end)

describe("a later group", function()
  after_each(channels.finish)

  -- A stream that subscribes to a, waits, and subscribes to b.
  local function waiting(options, later)
    local app, port
    app, port = hub(options, function(stream)
      stream:subscribe "a"
      stream:sleep(0.001)
      stream:send "waited"
      local result = stream:subscribe("b", later)
      app.results[#app.results + 1] = result
      stream:sleep(0.001)
      stream:send "settled"
    end)
    return app, port
  end

  it("starts live, whatever the client had", function()
    local app, port = waiting()
    local ids = publish(app, "a1", "b1", "a2", "b2")
    local client = join(port, "/", ids.a1)
    client:wait "data: settled\n"
    publish(app, "b3")
    assert.same({ "a2", "waited", "settled", "b3" }, channels.wait_data(client, "b3"))
    assert.same({ "live" }, app.results)
  end)

  it("does not ask for newcomers in a client that has no id either", function()
    local app, port = waiting(nil, { newcomer = "all" })
    publish(app, "b1")
    local client = join(port)
    client:wait "data: settled\n"
    publish(app, "b2")
    assert.same({ "waited", "settled", "b2" }, channels.wait_data(client, "b2"))
  end)

  it("begins with an id alone, at the head", function()
    local app, port = waiting()
    local ids = publish(app, "a1", "b1")
    local client = join(port)
    client:wait "data: settled\n"
    local list = blocks(client)
    assert.same({ ("id: %s\n"):format(ids.b1), "data: waited\n", ("id: %s\n"):format(ids.b1), "data: settled\n" }, list)
  end)

  it("with since replays, and rewinds the id, so that a cut loses nothing", function()
    local options = {}
    local app, port = waiting(nil, options)
    local ids = publish(app, "b1", "b2", "a1", "b3", "a2")
    options.since = ids.b1
    local client = join(port, "/", ids.b1)
    client:wait "data: settled\n"
    assert.same({ "a1", "a2", "waited", "b2", "b3", "settled" }, data(client))
    assert.same({ "resumed" }, app.results)
    local list, rewound = blocks(client), nil
    for i = 2, #list do
      if list[i] == ("id: %s\n"):format(ids.b1) then rewound = i end
    end
    assert.equal("data: waited\n", list[rewound - 1])
    -- cut right behind the rewound id: all of both channels comes again
    local back = join(port, "/?to=a,b", ids.b1)
    assert.equal(ids.b1, (blocks(back)[1]:match "id: (%S+)"))
  end)

  it("with a gap tells it in front of its id", function()
    local app, port = waiting({ channels = { b = { history = 1 } } }, { since = "never" })
    local ids = publish(app, "a1", "b1", "b2")
    local client = join(port)
    client:wait "data: settled\n"
    local list = blocks(client)
    assert.same({ ("id: %s\n"):format(ids.b2), "data: waited\n", "event: gap\ndata: b\n", ("id: %s\n"):format(ids.b1),
      ("id: %s\ndata: b2\n"):format(ids.b2), "data: settled\n" }, list)
  end)

  it("is merged with what the first one still has to get", function()
    local stream
    local app, port = hub({ channels = { ["*"] = { history = 1e5, history_bytes = 1e9 } } }, function(s)
      stream = s
      s:subscribe "a"
    end)
    local client = join(port)
    client:pause()
    local a, b = app:channel "a", app:channel "b"
    for i = 1, 500 do
      a:publish("a" .. i .. (" "):rep(2000))
      b:publish("b" .. i)
    end
    channels.run(app, function() stream:subscribe "b" end)
    for i = 501, 1000 do
      a:publish("a" .. i .. (" "):rep(2000))
      b:publish("b" .. i)
    end
    channels.round_trip(port)
    client:resume()
    local list = channels.wait_data(client, "b1000")
    local expected = {}
    for i = 1, 1000 do
      expected[#expected + 1] = "a" .. i
      if i > 500 then expected[#expected + 1] = "b" .. i end
    end
    assert.equal(#expected, #list)
    for i = 1, #expected do assert.equal(expected[i], (list[i]:gsub(" +$", ""))) end
  end)
end)

describe("a group that is being made", function()
  after_each(channels.finish)

  -- In one callback: joins c, publishes there, and then in a channel that the stream has already.
  local function flushed(flush)
    local app, port = hub { channels = { a = { history = 10 } } }
    local client = join(port, "/?to=a")
    local stream = app:streams()[1]
    local a, c = app:channel "a", app:channel "c"
    channels.run(app, function()
      stream:subscribe(c)
      c:publish "c1"
      a:publish "a1"
      flush(stream, a)
    end)
    a:publish "end"
    return client, channels.wait_data(client, "end")
  end

  it("holds back what is published behind it, also in the stream's other channels", function()
    local client, list = flushed(function(stream) stream:flush() end)
    assert.same({ "c1", "a1", "end" }, list)
    local at = -1
    for _, block in ipairs(blocks(client)) do
      assert.is_true(position(block) >= at)
      at = position(block)
    end
  end)

  it("keeps its place once something was published to it, so that nothing overtakes that", function()
    local app, port = hub { channels = { a = { history = 10 } } }
    local client = join(port, "/?to=a")
    local stream = app:streams()[1]
    local a, c = app:channel "a", app:channel "c"
    channels.run(app, function()
      stream:subscribe(c)
      stream:send "s1"
      c:publish "c1"
      a:publish "a1"
      stream:send "s2"
      stream:subscribe "d"
      a:publish "end"
    end)
    assert.same({ "s1", "c1", "a1", "s2", "end" }, channels.wait_data(client, "end"))
    local at = -1
    for _, block in ipairs(blocks(client)) do
      local sequence = position(block)
      assert.is_true(sequence == nil or sequence >= at)
      at = sequence or at
    end
  end)

  it("that loses its only member lets go what it held back", function()
    local app, port = hub()
    local client = join(port, "/?to=a")
    local stream, a = app:streams()[1], app:channel "a"
    channels.run(app, function()
      stream:subscribe "c"
      channels.publish(a, 3000)
      stream:unsubscribe "c"
    end)
    assert.same(channels.numbers(3000), channels.wait_data(client, 3000))
  end)

  it("holds back a burst", function()
    local _, list = flushed(function(_, a)
      for i = 1, 5000 do a:publish { id = i % 2 == 0 and "given " .. i, data = i } end
    end)
    assert.equal("c1", list[1])
    assert.equal("a1", list[2])
    for i = 1, 5000 do assert.equal(tostring(i), list[i + 2]) end
    assert.equal(5003, #list)
  end)

  it("holds back a burst behind a send", function()
    local _, list = flushed(function(stream, a)
      stream:send "sent"
      for i = 1, 5000 do a:publish(i) end
    end)
    channels.assert_list({ "c1", "a1", "sent", channels.unpack(channels.numbers(5000)) },
      { channels.unpack(list, 1, #list - 1) })
  end)
end)

describe("an id on a stream", function()
  after_each(channels.finish)

  -- Promise 1: whatever block a client has read last, it resumes from there without a loss.
  it("resumes every channel, wherever the client is cut", function()
    local app, port = hub { channels = { ["*"] = { history = 1e5, history_bytes = 1e9 } } }
    local client = join(port, "/?to=a,b,c")
    client.handle:recv_buffer_size(32768)
    local all = {}
    for round = 1, 40 do
      if round % 10 == 3 then client:pause() end
      for i = 1, 25 do
        local letter = ("abc"):sub((round * i) % 3 + 1, (round * i) % 3 + 1)
        all[#all + 1] = letter .. #all
        app:channel(letter):publish(all[#all] .. (round % 2 == 0 and (" "):rep(round * 50) or ""))
      end
      if round % 10 == 8 then
        channels.round_trip(port)
        client:resume()
      end
      net.settle()
    end
    app:channel("a"):publish "end"
    all[#all + 1] = "end"
    channels.wait_data(client, "end")
    local list = blocks(client)
    local seen, id = 0, nil
    for i, block in ipairs(list) do
      if block:find "\ndata: " then seen = seen + 1 end
      id = block:match "^id: (%S+)" or id
      if i % 101 == 0 then
        local back = join(port, "/?to=c,a,b", id)
        back:wait "data: end\n"
        local rest = data(back)
        assert.equal(#all - seen, #rest)
        for j = 1, #rest do assert.equal(all[seen + j], (rest[j]:gsub(" +$", ""))) end
        back:close()
      end
    end
    assert.equal(1001, seen)
  end)

  it("stays true when a channel is left and another joined", function()
    local app, port = hub(nil, function(stream, request)
      stream.data = request.query.later
      stream:subscribe { "a", "b" }
    end)
    local client = join(port)
    publish(app, "a1", "b1")
    client:wait "data: b1\n"
    local stream = app:streams()[1]
    channels.run(app, function()
      stream:unsubscribe "a"
      publish(app, "a2", "b2", "c1")
      stream:subscribe "c"
    end)
    publish(app, "c2", "a3", "b3")
    assert.same({ "a1", "b1", "b2", "c2", "b3" }, channels.wait_data(client, "b3"))
    for i, block in ipairs(blocks(client)) do
      if block:find "\ndata: b2\n" then
        local back = net.connect(port):get("/", { "Last-Event-ID: " .. block:match "id: (%S+)" })
        back:wait "data: b3\n"
        assert.same({ "a3", "b3" }, data(back), i)
      end
    end
  end)
end)
