--- What publish takes, what it returns, what goes over the wire, and who gets it.

local net = require "spec.support.net"
local channels = require "spec.support.channels"
local eventstream = require "eventstream"

local blocks, data, hub, join, messages = channels.blocks, channels.data, channels.hub, channels.join, channels.messages

local HERE = "^spec/publish_spec%.lua:%d+: "

local function message_of(fn)
  local ok, message = pcall(fn)
  assert.is_false(ok)
  assert.matches(HERE, message)
  return (message:gsub(HERE, ""))
end

-- What a subscriber of "news" gets of some events.
local function received(...)
  local app, port = hub()
  local client = join(port)
  for _, event in ipairs { ... } do app:channel("news"):publish(event) end
  app:channel("news"):publish { id = "last", data = "last" }
  channels.wait_data(client, "last")
  local list = messages(client)
  list[#list] = nil
  return list, client
end

describe("channel:publish", function()
  after_each(channels.finish)

  describe("returns", function()
    it("an id of the app's epoch and the next number", function()
      local news = hub():channel "news"
      local epoch, number = news:publish("x"):match "^(%x+)%-(%d+)$"
      assert.equal(16, #epoch)
      assert.equal(epoch, epoch:lower())
      local again, second = news:publish("y"):match "^(%x+)%-(%d+)$"
      assert.equal(epoch, again)
      assert.is_true(tonumber(second) > tonumber(number))
    end)

    it("numbers that rise over all channels of the app", function()
      local app = hub()
      local last = 0
      for i = 1, 100 do
        local number = tonumber(app:channel("c" .. i % 3):publish(i):match "%-(%d+)$")
        assert.is_true(number > last)
        last = number
      end
    end)

    it("ids of different epochs in different apps", function()
      local one, other = hub():channel("news"):publish "x", hub():channel("news"):publish "x"
      assert.not_equal(one:match "^%x+", other:match "^%x+")
    end)

    it("the given id", function()
      local news = hub():channel "news"
      assert.equal("a b", news:publish { id = "a b", data = "x" })
      assert.equal("12", news:publish { id = 12, data = "x" })
    end)

    it("true without an id", function()
      local app, port = hub()
      local news = app:channel "news"
      assert.is_true(news:publish { id = false, data = "x" })
      join(port)
      assert.is_true(news:publish { id = false, data = "x" })
    end)

    it("an id without subscribers, too", function()
      assert.matches("^" .. channels.ID .. "$", hub():channel("news"):publish "x")
    end)

    it("nil and closed when the app is being closed", function()
      local app, port = hub()
      local news = app:channel "news"
      join(port)
      app:close { grace = 5 }
      assert.same({ n = 2, nil, "closed" }, channels.pack(news:publish "x"))
    end)
  end)

  describe("refuses", function()
    local function publish(...)
      local arguments = channels.pack(...)
      return message_of(function() hub():channel("news"):publish(channels.unpack(arguments, 1, arguments.n)) end)
    end

    it("an empty event", function() assert.matches("^publish: empty event", publish {}) end)
    it("nothing", function() assert.matches("^publish: event must be a table or a string, not nil", publish()) end)
    it("a list", function() assert.matches("^publish: event must have named fields", publish { "x" }) end)
    it("an unknown field", function() assert.matches("^publish: unknown .*'date'.*'data'", publish { date = "x" }) end)
    it("an empty id", function() assert.matches("^publish: id must not be empty", publish { id = "", data = "x" }) end)
    it("an id of the form that channels give", function()
      for _, id in ipairs { "0123456789abcdef-1", "0123456789ABCDEF-0", "ffffffffffffffff-99999999999999999999999" } do
        assert.matches("^publish: id must not look like one that a channel gives", publish { id = id, data = "x" })
      end
    end)
    it("an id with a line end", function() assert.matches("^publish: id", publish { id = "a\nb", data = "x" }) end)
    it("an id that is too long", function()
      assert.matches("^publish: id must not be longer than 128", publish { id = ("x"):rep(129), data = "x" })
    end)
    it("id = true", function() assert.matches("^publish: id", publish { id = true, data = "x" }) end)
    it("an event's name with a line end", function()
      assert.matches("^publish: event must not contain a line end", publish { event = "a\rdata: b", data = "x" })
    end)
    it("an event's name without data", function()
      assert.matches("^publish: an event without data", publish { event = "a" })
    end)
    it("an unknown option", function()
      assert.equal("publish: unknown option 'exept' (did you mean 'except'?)", publish("x", { exept = 1 }))
    end)
    it("options that are no table", function()
      assert.equal("publish: options must be a table, not number", publish("x", 12))
      assert.equal("publish: options must be a table, not string", publish({ data = "x" }, "y"))
    end)
    it("an except that is no stream", function()
      assert.matches("publish: except must be a stream, not string$",
        (select(2, pcall(function() hub():channel("n"):publish("x", { except = "ann" }) end))))
    end)

    it("and then nothing is published", function()
      local app, port = hub()
      local client = join(port)
      local news = app:channel "news"
      for _, wrong in ipairs { {}, { id = "" }, { date = 1 }, { event = "x" }, { data = 0 / 0 } } do
        assert.is_false((pcall(news.publish, news, wrong)))
      end
      assert.is_false((pcall(news.publish, news, "x", { x = 1 })))
      news:publish "end"
      assert.same({ "end" }, channels.wait_data(client, "end"))
      assert.equal(1, app:stats().published)
    end)
  end)

  describe("writes", function()
    it("the id, the event's name, the retry and the data", function()
      local app, port = hub()
      local client = join(port)
      local id = app:channel("news"):publish { event = "headline", data = "a\nb", retry = 5, comment = "c" }
      channels.wait_data(client, "b")
      assert.equal((": c\nid: %s\nevent: headline\nretry: 5\ndata: a\ndata: b\n"):format(id), blocks(client)[2])
    end)

    it("the given id instead of its own", function()
      local list = received({ id = "a b", data = "x" }, { id = 7, data = "y" })
      assert.same({ { type = "message", data = "x", last_event_id = "a b" },
        { type = "message", data = "y", last_event_id = "7" } }, list)
    end)

    it("no id where id is false", function()
      local list, client = received { id = false, event = "tick", data = "x" }
      assert.equal("tick", list[1].type)
      assert.equal("event: tick\ndata: x\n", blocks(client)[2])
    end)

    it("strings, numbers and booleans as data", function()
      local list = received("x", 12, 12.5, true, { data = false }, { data = 3 }, "")
      local got = {}
      for i, message in ipairs(list) do got[i] = message.data end
      assert.same({ "x", "12", "12.5", "true", "false", "3", "" }, got)
    end)

    it("tables as JSON", function()
      local list = received({ data = { text = "a\nb" } }, { data = { 1, 2 } })
      assert.equal([[{"text":"a\nb"}]], list[1].data)
      assert.equal("[1,2]", list[2].data)
    end)

    it("an event that is a comment only, with its id", function()
      local app, port = hub()
      local client = join(port)
      local id = app:channel("news"):publish { comment = "quiet" }
      client:wait ": quiet\n"
      assert.equal((": quiet\nid: %s\n"):format(id), blocks(client)[2])
    end)

    it("nothing that data injects", function()
      local attempts = {
        "a\n\nid: 666\ndata: b", "a\r\rid: 666\rdata: b", "a\r\n\r\nevent: gap\r\ndata: b", "\nid: 666\n", "\r",
        "a\n\n0\r\n\r\n", "\0id: 666", ": x", "\239\187\191data: x",
      }
      local app, port = hub()
      local client = join(port)
      local ids = {}
      for i, attempt in ipairs(attempts) do ids[i] = app:channel("news"):publish(attempt) end
      app:channel("news"):publish "end"
      channels.wait_data(client, "end")
      local list = messages(client)
      assert.equal(#attempts + 1, #list)
      for i, attempt in ipairs(attempts) do
        local message = { type = "message", data = attempt:gsub("\r\n", "\n"):gsub("\r", "\n"), last_event_id = ids[i] }
        assert.same(message, list[i])
      end
    end)

    it("nothing that a comment injects", function()
      local list = received { comment = "a\ndata: b\r\n\r\nid: 666\rdata: c\r", data = "x" }
      assert.equal(1, #list)
      assert.equal("x", list[1].data)
      assert.matches(channels.ID, list[1].last_event_id)
    end)

    it("an event of megabytes in one piece", function()
      local app, port = hub()
      local client = join(port)
      local big = ("0123456789"):rep(300000)
      app:channel("news"):publish "before"
      app:channel("news"):publish(big)
      app:channel("news"):publish "after"
      assert.same({ "before", big, "after" }, channels.wait_data(client, "after"))
    end)

    it("to a client of HTTP/1.0 without chunks", function()
      local app, port = hub()
      local client = net.connect(port):send "GET / HTTP/1.0\r\nHost: x\r\n\r\n"
      client:wait "\nid: "
      local id = app:channel("news"):publish "one"
      local second = app:channel("news"):publish { data = "two" }
      client:wait("data: two\n\n", true)
      local expected = ("id: %s\ndata: one\n\nid: %s\ndata: two\n\n"):format(id, second)
      assert.equal(expected, client.received:sub(-#expected))
      assert.not_matches("chunked", client.received)
    end)
  end)

  it("reaches every subscriber, and no other stream", function()
    local app, port = hub()
    local others = join(port, "/?to=weather")
    local clients = {}
    for i = 1, 50 do clients[i] = join(port) end
    local id = app:channel("news"):publish "x"
    for i = 1, 50 do
      clients[i]:wait "data: x\n"
      assert.equal(id, channels.last_id(clients[i]))
    end
    app:channel("weather"):publish "y"
    assert.same({ "y" }, channels.wait_data(others, "y"))
  end)

  it("without subscribers is kept for those that come", function()
    local app, port = hub(nil, function(stream) return stream:subscribe("news", { newcomer = "all" }) end)
    app:channel("news"):publish "early"
    assert.same({ "early" }, channels.wait_data(join(port), "early"))
  end)

  it("works from a handler, an interval, on_close and outside of callbacks", function()
    local app, port = hub()
    local client = join(port)
    local news = app:channel "news"
    app:stream("/other", function(stream)
      news:publish "handler"
      stream:on_close(function() news:publish "on_close" end)
      stream:after(0, function() news:publish "interval" end)
    end)
    news:publish "outside"
    net.connect(port):get("/other"):wait_end()
    assert.same({ "outside", "handler", "interval", "on_close" }, channels.wait_data(client, "on_close"))
  end)

  for _, flush in ipairs { "auto", 0, 0.02 } do
    it(("by handlers that wake each other goes out with flush = %s"):format(flush), function()
      local wake = {}
      local app, port = hub({ channels = { ["*"] = { flush = flush } } })
      local CHAIN = 12 -- longer than a turn's end goes on with by itself
      app:stream("/chain/:n", function(stream, request)
        local n = tonumber(request.params.n)
        stream:comment "waits"
        eventstream.await(function(resume) wake[n] = resume end)
        if n < CHAIN then wake[n + 1]() else app:channel("news"):publish "chained" end
      end)
      local client = join(port)
      for n = 1, CHAIN do net.connect(port):get("/chain/" .. n):wait ": waits" end
      app:channel("news"):publish "first"
      channels.wait_data(client, "first")
      app:after(0.05, function() wake[1]() end) -- nothing else makes the loop turn
      channels.wait_data(client, "chained")
    end)
  end

  describe("{ except = stream }", function()
    -- Two subscribers, the first of which publishes what is not for it.
    local function pair(to)
      local opened = {}
      local app, port = hub(nil, function(stream)
        opened[#opened + 1] = stream
        return stream:subscribe(to or "news")
      end)
      local own, other = join(port), join(port)
      return app, port, own, other, opened[1]
    end

    it("gives that stream the id alone, and the others the event", function()
      local app, _, own, other, stream = pair()
      local news = app:channel "news"
      local first, second = news:publish("for all", { except = nil }), news:publish("own", { except = stream })
      local third = news:publish "end"
      assert.same({ "for all", "own", "end" }, channels.wait_data(other, "end"))
      assert.same({ "for all", "end" }, channels.wait_data(own, "end"))
      local list = blocks(own)
      assert.equal(("id: %s\ndata: for all\n"):format(first), list[2])
      assert.equal(("id: %s\n"):format(second), list[3])
      assert.equal(("id: %s\ndata: end\n"):format(third), list[4])
      assert.equal(4, #list)
    end)

    it("gives it nothing of an event without an id", function()
      local app, _, own, other, stream = pair()
      local news = app:channel "news"
      news:publish({ id = false, data = "own" }, { except = stream })
      news:publish "end"
      assert.same({ "own", "end" }, channels.wait_data(other, "end"))
      assert.same({ "end" }, channels.wait_data(own, "end"))
      assert.equal(2, #blocks(own))
    end)

    it("gives it the given id", function()
      local app, _, own, _, stream = pair()
      local news = app:channel "news"
      assert.equal("mine", news:publish({ id = "mine", data = "own" }, { except = stream }))
      own:wait "\nid: mine\n\n"
      assert.same({}, data(own))
      assert.equal("mine", channels.last_id(own))
    end)

    it("loses nothing when that client comes back with the id", function()
      local app, port, own, _, stream = pair()
      local news = app:channel "news"
      news:publish "before"
      local id = news:publish("own", { except = stream })
      own:wait("id: " .. id .. "\n\n", true)
      own:close()
      news:publish "missed"
      local back = join(port, "/", channels.last_id(own))
      assert.same({ "missed" }, channels.wait_data(back, "missed"))
      assert.same({ "live", "live", "resumed" }, app.results)
    end)

    it("brings it back to a client that comes back with an older id", function()
      local app, port, own, _, stream = pair()
      local news = app:channel "news"
      local id = news:publish "before"
      news:publish("own", { except = stream })
      own:close()
      local back = join(port, "/", id)
      assert.same({ "own" }, channels.wait_data(back, "own"))
    end)

    it("has no effect for a stream that is not subscribed, or is over", function()
      local app, port, own, other, stream = pair()
      local third = join(port)
      local news, elsewhere = app:channel "news", app:channel "weather"
      elsewhere:publish("y", { except = stream })
      own:close()
      net.wait(function() return stream.closed end, "the end of the stream")
      news:publish("x", { except = stream })
      assert.same({ "x" }, channels.wait_data(other, "x"))
      assert.same({ "x" }, channels.wait_data(third, "x"))
    end)

    it("holds also for a stream that left the channel after it, and came back before it", function()
      local app, _, own, other, stream = pair()
      local news = app:channel "news"
      local before = news:publish "before"
      channels.wait_data(own, "before")
      channels.run(app, function()
        news:publish("kept", { except = stream })
        stream:unsubscribe "news"
        stream:subscribe("news", { since = before })
        news:publish "x"
        news:publish("own", { except = stream })
        stream:unsubscribe "news"
        news:publish("own, too", { except = stream })
        stream:subscribe("news", { since = before })
        news:publish "end"
      end)
      assert.same({ "before", "kept", "x", "own", "own, too", "end" }, channels.wait_data(other, "end"))
      assert.same({ "before", "x", "end" }, channels.wait_data(own, "end"))
    end)

    it("is merged with the stream's other channels in order", function()
      local app, _, own, other, stream = pair { "news", "weather" }
      local news, weather = app:channel "news", app:channel "weather"
      for i = 1, 50 do
        news:publish("n" .. i, { except = i % 3 == 0 and stream or nil })
        weather:publish("w" .. i, { except = i % 2 == 0 and stream or nil })
      end
      news:publish "end"
      local all = channels.wait_data(other, "end")
      assert.equal(101, #all)
      local expected, at = {}, 0
      for i = 1, 50 do
        if i % 3 ~= 0 then expected[#expected + 1] = "n" .. i end
        if i % 2 ~= 0 then expected[#expected + 1] = "w" .. i end
      end
      expected[#expected + 1] = "end"
      assert.same(expected, channels.wait_data(own, "end"))
      for _, block in ipairs(blocks(own)) do -- an id for each of the frames, and rising
        local number = tonumber(block:match "^id: %x+%-(%d+)\n")
        assert.is_true(number == at + 1 or at == 0)
        at = number
      end
      assert.equal(101, at)
    end)

    it("holds for each of several streams, and through full sockets", function()
      local opened = {}
      local app, port = hub(nil, function(stream)
        opened[#opened + 1] = stream
        return stream:subscribe "news"
      end)
      local news = app:channel("news", { history = 1e6, history_bytes = 1e9 })
      local clients = {}
      for i = 1, 3 do
        clients[i] = join(port)
        clients[i]:pause()
      end
      for i = 1, 900 do news:publish(i .. (" "):rep(1000), { except = opened[i % 4] }) end
      news:publish "end"
      channels.round_trip(port)
      for c = 1, 3 do
        clients[c]:resume()
        local list, at = channels.wait_data(clients[c], "end"), 1
        for i = 1, 900 do
          if i % 4 ~= c then
            assert.equal(i, tonumber(list[at]))
            at = at + 1
          end
        end
        assert.equal(at, #list)
      end
    end)
  end)

  describe("{ id = false }", function()
    it("is for live readers only: a replay skips it", function()
      local app, port = hub(nil, function(stream) return stream:subscribe("news", { newcomer = "all" }) end)
      local news = app:channel "news"
      local live = join(port)
      news:publish "one"
      news:publish { id = false, data = "tick" }
      news:publish "two"
      assert.same({ "one", "tick", "two" }, channels.wait_data(live, "two"))
      local late = join(port)
      news:publish "end"
      assert.same({ "one", "two", "end" }, channels.wait_data(late, "end"))
    end)

    it("keeps its place among the frames with an id", function()
      local app, port = hub()
      local client = join(port)
      local news = app:channel "news"
      local expected = {}
      for i = 1, 200 do
        if i % 3 == 0 then news:publish { id = false, data = i } else news:publish(i) end
        expected[i] = tostring(i)
      end
      assert.same(expected, channels.wait_data(client, "200"))
    end)

    it("evicts nothing that has an id", function()
      local app, port = hub(nil, function(stream) return stream:subscribe("news", { newcomer = "all" }) end)
      local news = app:channel("news", { history = 3 })
      local live = join(port)
      channels.publish(news, 3)
      for i = 1, 100 do news:publish { id = false, data = "tick " .. i } end
      channels.wait_data(live, "tick 100")
      local late = join(port)
      news:publish "end"
      assert.same({ "1", "2", "3", "end" }, channels.wait_data(late, "end"))
    end)

    it("leaves no gap behind: a client resumes over any number of them", function()
      local app, port = hub()
      local news = app:channel("news", { history = 3 })
      local live = join(port)
      local id = news:publish "one"
      for i = 1, 1000 do news:publish { id = false, data = "tick " .. i } end
      channels.wait_data(live, "tick 1000")
      join(port, "/", id)
      assert.same({ "live", "resumed" }, app.results)
    end)

    it("keeps no channel", function()
      local app = hub()
      app:channel("news"):publish { id = false, data = "tick" }
      collectgarbage()
      collectgarbage()
      assert.equal(0, app:stats().channels)
    end)
  end)
end)
