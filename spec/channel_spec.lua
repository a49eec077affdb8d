--- A channel: how a name becomes one, its options, its fields, how it ends, and that nothing of it stays.

local net = require "spec.support.net"
local channels = require "spec.support.channels"
local eventstream = require "eventstream"

local data, hub, join, numbers, publish = channels.data, channels.hub, channels.join, channels.numbers, channels.publish

local HERE = "^spec/channel_spec%.lua:%d+: "

-- The message with which a function fails, which must name a line of this file.
local function message_of(fn)
  local ok, message = pcall(fn)
  assert.is_false(ok)
  assert.matches(HERE, message)
  return (message:gsub(HERE, ""))
end

-- How many frames a channel keeps of twenty: what a newcomer who wants all of them gets.
local function kept(app, port, name)
  publish(app:channel(name), 20)
  local client = join(port, "/all?to=" .. name:gsub("%%", "%%25"))
  app:channel(name):publish "end"
  local list = channels.wait_data(client, "end")
  client:close()
  return #list - 1
end

local function all_hub(options)
  local app, port = hub(options)
  app:stream("/all", function(stream, request) stream:subscribe(request.query.to, { newcomer = "all" }) end)
  return app, port
end

describe("app:channel", function()
  after_each(channels.finish)

  it("makes a channel, and finds it again", function()
    local app = hub()
    local news = app:channel "news"
    assert.equal(news, app:channel "news")
    assert.not_equal(news, app:channel "weather")
    assert.equal(2, app:stats().channels)
  end)

  it("finds the same channel when no one holds it but its history does", function()
    local app = hub()
    local id = app:channel("news"):publish "x"
    collectgarbage()
    collectgarbage()
    assert.equal(id, app:channel("news").id)
  end)

  it("takes any bytes as a name", function()
    local app = hub()
    local name = "a\0b\n\255 *"
    assert.equal(name, app:channel(name).name)
    assert.equal(app:channel(name), app:channel(name))
    assert.not_equal(app:channel "a", app:channel(name))
  end)

  it("keeps the channels of two apps apart", function()
    local one, other = hub(), hub()
    assert.not_equal(one:channel "news", other:channel "news")
    one:channel("news"):publish "x"
    assert.equal(0, other:stats().published)
  end)

  it("wants a name that is a string and not empty", function()
    local app = hub()
    local wanted = "channel: name must be a string that is not empty, not "
    assert.equal(wanted .. "''", message_of(function() app:channel "" end))
    assert.equal(wanted .. "nil", message_of(function() app:channel() end))
    assert.equal(wanted .. "12", message_of(function() app:channel(12) end))
    assert.equal(wanted .. "a table", message_of(function() app:channel {} end))
  end)

  it("must be called with a colon", function()
    local app = hub()
    assert.matches("call it with a colon: app:channel%(", message_of(function() app.channel "news" end))
  end)

  it("is an error on a closed app", function()
    local app = hub()
    app:close { grace = 0 }
    net.wait(function() return not pcall(app.channel, app, "news") end, "the end of the app")
    assert.matches("channel", (select(2, pcall(app.channel, app, "news"))))
  end)

  it("works on while the app closes: a handler that runs on gets nil, closed from publish", function()
    local app, port, results
    app, port = hub(nil, function(stream)
      stream:subscribe "news"
      stream:on_close(function() results = channels.pack(app:channel("news"):publish "bye") end)
    end)
    join(port)
    app:close { grace = 1 }
    net.wait(function() return results end, "the stream's end")
    assert.same({ n = 2, nil, "closed" }, results)
  end)

  describe("options", function()
    it("that are unknown are an error that suggests the known one", function()
      local app = hub()
      assert.equal("channel: unknown option 'histroy' (did you mean 'history'?)",
        message_of(function() app:channel("news", { histroy = 1 }) end))
      assert.matches("^channel: unknown option 'x' %(there are: ",
        message_of(function() app:channel("news", { x = 1 }) end))
      assert.equal(0, app:stats().channels)
    end)

    it("must be a table", function()
      local app = hub()
      assert.matches("^channel: options must be a table, not number",
        message_of(function() app:channel("news", 12) end))
    end)

    local WRONG = {
      history = { -1, 1.5, "10", false, 0 / 0, 1 / 0, {} },
      history_bytes = { -1, 1.5, "10", false },
      history_seconds = { 0, -1, "10", true, 0 / 0, 1 / 0 },
      slow = { "drop", 1, true, {} },
      flush = { "never", -1, false, 0 / 0, 1 / 0 },
    }
    for option, values in pairs(WRONG) do
      it(option .. " is refused by its name when it is wrong", function()
        local app = hub()
        for _, value in ipairs(values) do
          local message = message_of(function() app:channel("news", { [option] = value }) end)
          assert.equal(("channel: %s must be "):format(option), message:sub(1, #option + 18))
        end
      end)
    end

    local RIGHT = {
      history = { 0, 1, 1e6 }, history_bytes = { 0, 1, 1e9 }, history_seconds = { 0.001, 1, 1e6, false },
      slow = { "disconnect", "skip" }, flush = { "auto", 0, 0.5, 60 },
    }
    for option, values in pairs(RIGHT) do
      it(option .. " takes what it may be", function()
        local app = hub()
        for _, value in ipairs(values) do app:channel("news", { [option] = value }) end
      end)
    end

    it("given later hold from then on, also for what is kept already", function()
      local app, port = all_hub()
      assert.equal(20, kept(app, port, "news"))
      app:channel("news", { history = 5 })
      local client = join(port, "/all?to=news")
      app:channel("news"):publish "end"
      assert.same({ "17", "18", "19", "20", "end", "end" }, (function()
        net.wait(function() return #data(client) == 6 end, "six events")
        return data(client)
      end)())
    end)

    it("that are left out later stay as they were", function()
      local app, port = all_hub()
      app:channel("news", { history = 7 })
      app:channel("news", { slow = "skip" })
      app:channel "news"
      assert.equal(7, kept(app, port, "news"))
    end)

    it("are remembered for a name whose channel went away", function()
      local app, port = all_hub()
      app:channel("news", { history = 7 }):close()
      assert.equal(0, app:stats().channels)
      assert.equal(7, kept(app, port, "news"))
    end)

    it("do not change with a table that the script changes afterwards", function()
      local app, port = all_hub()
      local options = { history = 7 }
      app:channel("news", options):close()
      options.history = 3
      assert.equal(7, kept(app, port, "news"))
    end)
  end)

  describe("options in new", function()
    it("hold for a name", function()
      local app, port = all_hub { channels = { news = { history = 4 } } }
      assert.equal(4, kept(app, port, "news"))
      assert.equal(20, kept(app, port, "newspaper"))
    end)

    it("hold for a channel that a subscription makes", function()
      local app, port = all_hub { channels = { ["room:*"] = { history = 4 } } }
      local first = join(port, "/all?to=room:1")
      assert.equal(4, kept(app, port, "room:1"))
      first:close()
    end)

    it("hold for names that a pattern matches as a whole", function()
      local app, port = all_hub { channels = { ["room:*"] = { history = 4 }, ["*:end"] = { history = 6 } } }
      assert.equal(4, kept(app, port, "room:1"))
      assert.equal(4, kept(app, port, "room:"))
      assert.equal(20, kept(app, port, "a-room:1"))
      assert.equal(6, kept(app, port, "the:end"))
    end)

    it("hold as they were when they were given", function()
      local own = { history = 4 }
      local app, port = all_hub { channels = { ["room:*"] = own, news = own } }
      own.history = "many"
      assert.equal(4, kept(app, port, "room:1"))
      assert.equal(4, kept(app, port, "news"))
    end)

    it("of several stars hold for what the pieces between them fit, in order and side by side", function()
      local app, port = all_hub { channels = { ["a*ab*ba"] = { history = 4 } } }
      for _, name in ipairs { "aabba", "aab_ba", "a-ab-ab-ba" } do assert.equal(4, kept(app, port, name), name) end
      for _, name in ipairs { "abba", "aaba", "aabbab", "baabba", "a-ba-ab" } do
        assert.equal(20, kept(app, port, name), name)
      end
    end)

    it("are found at once for a long name, too, whatever it is made of", function()
      local app = hub { channels = { ["tenant:*:room:*:log:*:x"] = { history = 4 } } }
      assert(app:channel("tenant:" .. (":room:"):rep(30000) .. (":log:"):rep(30000)))
    end)

    it("take all but the star literally", function()
      local app, port = all_hub { channels = { ["a.b-%d[x]*(y)$"] = { history = 4 } } }
      assert.equal(4, kept(app, port, "a.b-%d[x]--(y)$"))
      assert.equal(20, kept(app, port, "aXb-1x(y)$"))
    end)

    it("give way: a script's own, then the exact name's, then the longest pattern's, then the defaults", function()
      local app, port = all_hub { channels = {
        ["*"] = { history = 3 },
        ["room:*"] = { history = 5 },
        ["room:1*"] = { history = 7 },
        ["room:12"] = { history = 9 },
      } }
      app:channel("room:12:own", { history = 11 })
      assert.equal(3, kept(app, port, "other"))
      assert.equal(5, kept(app, port, "room:2"))
      assert.equal(7, kept(app, port, "room:1"))
      assert.equal(9, kept(app, port, "room:12"))
      assert.equal(11, kept(app, port, "room:12:own"))
    end)

    it("and a script's own add up", function()
      local app, port = all_hub { channels = { news = { history = 4 } } }
      app:channel("news", { flush = 0 })
      assert.equal(4, kept(app, port, "news"))
    end)

    it("are checked, and named with their channel", function()
      local function new(all) return message_of(function() eventstream.new { channels = all } end) end
      assert.equal("new: channels['room:*'].history must be a whole number, 0 or more, not -1",
        new { ["room:*"] = { history = -1 } })
      assert.equal("new: unknown option 'historie' (did you mean 'history'?) in channels['news']",
        new { news = { historie = 1 } })
      assert.equal("new: channels['news'] must be a table, not 12", new { news = 12 })
      assert.equal("new: channels: name must be a string that is not empty, not ''", new { [""] = {} })
      assert.equal("new: channels must be a table of options by name, as { news = { history = 100 } }, not a list",
        new { "news" })
      assert.equal("new: channels['news'].history must be a whole number, 0 or more, at most 2^53, not 1e+300",
        new { news = { history = 1e300 } })
      assert.equal("new: channels must be a table, not 12", new(12))
    end)
  end)
end)

describe("channel", function()
  after_each(channels.finish)

  it("has its name", function()
    assert.equal("news", hub():channel("news").name)
  end)

  it("wants its methods called with a colon", function()
    local news = hub():channel "news"
    assert.equal("publish: call it with a colon: channel:publish(...)", message_of(function() news.publish "x" end))
    assert.equal("close: call it with a colon: channel:close(...)", message_of(function() news.close() end))
  end)

  it("is shown by its name, and closed when its app is", function()
    local app = hub()
    local news, weather = app:channel "news", app:channel "weather"
    assert.equal("channel news (0 subscribers)", tostring(news))
    news:close()
    assert.equal("channel news (closed)", tostring(news))
    assert.is_true(news.closed)
    assert.is_false(weather.closed)
    app:close()
    assert.is_true(weather.closed)
    assert.equal("channel weather (closed)", tostring(weather))
  end)

  it("has the id that stands for its newest frame", function()
    local app = hub()
    local news, weather = app:channel "news", app:channel "weather"
    local id = news:publish "x"
    weather:publish "y"
    assert.equal(id, news.id)
  end)

  it("has an id from which a stream goes on, before anything was published", function()
    local app, port = hub(nil, function(stream, request)
      return stream:subscribe("news", { since = request.query.id })
    end)
    local id = app:channel("news").id
    assert.matches("^" .. channels.ID .. "$", id)
    publish(app:channel "news", 3)
    local client = join(port, "/?id=" .. id)
    assert.same(numbers(3), channels.wait_data(client, "3"))
    assert.same({ "resumed" }, app.results)
  end)

  it("counts its subscribers", function()
    local app, port = hub()
    local news = app:channel "news"
    assert.equal(0, news.subscribers)
    local one = join(port)
    assert.equal(1, news.subscribers)
    join(port)
    assert.equal(2, news.subscribers)
    one:close()
    net.wait(function() return news.subscribers == 1 end, "the one that left")
  end)

  it("says whether it is closed", function()
    local news = hub():channel "news"
    assert.is_false(news.closed)
    news:close()
    assert.is_true(news.closed)
  end)

  it("shows its name and its subscribers as a string", function()
    assert.equal("channel news (0 subscribers)", tostring(hub():channel "news"))
  end)

  it("has no other fields, and takes none", function()
    local news = hub():channel "news"
    assert.is_nil(news.nothing)
    assert.is_nil(news[1])
    assert.is_false((pcall(function() news.x = 1 end)))
  end)

  it("says what its methods are called on when that is no channel", function()
    local news = hub():channel "news"
    for _, method in ipairs { "publish", "close", "streams" } do
      assert.matches("eventstream.channel expected, got string", (select(2, pcall(news[method], "news", "x"))), 1, true)
    end
  end)

  describe(":streams", function()
    it("are those that are subscribed", function()
      local opened = {}
      local app, port = hub(nil, function(stream, request)
        opened[#opened + 1] = stream
        return stream:subscribe(request.query.to)
      end)
      local news = app:channel "news"
      assert.same({}, news:streams())
      join(port, "/?to=news")
      join(port, "/?to=weather")
      local last = join(port, "/?to=news")
      local list = news:streams()
      assert.equal(2, #list)
      assert.is_true(list[1] == opened[1] and list[2] == opened[3] or list[1] == opened[3] and list[2] == opened[1])
      last:close()
      net.wait(function() return #news:streams() == 1 end, "the one that left")
      assert.equal(opened[1], news:streams()[1])
    end)

    it("are none of a closed channel's", function()
      local app, port = hub()
      local news = app:channel "news"
      join(port)
      news:close()
      assert.same({}, news:streams())
    end)
  end)

  describe(":close", function()
    it("delivers what was published before it, and ends the streams that nothing else feeds", function()
      local app, port = hub()
      local news = app:channel "news"
      local client = join(port)
      publish(news, 3)
      news:close()
      client:wait_end()
      assert.same(numbers(3), data(client))
      assert.is_true((select(2, channels.body(client))))
    end)

    it("leaves the streams that something else feeds", function()
      local app, port = hub()
      local client = join(port, "/?to=news,weather")
      app:channel("news"):publish "last"
      app:channel("news"):close()
      app:channel("weather"):publish "sun"
      assert.same({ "last", "sun" }, channels.wait_data(client, "sun"))
      assert.is_false(client.ended)
    end)

    it("delivers to a client whose socket is full", function()
      local app, port = hub()
      local news = app:channel("news", { history = 1e6, history_bytes = 1e9 })
      local client = join(port)
      client:pause()
      for i = 1, 1000 do news:publish(i .. (" "):rep(2000)) end
      news:close()
      channels.round_trip(port)
      client:resume()
      client:wait_end()
      assert.equal(1000, #data(client))
      assert.is_true((select(2, channels.body(client))))
    end)

    it("ends replays that have not begun behind their frames", function()
      local news
      local app, port = hub(nil, function(stream)
        stream:subscribe("news", { newcomer = "all" })
        news:close()
      end)
      news = app:channel "news"
      publish(news, 3)
      local client = net.connect(port):get "/"
      client:wait_end()
      assert.same(numbers(3), data(client))
    end)

    it("tells on_unsubscribe of every stream", function()
      local app, port = hub()
      local gone = {}
      app:on_unsubscribe(function(channel, stream) gone[#gone + 1] = { channel, stream } end)
      local news = app:channel "news"
      join(port)
      join(port)
      local list = news:streams()
      news:close()
      assert.equal(0, #gone)
      net.wait(function() return #gone == 2 end, "both")
      assert.equal(news, gone[1][1])
      assert.is_true(gone[1][2] == list[1] or gone[1][2] == list[2])
      assert.not_equal(gone[1][2], gone[2][2])
    end)

    it("makes publish answer nil, closed", function()
      local app = hub()
      local news = app:channel "news"
      news:close()
      assert.same({ n = 2, nil, "closed" }, channels.pack(news:publish "x"))
      assert.equal(0, app:stats().published)
    end)

    it("makes subscribe with the old channel answer nil, closed", function()
      local news, results
      local app, port = hub(nil, function(stream)
        results = channels.pack(stream:subscribe(news))
        stream:send "end"
      end)
      news = app:channel "news"
      news:close()
      net.connect(port):get("/"):wait "data: end"
      assert.same({ n = 2, nil, "closed" }, results)
    end)

    it("has no effect a second time", function()
      local app, port = hub()
      local news = app:channel "news"
      join(port)
      news:close()
      news:close()
      assert.equal(0, app:stats().channels)
      assert.equal(0, app:stats().subscribers)
    end)

    it("frees the name for a new channel", function()
      local app, port = hub()
      local old = app:channel "news"
      old:publish "old"
      old:close()
      local new = app:channel "news"
      assert.not_equal(old, new)
      assert.is_false(new.closed)
      local client = join(port)
      new:publish "new"
      assert.same({ "new" }, channels.wait_data(client, "new"))
      old:close()
      assert.is_false(new.closed)
    end)

    it("keeps the fields of the old one", function()
      local app = hub()
      local news = app:channel "news"
      local id = news:publish "x"
      news:close()
      assert.equal("news", news.name)
      assert.equal(id, news.id)
      assert.equal(0, news.subscribers)
      assert.matches("^channel news", tostring(news))
    end)

    it("drops the history: a new channel counts older ids as a gap", function()
      local app, port = hub()
      local id = publish(app:channel "news", 3)[1]
      app:channel("news"):close()
      local client = join(port, "/", id)
      assert.same({ "gap" }, app.results)
      app:channel("news"):publish "new"
      assert.same({ "gap:news", "new" }, channels.wait_data(client, "new"))
    end)
  end)

  it("that is held works on when its app is closed: publish answers nil, closed", function()
    local app = hub()
    local news = app:channel "news"
    app:close { grace = 0 }
    assert.same({ n = 2, nil, "closed" }, channels.pack(news:publish "x"))
    net.settle()
    assert.same({ n = 2, nil, "closed" }, channels.pack(news:publish "x"))
    assert.equal("news", news.name)
    assert.is_true(news.closed)
    assert.same({}, news:streams())
    news:close()
  end)
end)

describe("app:streams", function()
  after_each(channels.finish)

  it("are all open streams, so that a user can be logged out", function()
    local app, port = hub(nil, function(stream, request)
      stream.data = { user = request.query.user }
      return stream:subscribe "news"
    end)
    app:get("/plain", function() return tostring(#app:streams()) end)
    assert.same({}, app:streams())
    local ann, bob, ann_too = join(port, "/?user=ann"), join(port, "/?user=bob"), join(port, "/?user=ann")
    assert.equal(3, #app:streams())
    for _, stream in ipairs(app:streams()) do
      if stream.data.user == "ann" then stream:close() end
    end
    assert.equal(1, #app:streams())
    ann:wait_end()
    ann_too:wait_end()
    local plain = net.connect(port):get "/plain"
    assert.equal("1", (select(3, plain:take())))
    app:channel("news"):publish "for bob"
    assert.same({ "for bob" }, channels.wait_data(bob, "for bob"))
    assert.same({}, data(ann))
  end)
end)
