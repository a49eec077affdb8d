--- on_subscribe and on_unsubscribe: when they are called, with what, and what may be done in them.

local net = require "spec.support.net"
local channels = require "spec.support.channels"
local eventstream = require "eventstream"

local hub, join = channels.hub, channels.join

-- Appends the joined arguments to a list, and the list.
local function logger()
  local list = {}
  return function(...) list[#list + 1] = table.concat({ ... }, " ") end, list
end

local function wait_count(list, count)
  net.wait(function() return #list >= count end, function()
    return ("%d entries; so far: %s"):format(count, table.concat(list, ", "))
  end)
end

describe("app:on_subscribe", function()
  after_each(channels.finish)

  it("is called with the channel and the stream, within subscribe", function()
    local log, list = logger()
    local app, port = hub(nil, function(stream)
      log "before"
      stream.data = "its own"
      stream:subscribe "news"
      log "after"
    end)
    app:on_subscribe(function(channel, stream)
      log(channel.name, stream.data, tostring(channel == app:channel "news"), channel.subscribers)
    end)
    join(port)
    assert.same({ "before", "news its own true 1", "after" }, list)
  end)

  it("is called once for each channel of a list, in order", function()
    local log, list = logger()
    local app, port = hub()
    app:on_subscribe(function(channel) log(channel.name) end)
    join(port, "/?to=c,a,b,a")
    assert.same({ "c", "a", "b" }, list)
  end)

  -- Lua 5.1 cannot wait below a pcall, which guards the functions
  for what, hook in pairs(_VERSION == "Lua 5.1" and not rawget(_G, "jit") and {} or {
    ["may send more than there is room for"] = function(stream)
      for _ = 1, 3 do stream:send(("g"):rep(60000)) end
    end,
    ["may wait in the stream's handler"] = function(stream)
      for _ = 1, 3 do stream:sleep(0) end
    end,
  }) do
    it(what .. ", and a list that resumes loses nothing by it", function()
      local app, port = hub()
      local id = app:channel("a"):publish "a1"
      app:channel("b"):publish "b1"
      app:channel("a"):publish "a2"
      app:on_subscribe(function(_, stream) hook(stream) end)
      local client = net.connect(port):get("/?to=a,b", { "Last-Event-ID: " .. id })
      client:wait "data: a2\n\n"
      app:channel("a"):publish "a3"
      local got = {}
      for _, data in ipairs(channels.wait_data(client, "a3")) do
        if #data < 10 then got[#got + 1] = data end
      end
      assert.same({ "b1", "a2", "a3" }, got)
    end)
  end

  it("is not told of one that was over before its turn, and on_unsubscribe neither", function()
    local log, list = logger()
    local app, port = hub(nil, function(stream)
      stream:subscribe { "a", "b" }
      stream:hold()
    end)
    app:on_subscribe(function(channel, stream)
      log("come", channel.name)
      stream:unsubscribe "b"
    end)
    app:on_unsubscribe(function(channel) log("gone", channel.name) end)
    join(port):close()
    wait_count(list, 2)
    channels.wait_stat(app, "streams", 0)
    assert.same({ "come a", "gone a" }, list)
  end)

  it("may publish, and the newcomer sees it", function()
    local app, port = hub()
    app:on_subscribe(function(channel) channel:publish "someone has come" end)
    local one = join(port)
    assert.same({ "someone has come" }, channels.wait_data(one, "someone has come"))
    local other = join(port)
    assert.same({ "someone has come" }, channels.wait_data(other, "someone has come"))
    net.wait(function() return #channels.data(one) == 2 end, "the second")
  end)

  it("may publish to all but the newcomer", function()
    local app, port = hub()
    app:on_subscribe(function(channel, stream) channel:publish("hello", { except = stream }) end)
    local one = join(port)
    local other = join(port)
    assert.same({ "hello" }, channels.wait_data(one, "hello"))
    app:channel("news"):publish "end"
    assert.same({ "end" }, channels.wait_data(other, "end"))
  end)

  it("may send, unsubscribe, subscribe and close", function()
    local app, port = hub()
    app:on_subscribe(function(channel, stream)
      if channel.name == "sends" then
        stream:send "welcome"
      elseif channel.name == "leaves" then
        stream:unsubscribe(channel)
      elseif channel.name == "more" then
        stream:subscribe "others"
      elseif channel.name == "closes" then
        stream:close()
      elseif channel.name == "ends" then
        channel:close()
      end
    end)
    local client = net.connect(port):get "/?to=sends,leaves,more"
    client:wait "data: welcome"
    client:wait "\nid: "
    assert.equal(3, app:stats().subscribers)
    app:channel("leaves"):publish "not seen"
    app:channel("others"):publish "seen"
    assert.same({ "welcome", "seen" }, channels.wait_data(client, "seen"))
    net.connect(port):get("/?to=closes,sends"):wait_end()
    net.connect(port):get("/?to=ends"):wait_end()
    assert.equal(3, app:stats().subscribers)
  end)

  it("is not called where subscribe fails", function()
    local log, list = logger()
    local app, port = hub(nil, function(stream)
      stream:close()
      stream:subscribe "news"
    end)
    app:on_subscribe(log)
    net.connect(port):get("/"):wait_end()
    assert.same({}, list)
  end)

  it("may be registered several times; all are called in order", function()
    local log, list = logger()
    local app, port = hub()
    assert.equal(app, app:on_subscribe(function() log "first" end))
    app:on_subscribe(function() log "second" end)
    join(port)
    assert.same({ "first", "second" }, list)
  end)

  it("that fails is reported, and does no harm", function()
    local log, list = logger()
    local app, port = hub()
    app:on_subscribe(function() error "first hook" end)
    app:on_subscribe(function() log "second" end)
    local client = join(port)
    local failure = channels.errors(app)
    assert.matches("first hook", failure.message, 1, true)
    assert.matches("hook_spec.lua", failure.traceback, 1, true)
    assert.equal(app:streams()[1], failure.stream)
    assert.same({ "second" }, list)
    app:channel("news"):publish "x"
    assert.same({ "x" }, channels.wait_data(client, "x"))
  end)

  it("wants a function", function()
    local app = hub()
    for _, name in ipairs { "on_subscribe", "on_unsubscribe" } do
      local ok, message = pcall(function() app[name](app, "x") end)
      assert.is_false(ok)
      assert.matches(("^spec/hook_spec.lua:%%d+: %s: function expected, got string$"):format(name), message)
    end
  end)
end)

describe("app:on_unsubscribe", function()
  after_each(channels.finish)

  it("is called with the channel and the stream when the running callback has returned", function()
    local log, list = logger()
    local app, port = hub(nil, function(stream)
      stream.data = "its own"
      stream:subscribe "news"
      stream:hold()
    end)
    app:on_unsubscribe(function(channel, stream) log(channel.name, stream.data, channel.subscribers) end)
    join(port)
    local stream = app:streams()[1]
    channels.run(app, function()
      stream:unsubscribe "news"
      log "returns"
    end)
    wait_count(list, 2)
    assert.same({ "returns", "news its own 0" }, list)
  end)

  it("is called behind the stream's other ends: handler, on_close in order, then it", function()
    local log, list = logger()
    local app, port = hub(nil, function(stream)
      stream.data = "its own"
      stream:subscribe { "a", "b" }
      stream:on_close(function(reason) log("on_close 1", reason) end)
      stream:on_close(function() log "on_close 2" end)
      log("handler", tostring(select(2, eventstream.await(function() end))))
    end)
    app:on_unsubscribe(function(channel, stream) log("on_unsubscribe", channel.name, stream.data) end)
    join(port):close()
    wait_count(list, 5)
    assert.same({ "handler closed", "on_close 1 client", "on_close 2", "on_unsubscribe a its own",
      "on_unsubscribe b its own" }, list)
  end)

  it("is called once for each subscription, however it ends", function()
    local log, list = logger()
    local app, port = hub()
    app:on_unsubscribe(function(channel) log(channel.name) end)
    local client = join(port, "/?to=a,b,c")
    local stream = app:streams()[1]
    channels.run(app, function()
      stream:unsubscribe "a"
      app:channel("b"):close()
      stream:close()
      stream:close()
    end)
    client:wait_end()
    wait_count(list, 3)
    net.settle()
    table.sort(list)
    assert.same({ "a", "b", "c" }, list)
  end)

  it("is called when nothing was subscribed to any more as the stream ended: not at all", function()
    local log, list = logger()
    local app, port = hub()
    app:on_unsubscribe(function(channel) log(channel.name) end)
    local client = join(port, "/?to=a")
    app:streams()[1]:unsubscribe "a"
    client:wait_end()
    wait_count(list, 1)
    net.settle()
    assert.same({ "a" }, list)
  end)

  it("may publish: those that stay are told who has left", function()
    local app, port = hub(nil, function(stream, request)
      stream.data = request.query.user
      stream:subscribe "news"
    end)
    app:on_unsubscribe(function(channel, stream) channel:publish(stream.data .. " has left") end)
    local ann, bob = join(port, "/?user=ann"), join(port, "/?user=bob")
    ann:close()
    assert.same({ "ann has left" }, channels.wait_data(bob, "ann has left"))
  end)

  it("may subscribe the stream again", function()
    local app, port = hub()
    app:on_unsubscribe(function(_, stream) stream:subscribe "others" end)
    local client = join(port)
    app:streams()[1]:unsubscribe "news"
    net.wait(function() return app:channel("others").subscribers == 1 end, "the new subscription")
    app:channel("others"):publish "x"
    assert.same({ "x" }, channels.wait_data(client, "x"))
  end)

  it("that fails is reported, and does no harm", function()
    local log, list = logger()
    local app, port = hub()
    app:on_unsubscribe(function() error "first hook" end)
    app:on_unsubscribe(function() log "second" end)
    join(port, "/?to=a,b"):close()
    net.wait(function() return #app.errors == 2 end, "both errors")
    for i = 1, 2 do
      assert.matches("first hook", app.errors[i].message, 1, true)
      app.errors[i] = nil
    end
    assert.same({ "second", "second" }, list)
  end)
end)

describe("hooks while frames are handed out", function()
  after_each(channels.finish)

  -- Many subscribers, of which several leave while a pass is under way, each publishing, subscribing and closing.
  it("may publish, subscribe and close: who stays gets all, in order", function()
    local opened = {}
    local app, port = hub(nil, function(stream)
      opened[#opened + 1] = stream
      stream:subscribe "news"
    end)
    local news = app:channel "news"
    app:on_subscribe(function(channel) if channel == news then news:publish "subscribed" end end)
    app:on_unsubscribe(function(channel)
      if channel ~= news then return end
      news:publish "unsubscribed"
      for _, stream in ipairs(opened) do
        if not stream.closed then
          stream:subscribe "second"
          break
        end
      end
    end)
    local clients = {}
    for i = 1, 30 do
      clients[i] = join(port)
      opened[i]:on_close(function()
        news:publish "closed"
        if opened[i + 1] and i % 5 == 0 then opened[i + 1]:close() end
      end)
    end
    for round = 1, 50 do
      news:publish { event = "round", data = round }
      if round % 5 == 0 then clients[round / 5]:reset() end
      if round % 7 == 0 then opened[30 - round / 7]:close() end
      net.settle()
    end
    app:channel("second"):publish "seen"
    news:publish "end"
    for i = 12, 22 do
      channels.wait_data(clients[i], "end")
      local rounds = 0
      for _, message in ipairs((channels.messages(clients[i]))) do
        if message.type == "round" then
          rounds = rounds + 1
          assert.equal(tostring(rounds), message.data)
        end
      end
      assert.equal(50, rounds)
    end
  end)
end)
