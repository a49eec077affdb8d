--- Where a subscription starts: from what the client had last, from `since`, or as a newcomer; and how a gap is told.

local net = require "spec.support.net"
local channels = require "spec.support.channels"

local blocks, data, hub, join, numbers, publish = channels.blocks, channels.data, channels.hub, channels.join,
  channels.numbers, channels.publish
local open_hub, resumed = channels.open_hub, channels.resumed

local function assert_gap(app, port, id, ...)
  local result, list = resumed(app, port, id)
  assert.equal("gap", result)
  assert.same({ "gap:news", ... }, list)
end

describe("a client resumes", function()
  after_each(channels.finish)

  it("behind its Last-Event-ID", function()
    local app, port, news = open_hub()
    local ids = publish(news, 5)
    local result, list = resumed(app, port, ids[2])
    assert.equal("resumed", result)
    assert.same({ "3", "4", "5" }, list)
  end)

  for _, key in ipairs { "last_event_id", "lastEventId", "evs_last_event_id" } do
    it("behind the query's " .. key, function()
      local app, port, news = open_hub()
      local ids = publish(news, 5)
      local result, list = resumed(app, port, nil, ("/?x=y&%s=%s"):format(key, ids[3]))
      assert.equal("resumed", result)
      assert.same({ "4", "5" }, list)
    end)
  end

  it("behind the header's id where the query has another", function()
    local app, port, news = open_hub()
    local ids = publish(news, 5)
    assert.same({ "5" }, select(2, resumed(app, port, ids[4], "/?last_event_id=" .. ids[1])))
  end)

  it("at an empty header as a newcomer", function()
    local app, port, news = open_hub()
    publish(news, 5)
    local result, list = resumed(app, port, { "Last-Event-ID:" })
    assert.equal("live", result)
    assert.same({}, list)
  end)

  it("from every place in the history, each frame once, with its own id", function()
    local app, port, news = open_hub()
    local ids = publish(news, 30)
    for i = 1, 30 do
      local result, list, client = resumed(app, port, ids[i])
      assert.equal("resumed", result)
      assert.same(numbers(i + 1, 30), list)
      for j, message in ipairs((channels.messages(client))) do
        assert.equal(ids[i + j] or ids[30], message.last_event_id)
      end
      client:close()
    end
  end)

  it("at the newest frame with nothing", function()
    local app, port, news = open_hub()
    local ids = publish(news, 5)
    local result, list = resumed(app, port, ids[5])
    assert.equal("resumed", result)
    assert.same({}, list)
  end)

  it("with an id of another channel of the app", function()
    local app, port, news = open_hub()
    news:publish "before"
    local id = app:channel("weather"):publish "sun"
    news:publish "after"
    local result, list = resumed(app, port, id)
    assert.equal("resumed", result)
    assert.same({ "after" }, list)
  end)

  it("with an id in upper case and leading zeros", function()
    local app, port, news = open_hub()
    local epoch, number = publish(news, 3)[1]:match "^(%x+)%-(%d+)$"
    local result, list = resumed(app, port, ("%s-000%s"):format(epoch:upper(), number))
    assert.equal("resumed", result)
    assert.same({ "2", "3" }, list)
  end)

  it("in the middle of the history and goes on live, with no hole and no duplicate", function()
    local _, port, news = open_hub()
    local ids = publish(news, 100)
    local client = net.connect(port):get("/", { "Last-Event-ID: " .. ids[10] })
    local n = 100
    while n < 500 do
      n = n + 1
      news:publish(n)
      if n % 3 == 0 then net.settle() end
    end
    assert.same(numbers(11, 500), channels.wait_data(client, "500"))
  end)

  it("by the id of the first block, if it was cut before its first event", function()
    local app, port, news = open_hub()
    local ids = publish(news, 5)
    local client = join(port, "/", ids[2])
    assert.equal(("id: %s\n"):format(ids[2]), blocks(client)[1])
    client:close()
    assert.same({ "3", "4", "5" }, select(2, resumed(app, port, (blocks(client)[1]:match "id: (%S+)"))))
  end)

  it("again and again, cut after any frame, without a loss", function()
    local app, port, news = open_hub()
    local seen, id = {}, nil
    news:publish "0"
    for round = 1, 30 do
      local client = join(port, "/", id)
      publish(news, round * 2 - 1, round * 2)
      channels.wait_data(client, round % 3 == 0 and round * 2 or round * 2 - 1)
      for _, message in ipairs((channels.messages(client))) do seen[#seen + 1] = message.data end
      id = channels.last_id(client)
      client:reset()
    end
    assert.same(numbers(#seen), seen)
    assert.is_true(#seen >= 59)
    assert.equal(0, app:stats().gaps)
  end)
end)

describe("subscribe's since", function()
  after_each(channels.finish)

  it("is an id, which beats the client's", function()
    local app, port, news = open_hub()
    local ids = publish(news, 5)
    app.options = { since = ids[3] }
    local result, list = resumed(app, port, ids[1])
    assert.equal("resumed", result)
    assert.same({ "4", "5" }, list)
  end)

  it("is live, whatever the client had", function()
    local app, port, news = open_hub()
    local ids = publish(news, 5)
    app.options = { since = "live", newcomer = "all" }
    local result, list = resumed(app, port, ids[1])
    assert.equal("live", result)
    assert.same({}, list)
  end)

  it("is a number that was given as an id", function()
    local app, port, news = open_hub()
    for i = 1, 5 do news:publish { id = i, data = i } end
    for _, since in ipairs { 2, 2.0, "2" } do
      app.options = { since = since }
      local result, list = resumed(app, port)
      assert.equal("resumed", result)
      assert.same({ "3", "4", "5" }, list)
    end
  end)

  it("is a gap where nothing is known of the id", function()
    local app, port, news = open_hub()
    publish(news, 2)
    for _, since in ipairs { "never", " ", 99, ("0"):rep(16) .. "-1" } do
      app.options = { since = since }
      local result, list = resumed(app, port)
      assert.equal("gap", result)
      assert.same({ "gap:news", "1", "2" }, list)
    end
  end)

  it("that is empty is as an empty header: the client is a newcomer", function()
    local app, port, news = open_hub()
    publish(news, 5)
    app.options = { since = "", newcomer = 2 }
    local result, list = resumed(app, port)
    assert.equal("live", result)
    assert.same({ "4", "5" }, list)
  end)

  it("is the channel's own id, for what is published from then on", function()
    local app, port, news = open_hub()
    publish(news, 3)
    local id = news.id
    publish(news, 4, 5)
    app.options = { since = id }
    assert.same({ "4", "5" }, select(2, resumed(app, port)))
  end)
end)

describe("subscribe's newcomer", function()
  after_each(channels.finish)

  local function newcomer(value, kept, wanted)
    local app, port, news = open_hub({ history = 10 }, { newcomer = value })
    publish(news, kept)
    local result, list = resumed(app, port)
    assert.equal("live", result)
    assert.same(wanted, list)
    assert.equal(0, app:stats().resumes)
  end

  it("0 gets nothing of the history", function() newcomer(0, 5, {}) end)
  it("n gets the newest n", function() newcomer(3, 5, { "3", "4", "5" }) end)
  it("n gets all when there are no more", function() newcomer(7, 5, numbers(5)) end)
  it("n gets what is kept when more were published", function() newcomer(50, 25, numbers(16, 25)) end)
  it("all gets all that is kept", function() newcomer("all", 25, numbers(16, 25)) end)
  it("all gets nothing of nothing", function() newcomer("all", 0, {}) end)

  it("is not asked of a client that has an id", function()
    local app, port, news = open_hub(nil, { newcomer = "all" })
    local ids = publish(news, 5)
    assert.same({ "5" }, select(2, resumed(app, port, ids[4])))
  end)

  it("gives every channel of a list so many", function()
    local app, port = hub(nil, function(stream) return stream:subscribe({ "a", "b" }, { newcomer = 2 }) end)
    for i = 1, 4 do
      app:channel("a"):publish("a" .. i)
      app:channel("b"):publish("b" .. i)
    end
    local client = join(port)
    app:channel("a"):publish "end"
    assert.same({ "a3", "b3", "a4", "b4", "end" }, channels.wait_data(client, "end"))
  end)
end)

describe("a gap", function()
  after_each(channels.finish)

  it("is told when frames behind the id were evicted, and what is kept follows", function()
    local app, port, news = open_hub { history = 3 }
    local ids = publish(news, 6)
    assert_gap(app, port, ids[2], "4", "5", "6")
  end)

  it("is none when the next frame is the oldest that is kept", function()
    local app, port, news = open_hub { history = 3 }
    local ids = publish(news, 6)
    local result, list = resumed(app, port, ids[3])
    assert.equal("resumed", result)
    assert.same({ "4", "5", "6" }, list)
  end)

  it("is told of an id that was never given", function()
    local app, port, news = open_hub()
    publish(news, 2)
    assert_gap(app, port, "never", "1", "2")
  end)

  it("is told of malformed ids", function()
    local app, port, news = open_hub()
    local epoch = publish(news, 2)[1]:match "^%x+"
    for _, id in ipairs {
      epoch, epoch .. "-", epoch .. "-x", epoch .. "-1x", epoch .. "--1", epoch .. "- 1", epoch .. "-1 2",
      epoch:sub(2) .. "-1", "0" .. epoch .. "-1", epoch .. "_1", "-1", "\255\254", ("x"):rep(2000),
    } do
      assert_gap(app, port, id, "1", "2")
    end
  end)

  it("is told of an id of another epoch", function()
    local app, port, news = open_hub()
    publish(news, 2)
    local other = hub():channel("news"):publish "x"
    assert_gap(app, port, other, "1", "2")
  end)

  it("is told of ids from the future", function()
    local app, port, news = open_hub()
    local epoch = publish(news, 2)[1]:match "^%x+"
    for _, number in ipairs { "3", "99", "18446744073709551615", "18446744073709551616", ("9"):rep(100) } do
      assert_gap(app, port, epoch .. "-" .. number, "1", "2")
    end
  end)

  it("is told where the channel is empty, too", function()
    local app, port = open_hub()
    assert_gap(app, port, "never")
  end)

  it("with on_gap = live is followed by what is new only", function()
    local app, port, news = open_hub({ history = 3 }, { on_gap = "live" })
    local ids = publish(news, 6)
    assert_gap(app, port, ids[1])
  end)

  it("with on_gap = live changes nothing where there is no gap", function()
    local app, port, news = open_hub({ history = 3 }, { on_gap = "live" })
    local ids = publish(news, 6)
    assert.same({ "6" }, select(2, resumed(app, port, ids[5])))
  end)

  it("is an event gap with the channel's name, then the id alone, then what is kept", function()
    local app, port, news = open_hub { history = 2 }
    local ids = publish(news, 4)
    local client = join(port, "/", "never")
    client:wait "data: 4\n\n"
    assert.same({ "event: gap\ndata: news\n", ("id: %s\n"):format(ids[2]),
      ("id: %s\ndata: 3\n"):format(ids[3]), ("id: %s\ndata: 4\n"):format(ids[4]) }, blocks(client))
    assert.matches("\r\n17\r\nevent: gap\ndata: news\n\n\r\n", client.received, 1, true)
    assert.equal("gap", app.results[1])
  end)

  it("is told with a name of any bytes, each line end as a new line", function()
    local app, port = hub(nil, function(stream) return stream:subscribe("a\n\nevent: b\rc") end)
    local client = join(port, "/", "never")
    local messages = channels.messages(client)
    assert.equal(1, #messages)
    assert.equal("gap", messages[1].type)
    assert.equal("a\n\nevent: b\nc", messages[1].data)
    assert.same({ "gap" }, app.results)
  end)

  it("is told once and not for ever: the id behind it resumes", function()
    local app, port, news = open_hub { history = 3 }
    publish(news, 6)
    for _, options in ipairs { {}, { on_gap = "live" } } do
      app.options = options
      local client = join(port, "/", "never")
      local id = channels.last_id(client)
      client:close()
      app.options = {}
      assert.equal("resumed", (resumed(app, port, id)))
    end
  end)

  it("by age is told when the frames behind the id have grown too old", function()
    local app, port, news = open_hub { history_seconds = 0.02 }
    local ids = publish(news, 3)
    local later
    app:after(0.05, function() later = news:publish "4" end)
    net.wait(function() return later end, "the later frame")
    local client = join(port, "/", ids[1])
    assert.equal("gap", app.results[1])
    client:wait "data: 4\n"
    assert.same({ "gap:news", "4" }, data(client))
  end)

  it("by bytes is told when the frames behind the id were too many", function()
    local app, port, news = open_hub { history_bytes = 5000 }
    local ids = {}
    for i = 1, 20 do ids[i] = news:publish(i .. (" "):rep(950)) end -- five of these have 4,955 to 5,000 bytes
    local result, list = resumed(app, port, ids[15])
    assert.equal("resumed", result)
    assert.equal(5, #list)
    result, list = resumed(app, port, ids[14])
    assert.equal("gap", result)
    assert.equal(6, #list)
  end)

  it("is what a frame larger than history_bytes leaves: nothing is kept", function()
    local app, port, news = open_hub { history_bytes = 1000 }
    local live = join(port)
    local id = news:publish "small"
    news:publish(("x"):rep(2000))
    live:wait(("x"):rep(2000), true)
    assert_gap(app, port, id)
  end)

  it("is told where there is no history at all, unless nothing was missed", function()
    local app, port, news = open_hub { history = 0 }
    local live = join(port)
    local ids = publish(news, 2)
    channels.wait_data(live, "2")
    assert.equal("resumed", (resumed(app, port, ids[2])))
    assert_gap(app, port, ids[1])
  end)
end)

describe("a replay", function()
  after_each(channels.finish)

  it("of 20,000 frames reaches a client that reads in small pieces and pauses", function()
    local app, port, news = open_hub { history = 20000, history_bytes = 1e9 }
    local ids = publish(news, 1)
    for i = 2, 20000 do news:publish(i .. (" "):rep(100)) end
    local client = net.connect(port)
    client.handle:recv_buffer_size(16384)
    client:get("/", { "Last-Event-ID: " .. ids[1] })
    client:wait "\nid: "
    local pauses = 0
    local function arrived() return client.ended or client.received:find("data: end\n\n", -200, true) end
    while not arrived() do
      local from = #client.received
      net.wait(function() return #client.received >= from + 50000 or arrived() end, "more of the replay")
      client:pause()
      pauses = pauses + 1
      if pauses <= 20 then news:publish("live " .. pauses) end -- a pass looks for slow readers
      if pauses == 20 then news:publish "end" end
      channels.round_trip(port)
      client:resume()
    end
    local list = data(client)
    assert.equal(19999 + 20 + 1, #list)
    for i = 2, 20000 do assert.equal(i, tonumber(list[i - 1])) end
    for i = 1, 20 do assert.equal("live " .. i, list[19999 + i]) end
    assert.equal(0, app:stats().slow)
    assert.equal(0, app:stats().gaps)
  end)

  it("reaches a client of HTTP/1.0 without chunks, in the same order", function()
    local app, port, news = open_hub { history = 5000, history_bytes = 1e9 }
    for i = 1, 5000 do news:publish(i .. (" "):rep(100)) end
    local client = net.connect(port):send "GET / HTTP/1.0\r\nLast-Event-ID: never\r\n\r\n"
    client:wait "\nid: "
    news:publish "end"
    local list = channels.wait_data(client, "end")
    assert.equal(5002, #list)
    assert.equal("gap:news", list[1])
    for i = 1, 5000 do assert.equal(i, tonumber(list[i + 1])) end
    assert.same({ "gap" }, app.results)
  end)
end)
