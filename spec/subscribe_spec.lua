--- How a stream subscribes and unsubscribes, how long subscriptions feed it, and who is told.

local net = require "spec.support.net"
local channels = require "spec.support.channels"
local eventstream = require "eventstream"

local blocks, hub, join, numbers, publish = channels.blocks, channels.hub, channels.join, channels.numbers,
  channels.publish

local HERE = "^spec/subscribe_spec%.lua:%d+: "
local CLOSED = { n = 2, nil, "closed" }

-- The message with which a function of a stream fails.
local function message_of(fn, options)
  local message
  local _, port = hub(options, function(stream)
    local ok, failure = pcall(fn, stream)
    message = ok and "" or failure
    stream:send "end"
  end)
  net.connect(port):get("/?last_event_id=1"):wait "data: end"
  assert.matches(HERE, message)
  return (message:gsub(HERE, ""))
end

-- One open stream, and its client.
local function open(subscribe, options)
  local opened
  local app, port = hub(options, function(stream)
    opened = stream
    stream:hold()
    return subscribe and subscribe(stream)
  end)
  local client = net.connect(port):get "/"
  client:wait "retry: %d+\n\n"
  return opened, client, app, port
end

describe("stream:subscribe", function()
  after_each(channels.finish)

  describe("takes", function()
    it("a name", function()
      local app, port = hub(nil, function(stream) return stream:subscribe "news" end)
      local client = join(port)
      app:channel("news"):publish "x"
      assert.same({ "x" }, channels.wait_data(client, "x"))
    end)

    it("a channel", function()
      local news
      local app, port = hub(nil, function(stream) return stream:subscribe(news) end)
      news = app:channel "news"
      local client = join(port)
      news:publish "x"
      assert.same({ "x" }, channels.wait_data(client, "x"))
    end)

    it("a list of these", function()
      local app, port = hub(nil, function(stream, request)
        return stream:subscribe { "news", request.query.to, stream.data }
      end)
      local client = join(port, "/?to=weather")
      app:channel("news"):publish "n"
      app:channel("weather"):publish "w"
      assert.same({ "n", "w" }, channels.wait_data(client, "w"))
    end)

    it("a list of hundreds", function()
      local app, port = hub(nil, function(stream)
        local list = {}
        for i = 1, 300 do list[i] = i % 2 == 0 and "c" .. i or stream.data or "c" .. i end
        return stream:subscribe(list)
      end)
      local client = join(port)
      assert.equal(300, app:stats().subscribers)
      for i = 300, 1, -1 do app:channel("c" .. i):publish(i) end
      local expected = {}
      for i = 1, 300 do expected[i] = tostring(301 - i) end
      assert.same(expected, channels.wait_data(client, "1"))
    end)
  end)

  describe("refuses", function()
    local function subscribe(...)
      local arguments = channels.pack(...)
      return message_of(function(stream) stream:subscribe(channels.unpack(arguments, 1, arguments.n)) end)
    end

    it("what is no channel", function()
      local wanted = "subscribe: channel must be a channel, a name or a list of these, not "
      assert.equal(wanted .. "nil", subscribe())
      assert.equal(wanted .. "12", subscribe(12))
      assert.equal(wanted .. "true", subscribe { true })
      assert.matches("^subscribe: name must be a string that is not empty, not ''", subscribe "")
      assert.matches("^subscribe: .*empty", subscribe {})
      assert.equal("subscribe: channels must be a list, as { \"news\", \"weather\" }, not a table with the key 'news'",
        subscribe { news = true })
      assert.matches("^subscribe: channels must be a list, .*the key 'since'; options come behind it$",
        subscribe { "news", since = "x" })
    end)

    it("to be called with a dot", function()
      for _, name in ipairs { "subscribe", "unsubscribe", "header", "reject" } do
        local message = ("%s: call it with a colon: stream:%s(...)"):format(name, name)
        assert.equal(message, message_of(function(stream) stream[name] "news" end))
        assert.equal(message, message_of(function(stream) stream[name](io.stdout) end))
      end
    end)

    it("a stream as a channel", function()
      local wanted = "subscribe: channel must be a channel, a name or a list of these, not a userdata"
      assert.equal(wanted, message_of(function(stream) stream:subscribe(stream) end))
      assert.equal(wanted, message_of(function(stream) stream:subscribe { "news", stream } end))
    end)

    it("a channel of another app", function()
      local foreign = hub():channel "news"
      assert.equal("subscribe: the channel belongs to another app", subscribe(foreign))
      assert.equal("subscribe: the channel belongs to another app", subscribe { "news", foreign })
    end)

    it("an unknown option", function()
      assert.equal("subscribe: unknown option 'sinse' (did you mean 'since'?)", subscribe("news", { sinse = "x" }))
    end)

    it("options that are no table", function()
      assert.matches("^subscribe: options must be a table, not string", subscribe("news", "live"))
    end)

    local WRONG = {
      since = { true, {}, 0 / 0, 1 / 0 }, newcomer = { -1, 1.5, "some", true }, on_gap = { "gone", true, 1 },
    }
    for option, values in pairs(WRONG) do
      it("a wrong " .. option .. " by its name", function()
        for _, value in ipairs(values) do
          local message = subscribe("news", { [option] = value })
          assert.equal(("subscribe: %s must be "):format(option), message:sub(1, #option + 20))
        end
      end)
    end

    it("and undoes what had begun where memory ends in the middle of a list", function()
      local class = require("eventstream.core").stream
      local real, calls, result, message = class._subscribe, 0, nil, nil
      finally(function() class._subscribe = real end)
      class._subscribe = function(...)
        calls = calls + 1
        if calls == 2 then error("subscribe: out of memory", 0) end
        return real(...)
      end
      local told = 0
      local app, port
      app, port = hub(nil, function(stream)
        local newest = app:channel("a"):publish "old"
        app:channel("a"):publish "a1"
        result, message = pcall(stream.subscribe, stream, { "a", "b" }, { since = newest })
        assert.equal(0, app:stats().subscribers)
        stream:subscribe { "a", "b" } -- still the first: from what the client has
        stream:hold()
      end)
      app:on_subscribe(function() told = told + 1 end)
      local id = app:channel("a"):publish "had"
      local client = channels.join(port, "/", id)
      app:channel("a"):publish "end"
      assert.same({ "old", "a1", "end" }, channels.wait_data(client, "end"))
      assert.is_false(result)
      assert.matches("subscribe: out of memory$", message)
      assert.equal(2, told)
    end)

    it("goes on from what the client has where the first group came to nothing", function()
      local result
      local app, port = hub(nil, function(stream)
        stream:subscribe "a"
        stream:unsubscribe "a"
        stream:sleep(0.001)
        result = stream:subscribe "b"
        stream:hold()
      end)
      local id = app:channel("b"):publish "had"
      app:channel("b"):publish "missed"
      local client = channels.join(port, "/", id)
      app:channel("b"):publish "end"
      assert.same({ "missed", "end" }, channels.wait_data(client, "end"))
      assert.equal("resumed", result)
    end)

    it("and then subscribes to nothing", function()
      local foreign, gone, closed = hub():channel "news", nil, nil
      local app, port = hub(nil, function(stream)
        pcall(stream.subscribe, stream, { "news", 12 })
        pcall(stream.subscribe, stream, { "news", foreign })
        closed = { stream:subscribe { "news", gone } }
        pcall(stream.subscribe, stream, "news", { x = 1 })
        stream:send "end"
        stream:hold()
      end)
      gone = app:channel "gone"
      gone:close()
      net.connect(port):get("/"):wait "data: end"
      assert.same({ nil, "closed" }, closed)
      assert.equal(0, app:stats().subscribers)
    end)
  end)

  it("returns live for a client without an id", function()
    local app, port = hub()
    publish(app:channel "news", 3)
    join(port)
    assert.same({ "live" }, app.results)
  end)

  it("returns the worst of a list", function()
    local app, port = hub()
    local id = publish(app:channel("news", { history = 2 }), 5)[1]
    join(port, "/?to=weather,news", id)
    join(port, "/?to=weather", id)
    join(port, "/?to=weather,news")
    assert.same({ "gap", "resumed", "live" }, app.results)
  end)

  describe("twice", function()
    it("has no effect", function()
      local told = 0
      local stream, client, app = open(function(stream) return stream:subscribe "news" end)
      app:on_subscribe(function() told = told + 1 end)
      assert.equal("live", stream:subscribe "news")
      assert.equal("live", stream:subscribe { "news", app:channel "news" })
      app:channel("news"):publish "x"
      app:channel("news"):publish "y"
      assert.same({ "x", "y" }, channels.wait_data(client, "y"))
      assert.equal(1, app:stats().subscribers)
      assert.equal(0, told)
      assert.equal(3, #blocks(client))
    end)

    it("has no effect with a since either", function()
      local stream, client, app
      local ids
      stream, client, app = open(function(s) return s:subscribe "news" end)
      ids = publish(app:channel "news", 3)
      channels.wait_data(client, "3")
      stream:subscribe("news", { since = ids[1] })
      app:channel("news"):publish "end"
      assert.same({ "1", "2", "3", "end" }, channels.wait_data(client, "end"))
    end)
  end)

  describe("on a stream that is over", function()
    it("answers nil, closed", function()
      local stream, client = open()
      client:close()
      net.wait(function() return stream.closed end, "the end")
      assert.same(CLOSED, channels.pack(stream:subscribe "news"))
    end)

    it("makes no channel", function()
      local stream, client, app = open()
      client:close()
      net.wait(function() return stream.closed end, "the end")
      stream:subscribe "news"
      collectgarbage()
      collectgarbage()
      assert.equal(0, app:stats().channels)
    end)

    it("still checks its options", function()
      local stream, client = open()
      client:close()
      net.wait(function() return stream.closed end, "the end")
      assert.is_false((pcall(stream.subscribe, stream, "news", { x = 1 })))
    end)

    it("answers nil, closed after close, before the client has gone", function()
      local results
      local _, port = hub(nil, function(stream)
        stream:close()
        results = channels.pack(stream:subscribe "news")
      end)
      net.connect(port):get("/"):wait_end()
      assert.same(CLOSED, results)
    end)

    it("answers nil, closed while the app closes", function()
      local stream, client, app = open()
      app:close { grace = 5 }
      assert.same(CLOSED, channels.pack(stream:subscribe "news"))
      client:wait_end()
    end)
  end)

  describe("works", function()
    it("in stream:after and stream:every", function()
      local _, client, app = open(function(stream)
        stream:after(0, function(s) s:subscribe "news" end)
        stream:every(0.001, function(s) s:subscribe "weather" end)
      end)
      channels.wait_stat(app, "subscribers", 2)
      app:channel("news"):publish "n"
      app:channel("weather"):publish "w"
      assert.same({ "n", "w" }, channels.wait_data(client, "w"))
    end)

    it("in app:after", function()
      local stream, client, app = open()
      channels.run(app, function() stream:subscribe "news" end)
      app:channel("news"):publish "n"
      assert.same({ "n" }, channels.wait_data(client, "n"))
    end)

    it("outside of callbacks", function()
      local stream, client, app = open()
      stream:subscribe "news"
      app:channel("news"):publish "n"
      assert.same({ "n" }, channels.wait_data(client, "n"))
    end)

    it("before and after a handler waits", function()
      local app, port = hub(nil, function(stream)
        stream:subscribe "news"
        stream:sleep(0.001)
        stream:subscribe "weather"
        stream:send "both"
      end)
      local client = join(port)
      client:wait "data: both"
      app:channel("weather"):publish "w"
      app:channel("news"):publish "n"
      assert.same({ "both", "w", "n" }, channels.wait_data(client, "n"))
    end)

    it("for a POST", function()
      local app, port = channels.serve(function(app)
        app:stream("/", { methods = { "POST" } }, function(stream, request) stream:subscribe(request.body) end)
      end)
      local client = net.connect(port):request("POST", "/", {}, "news")
      client:wait "\nid: "
      app:channel("news"):publish "x"
      assert.same({ "x" }, channels.wait_data(client, "x"))
    end)
  end)

  it("sends the head, a first byte and the id from which to go on at once", function()
    local _, port = hub(nil, function(stream)
      stream:subscribe "news"
      eventstream.await(function() end)
    end)
    local client = net.connect(port):get "/"
    client:wait("^HTTP/1%.1 200 OK\r\n.-\r\n\r\n%x+\r\nretry: %d+\n\n\r\n%x+\r\nid: " .. channels.ID .. "\n\n\r\n$")
  end)

  it("sends ids after which nothing is lost, even for a client that is cut before its first event", function()
    local app, port = hub()
    local client = join(port)
    local id = channels.last_id(client)
    client:close()
    publish(app:channel "news", 3)
    assert.same(numbers(3), channels.wait_data(join(port, "/", id), "3"))
    assert.equal("resumed", app.results[2])
  end)

  it("makes send with an id an error, until it is over", function()
    local stream, client = open(function(stream) stream:subscribe "news" end)
    local ok, message = pcall(function() stream:send { id = "x", data = "x" } end)
    assert.is_false(ok)
    assert.matches(HERE .. "send: an id on a stream that has subscriptions", message)
    assert.is_true(stream:send { data = "without" })
    stream:unsubscribe "news"
    assert.is_true(stream:send { id = "x", data = "with" })
    assert.same({ "without", "with" }, channels.wait_data(client, "with"))
  end)
end)

describe("a subscription", function()
  after_each(channels.finish)

  it("keeps its stream open behind the handler's return", function()
    local app, port = hub()
    local client = join(port)
    channels.round_trip(port)
    assert.is_false(client.ended)
    assert.equal(1, app:stats().streams)
  end)

  it("keeps it open until the last one ends", function()
    local app, port = hub()
    local client = join(port, "/?to=a,b")
    local stream = app:streams()[1]
    stream:unsubscribe "a"
    channels.round_trip(port)
    assert.is_false(client.ended)
    app:channel("b"):close()
    client:wait_end()
    assert.is_true((select(2, channels.body(client))))
    assert.is_true(stream.closed)
  end)

  it("that is unsubscribed while the handler runs does not end the stream", function()
    local _, port = hub(nil, function(stream)
      stream:subscribe "news"
      stream:unsubscribe "news"
      stream:sleep(0.001)
      stream:send "still here"
    end)
    local client = net.connect(port):get "/"
    client:wait_end()
    assert.same({ "still here" }, channels.data(client))
  end)

  it("that is moved to another channel in a callback does not end the stream", function()
    local app, port = hub()
    local client = join(port, "/?to=a")
    local stream = app:streams()[1]
    channels.run(app, function()
      stream:unsubscribe "a"
      stream:subscribe "b"
    end)
    app:channel("b"):publish "x"
    assert.same({ "x" }, channels.wait_data(client, "x"))
  end)

  it("needs no Lua reference to its stream or channel", function()
    local app, port = hub()
    local client = join(port)
    collectgarbage()
    collectgarbage()
    app:channel("news"):publish "x"
    assert.same({ "x" }, channels.wait_data(client, "x"))
  end)

  it("ends with its client", function()
    local app, port = hub()
    join(port):reset()
    channels.wait_stat(app, "subscribers", 0)
  end)

  it("ends with its app", function()
    local app, port = hub()
    local client, gone = join(port), nil
    app:on_unsubscribe(function(channel) gone = channel.name end)
    app:channel("news"):publish "last"
    app:close { grace = 5 }
    client:wait_end()
    assert.equal("last", channels.data(client)[1])
    assert.equal("news", gone)
  end)
end)

describe("stream:unsubscribe", function()
  after_each(channels.finish)

  it("stops what is written from then on", function()
    local app, port = hub()
    local client = join(port, "/?to=news,weather")
    local stream, news, weather = app:streams()[1], app:channel "news", app:channel "weather"
    news:publish "before"
    client:wait "data: before"
    assert.is_true(stream:unsubscribe "news")
    news:publish "after"
    weather:publish "end"
    assert.same({ "before", "end" }, channels.wait_data(client, "end"))
    assert.equal(1, app:stats().subscribers)
    assert.equal(0, news.subscribers)
  end)

  it("takes a channel, a name or a list, and says whether there was any", function()
    local stream, _, app = open(function(stream) stream:subscribe { "a", "b", "c" } end)
    assert.is_true(stream:unsubscribe(app:channel "a"))
    assert.is_false(stream:unsubscribe "a")
    assert.is_true(stream:unsubscribe { "a", "b" })
    assert.is_false(stream:unsubscribe "never")
    assert.equal(1, app:stats().subscribers)
  end)

  it("refuses what is no channel", function()
    assert.matches("^unsubscribe: channel must be", message_of(function(stream) stream:unsubscribe() end))
    assert.matches("^unsubscribe: .*empty", message_of(function(stream) stream:unsubscribe {} end))
  end)

  it("leaves no channel of a name that has none", function()
    local stream, _, app = open()
    stream:unsubscribe "never"
    collectgarbage()
    collectgarbage()
    assert.equal(0, app:stats().channels)
  end)

  it("answers false when the stream is over", function()
    local stream, client = open(function(stream) stream:subscribe "news" end)
    client:close()
    net.wait(function() return stream.closed end)
    assert.is_false(stream:unsubscribe "news")
  end)

  it("in the same callback as the subscribe leaves nothing of it", function()
    local told = {}
    local app, port = hub(nil, function(stream)
      stream:subscribe("news", { newcomer = "all" })
      stream:unsubscribe "news"
      stream:send "end"
    end)
    app:on_unsubscribe(function(channel) told[#told + 1] = channel.name end)
    publish(app:channel "news", 3)
    local client = net.connect(port):get "/"
    client:wait_end()
    assert.same({ "data: end\n" }, blocks(client))
    assert.same({ "news" }, told)
  end)

  it("lets the client subscribe again, live", function()
    local stream, client, app = open(function(stream) stream:subscribe "news" end)
    local news = app:channel "news"
    news:publish "one"
    client:wait "data: one"
    stream:unsubscribe "news"
    news:publish "two"
    assert.equal("live", stream:subscribe "news")
    news:publish "three"
    assert.same({ "one", "three" }, channels.wait_data(client, "three"))
  end)

  it("of a replay under way stops it behind a whole event", function()
    local app, port = hub(nil, function(stream) stream:subscribe("news", { newcomer = "all" }) end)
    local news = app:channel("news", { history = 1e5, history_bytes = 1e9 })
    for i = 1, 2000 do news:publish(i .. (" "):rep(5000)) end
    local client = join(port)
    client:pause()
    channels.round_trip(port)
    local stream = app:streams()[1]
    stream:hold()
    stream:unsubscribe(news)
    stream:send "end"
    client:resume()
    local list = channels.wait_data(client, "end")
    assert.is_true(#list > 1 and #list < 2000)
    for i = 1, #list - 1 do assert.equal(i .. (" "):rep(5000), list[i]) end
    assert.equal("end", list[#list])
  end)
end)
