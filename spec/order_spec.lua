--- The order on a stream is the order of the calls, whatever its client's socket takes, and no event is ever split.

local net = require "spec.support.net"
local channels = require "spec.support.channels"

local blocks, data, hub, join, numbers, publish = channels.blocks, channels.data, channels.hub, channels.join,
  channels.numbers, channels.publish

local assert_list = channels.assert_list

local LARGE = { channels = { ["*"] = { history = 1e6, history_bytes = 1e9 } } }
local PAD = (" "):rep(3000)

-- The data of all messages without padding.
local function words(client)
  local list = data(client)
  for i = 1, #list do list[i] = list[i]:gsub(" +$", "") end
  return list
end

-- Numbers from 0 below n, the same ones for the same seed.
local function dice(seed)
  return function(n)
    seed = (seed * 1103515245 + 12345) % 2147483648
    return math.floor(seed / 65536) % n
  end
end

-- A subscribed client whose socket is full: it reads nothing, and what is published waits. Returns, too, the words that
-- it is to get.
local function full(to, options)
  local app, port = hub(options or LARGE)
  local client = join(port, "/?to=" .. (to or "a"))
  client:pause()
  local expected = {}
  for i = 1, 400 do
    expected[i] = "fill" .. i
    app:channel("a"):publish(expected[i] .. PAD)
  end
  channels.round_trip(port)
  return app, port, client, app:streams()[1], expected
end

local function assert_words(client, expected)
  client:wait(("data: %s"):format(expected[#expected]), true)
  client:wait("\n\n\r\n$")
  assert_list(expected, words(client))
end

describe("on a stream", function()
  after_each(channels.finish)

  it("what was sent before subscribe precedes the id and the replay", function()
    local app, port = hub(nil, function(stream)
      stream:send "sent"
      stream:comment "said"
      stream:subscribe("news", { newcomer = "all" })
    end)
    local ids = publish(app:channel "news", 2)
    local client = join(port)
    client:wait "data: 2\n\n"
    local list = blocks(client)
    assert.same({ "data: sent\n", ": said\n" }, { list[1], list[2] })
    assert.same({ "sent", "1", "2" }, data(client))
    assert.equal(5, #list)
    assert.matches(ids[1], list[4], 1, true)
  end)

  it("what was sent before subscribe precedes the gap", function()
    local _, port = hub(nil, function(stream)
      stream:send "sent"
      stream:subscribe "news"
    end)
    assert.same({ "sent", "gap:news" }, data(join(port, "/", "never")))
  end)

  it("what is sent behind subscribe follows the replay", function()
    local app, port = hub(nil, function(stream)
      stream:subscribe("news", { newcomer = "all" })
      stream:send "sent"
      stream:sleep(0.001)
      stream:send "later"
    end)
    publish(app:channel "news", 3)
    local client = join(port)
    assert.same({ "1", "2", "3", "sent", "later" }, channels.wait_data(client, "later"))
  end)

  it("what is sent between two subscribes of a group precedes them", function()
    local app, port = hub(nil, function(stream)
      stream:send "first"
      stream:subscribe("a", { newcomer = "all" })
      stream:send "between"
      stream:subscribe("b", { newcomer = "all" })
      stream:send "last"
    end)
    for _, word in ipairs { "a1", "b1", "b2", "a2" } do app:channel(word:sub(1, 1)):publish(word) end
    local client = join(port)
    assert.same({ "first", "between", "a1", "b1", "b2", "a2", "last" }, channels.wait_data(client, "last"))
  end)

  it("what is published within the handler comes where it was published", function()
    local app, port
    app, port = hub(nil, function(stream)
      local news = app:channel "news"
      stream:subscribe "news"
      stream:send "s1"
      news:publish "p1"
      stream:send "s2"
      stream:send "s3"
      news:publish "p2"
      news:publish "p3"
      stream:send "s4"
    end)
    local client = join(port)
    assert.same({ "s1", "p1", "s2", "s3", "p2", "p3", "s4" }, channels.wait_data(client, "s4"))
  end)

  it("send and publish alternate in a callback", function()
    local app, port = hub()
    local client = join(port)
    local stream, news, expected = app:streams()[1], app:channel "news", {}
    channels.run(app, function()
      for i = 1, 1000 do
        expected[#expected + 1] = "p" .. i
        news:publish("p" .. i)
        expected[#expected + 1] = "s" .. i
        assert(stream:send("s" .. i))
      end
    end)
    assert.same(expected, channels.wait_data(client, "s1000"))
  end)

  it("send and publish alternate outside of callbacks", function()
    local app, port = hub()
    local client = join(port)
    local stream, news, expected = app:streams()[1], app:channel "news", {}
    for i = 1, 200 do
      expected[#expected + 1] = "s" .. i
      assert(stream:send("s" .. i))
      if i % 3 == 0 then stream:flush() end
      expected[#expected + 1] = "p" .. i
      news:publish("p" .. i)
      if i % 7 == 0 then net.settle() end
    end
    assert.same(expected, channels.wait_data(client, "p200"))
  end)

  it("a send follows what was published in either of two channels", function()
    local app, port = hub()
    local client = join(port, "/?to=a,b")
    local stream, a, b, expected = app:streams()[1], app:channel "a", app:channel "b", {}
    for i = 1, 300 do
      local word = ("abs"):sub(i * i % 7 % 3 + 1, i * i % 7 % 3 + 1) .. i
      expected[i] = word
      if word:sub(1, 1) == "s" then
        assert(stream:send(word))
      else
        (word:sub(1, 1) == "a" and a or b):publish(word)
      end
      if i % 20 == 0 then net.settle() end
    end
    assert.same(expected, channels.wait_data(client, expected[300]))
  end)
end)

describe("on a stream whose client reads nothing", function()
  after_each(channels.finish)

  it("send and publish keep their order", function()
    local app, _, client, stream, expected = full()
    for i = 1, 100 do
      app:channel("a"):publish("p" .. i .. PAD)
      assert(stream:send("s" .. i))
      expected[#expected + 1], expected[#expected + 2] = "p" .. i, "s" .. i
    end
    client:resume()
    assert_words(client, expected)
  end)

  it("sends keep their order among two channels and a third that is joined", function()
    local app, port, client, stream, expected = full("a,b")
    local joined
    for i = 1, 200 do
      local letter = ("abcs"):sub(i * i % 11 % 4 + 1, i * i % 11 % 4 + 1)
      if letter == "s" then
        assert(stream:send("s" .. i))
      else
        app:channel(letter):publish(letter .. i .. PAD)
      end
      if letter ~= "c" or joined then expected[#expected + 1] = letter .. i end
      if i == 100 then
        channels.run(app, function() stream:subscribe "c" end)
        joined = true
      end
      if i % 30 == 0 then channels.round_trip(port) end
    end
    client:resume()
    assert_words(client, expected)
  end)

  it("a replay that is subscribed to follows what waited, and precedes what comes", function()
    local app, _, client, stream, expected = full()
    local ids = publish(app:channel "b", 5)
    channels.run(app, function()
      stream:send "before"
      stream:subscribe("b", { since = ids[2] })
      stream:send "after"
      app:channel("b"):publish "6"
      app:channel("a"):publish "a6"
      stream:send "last"
    end)
    for _, word in ipairs { "before", "3", "4", "5", "after", "6", "a6", "last" } do expected[#expected + 1] = word end
    client:resume()
    assert_words(client, expected)
  end)

  it("what an unsubscribed channel still had to bring is left out, and sends stay in place", function()
    local app, _, client, stream, expected = full "a,b"
    for i = 1, 20 do
      app:channel("b"):publish("b" .. i .. PAD)
      app:channel("a"):publish("a" .. i .. PAD)
      assert(stream:send("s" .. i))
      expected[#expected + 1], expected[#expected + 2] = "a" .. i, "s" .. i
    end
    stream:unsubscribe "b"
    app:channel("b"):publish "never"
    app:channel("a"):publish "end"
    expected[#expected + 1] = "end"
    client:resume()
    assert_words(client, expected)
  end)

  it("a channel that is closed still brings what was published before, in its place", function()
    local app, _, client, stream, expected = full "a,b"
    for i = 1, 20 do
      app:channel("b"):publish("b" .. i .. PAD)
      assert(stream:send("s" .. i))
      expected[#expected + 1], expected[#expected + 2] = "b" .. i, "s" .. i
    end
    app:channel("b"):close()
    app:channel("b"):publish "of another channel"
    app:channel("a"):publish "end"
    expected[#expected + 1] = "end"
    client:resume()
    assert_words(client, expected)
  end)

  it("close delivers all that was sent and published before it, and nothing that was after", function()
    local app, port, client, stream, expected = full "a,b"
    for i = 1, 50 do
      app:channel("b"):publish("b" .. i .. PAD)
      assert(stream:send("s" .. i))
      expected[#expected + 1], expected[#expected + 2] = "b" .. i, "s" .. i
    end
    stream:close()
    app:channel("b"):publish "never"
    app:channel("a"):publish "never"
    channels.round_trip(port)
    assert.equal(0, app:stats().streams)
    client:resume()
    client:wait_end()
    assert_list(expected, words(client))
    local _, complete, rest = channels.body(client)
    assert.is_true(complete)
    assert.equal("", rest)
  end)

  it("close delivers what later evictions would have taken", function()
    local app, port, client, stream, expected = full("a", { channels = { a = { history = 1e6, history_bytes = 1e9 } } })
    stream:close()
    app:channel("a", { history = 1 })
    for _ = 1, 50 do
      app:channel("a"):publish "never"
      net.settle()
    end
    channels.round_trip(port)
    client:resume()
    client:wait_end()
    local got = words(client)
    if select(2, channels.body(client)) then
      assert_list(expected, got)
    else -- a cut is allowed for one that is slow, a hole is not
      for i = 1, #got do assert.equal(expected[i], got[i]) end
      assert.is_true(#got < #expected)
    end
  end)

  it("a close of the app delivers what was published before, and tells when to come back", function()
    local app, _, client, _, expected = full()
    app:close { grace = 5 }
    client:resume()
    client:wait_end()
    assert_list(expected, words(client))
    assert.is_true((select(2, channels.body(client))))
  end)

  it("a heartbeat splits no event", function()
    local app, port, client, _, expected = full("a,b", {
      heartbeat = 0.01, channels = { ["*"] = { history = 1e6, history_bytes = 1e9 } },
    })
    client.handle:recv_buffer_size(16384)
    local seen, rounds = 0, 0
    while rounds < 40 do
      rounds = rounds + 1
      local word = ("ab"):sub(rounds % 2 + 1, rounds % 2 + 1) .. rounds
      app:channel(word:sub(1, 1)):publish(word .. PAD)
      expected[#expected + 1] = word
      client:resume()
      net.wait(function() return #client.received > seen end)
      seen = #client.received
      client:pause()
      local later
      app:after(0.004, function() later = true end)
      net.wait(function() return later end)
      channels.round_trip(port)
    end
    client:resume()
    client:wait("data: " .. expected[#expected] .. " +\n\n\r\n4\r\n: \n\n\r\n") -- quiet at last
    assert_list(expected, words(client))
  end)
end)

describe("any schedule of calls", function()
  after_each(channels.finish)

  -- A model beside the server: `expected` is what the stream must bring, word by word. Publishing in a to c, with and
  -- without ids, given ones, excepted ones; sends; a client that stops and goes on; leaving and joining.
  local function run(seed, rounds)
    local roll = dice(seed)
    local app, port = hub(LARGE)
    local client = join(port, "/?to=a,b")
    client.handle:recv_buffer_size(32768)
    local stream, expected, joined = app:streams()[1], {}, { a = true, b = true }
    local function step(i)
      local letter = ("abc"):sub(roll(3) + 1)
      letter = letter:sub(1, 1)
      local word, what, pad = letter .. i, roll(20), roll(4) == 0 and PAD:rep(roll(8)) or ""
      if what < 10 then
        app:channel(letter):publish(word .. pad)
      elseif what < 12 then
        app:channel(letter):publish { id = false, data = word .. pad }
      elseif what < 13 then
        app:channel(letter):publish { id = "given " .. roll(10), data = word .. pad }
      elseif what < 14 then
        app:channel(letter):publish(word .. pad, { except = stream })
        return
      elseif what < 18 then
        if stream:send("s" .. i) then expected[#expected + 1] = "s" .. i end
        return
      elseif what == 18 and joined.c == nil then
        stream:subscribe "c"
        joined.c = true
        return
      else
        stream:flush()
        return
      end
      if joined[letter] then expected[#expected + 1] = word end
    end
    for round = 1, rounds do
      if roll(8) == 0 then client:pause() end
      local from, count = round * 100, roll(30)
      local function steps() for i = 1, count do step(from + i) end end
      if roll(2) == 0 then steps() else channels.run(app, steps) end
      if roll(3) == 0 then channels.round_trip(port) end
      if roll(6) == 0 then client:resume() end
    end
    client:resume()
    app:channel("b"):publish "end"
    expected[#expected + 1] = "end"
    assert_words(client, expected)
    local _, _, rest = channels.body(client)
    assert.equal("", rest)
    assert.equal(0, app:stats().slow)
  end

  for seed = 1, 12 do
    it("keeps the order (" .. seed .. ")", function() run(seed * 7919, 120) end)
  end

  -- Clients that are cut anywhere and come back with the last id that they have read.
  local function cuts(seed, rounds)
    local roll = dice(seed)
    local app, port = hub(LARGE)
    app:channel("a"):publish "0"
    local client, id, got, all = join(port, "/?to=a,b,c"), nil, {}, {}
    local function take()
      local list = channels.messages(client)
      for _, message in ipairs(list) do
        got[#got + 1] = message.type == "message" and message.data:gsub(" +$", "") or message.type
      end
      id = channels.last_id(client)
    end
    for round = 1, rounds do
      for i = 1, roll(20) do
        local letter = ("abc"):sub(roll(3) + 1):sub(1, 1)
        all[#all + 1] = letter .. round .. "." .. i
        app:channel(letter):publish(all[#all] .. PAD:rep(roll(5)))
      end
      if roll(3) == 0 then client:pause() end
      if roll(2) == 0 then net.settle() end
      if roll(3) == 0 then
        client:resume()
        net.settle()
      end
      if roll(5) == 0 then
        client:reset()
        take()
        client = join(port, "/?to=c,b,a", id)
      end
    end
    client:resume()
    app:channel("c"):publish "end"
    all[#all + 1] = "end"
    channels.wait_data(client, "end")
    take()
    assert_list(all, got)
    assert.equal(0, app:stats().gaps)
  end

  for seed = 1, 12 do
    it("loses and repeats nothing for a client that is cut and comes back (" .. seed .. ")", function()
      cuts(seed * 104729, 150)
    end)
  end

  it("of numbers in one channel arrives whole through pieces of any size", function()
    for _, size in ipairs { 16384, 30000, 70000 } do
      local app, port = hub(LARGE)
      local client = join(port, "/?to=a")
      client.handle:recv_buffer_size(size)
      for i = 1, 2000 do
        app:channel("a"):publish(i .. (" "):rep(i % 97 * 3))
        if i % 50 == 0 then net.settle() end
      end
      channels.wait_data(client, "2000" .. (" "):rep(2000 % 97 * 3))
      assert_list(numbers(2000), words(client))
    end
  end)
end)
