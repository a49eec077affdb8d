--- eventstream.test: what apps' own tests see: clients without a port, time that is moved by hand, errors.

local eventstream = require "eventstream"
local test = require "eventstream.test"

describe("eventstream.test", function()
  after_each(test.finish)

  it("says that an app is closed, and that one with a backplane cannot be tested so", function()
    local app = eventstream.new()
    test.request(app, "/")
    test.finish()
    assert.error_matches(function() test.request(app, "/") end,
      "request: the app is closed: test.finish closes it, so make it anew for each test", 1, true)
    if not pcall(require, "eventstream.hiredis") then return end
    app = eventstream.new { backplane = require("eventstream.redis").new { port = 1, on_state = function() end } }
    assert.error_matches(function() test.request(app, "/") end, "request: the app has a backplane", 1, true)
    app:close { grace = 0 }
  end)

  it("runs a handler, and sees what it sent", function()
    local client = test.stream(function(stream, request)
      stream:header("X-A", "b")
      stream:send { id = 1, event = "greeting", data = "hello " .. request.query.name }
      stream:send { data = { 1, 2 }, retry = 500 }
      stream:comment "not seen"
    end, { target = "/?name=you" })
    assert.equal(200, client.status)
    assert.equal("text/event-stream", client.headers["content-type"])
    assert.equal("b", client.headers["x-a"])
    assert.same({
      { event = "greeting", data = "hello you", id = "1" }, { event = "message", data = "[1,2]", id = "1" },
    }, client.events)
    assert.same({ 500, "1", true, "server" }, { client.retry, client.last_event_id, client.closed, client.reason })
  end)

  it("moves time by hand: nothing happens before", function()
    local n = 0
    local client = test.stream(function(stream)
      stream:every(3600, function() stream:send("hour " .. n) end)
      while true do
        stream:sleep(600)
        n = n + 1
      end
    end)
    assert.same({}, client.events)
    test.advance(3599.999)
    assert.same({ 5, {} }, { n, client:data() })
    test.advance(0.001)
    assert.same({ "hour 5" }, client:data()) -- it was due as well, and had been set before
    test.advance(24 * 3600)
    assert.equal(25, #client.events)
    assert.equal("hour 149", client.events[25].data)
    assert.equal(150, n)
  end)

  it("does what falls due in order, also within one step", function()
    local list = {}
    local app = eventstream.new()
    app:get("/", function() end)
    test.request(app, "/")
    app:after(3, function() list[#list + 1] = "c" end)
    app:after(1, function()
      list[#list + 1] = "a"
      app:after(1, function() list[#list + 1] = "b" end)
    end)
    test.advance(10)
    assert.same({ "a", "b", "c" }, list)
  end)

  describe("with an app", function()
    local app

    before_each(function()
      app = eventstream.new { retry = 2000, heartbeat = 15, channels = { paced = { flush = 0.5 } } }
      app:stream("/rooms/:room", function(stream, request)
        stream:subscribe({ "room:" .. request.params.room, "all" }, { newcomer = 2 })
      end)
      app:post("/rooms/:room", function(request)
        return app:channel("room:" .. request.params.room):publish(request:json().text)
      end)
      app:get("/later", function()
        return (eventstream.await(function(resume) app:after(5, function() resume "done" end) end))
      end)
      app:stream("/paced", function(stream) stream:subscribe "paced" end)
      app:stream("/fails", function() error "on purpose" end)
      app:get("/fails/later", function() app:after(1, function() error "on purpose" end) end)
      app:get("/remote", function(request) return request.remote .. " " .. request.headers.host end)
      app:stream("/no", function(stream) stream:reject(403, "no", { ["X-Why"] = "so" }) end)
    end)

    it("sees subscriptions, what is published, and who comes back", function()
      local client = test.request(app, "/rooms/1")
      assert.same({ "all", "room:1" }, client:subscriptions())
      local posted = test.request(app, "/rooms/1", { body = { text = "hi" } })
      assert.same({ 200, client.last_event_id }, { posted.status, posted.body })
      assert.same({ event = "message", data = "hi", id = posted.body }, client:next())
      assert.is_nil(client:next())
      client:leave()
      assert.same({ "client", 0 }, { client.reason, app:channel("room:1").subscribers })
      app:channel("all"):publish "meanwhile"
      app:channel("room:1"):publish "more"
      local back = client:reconnect()
      assert.same({ "meanwhile", "more" }, back:data())
      app:channel("all"):publish { event = "x", data = "live" }
      test.settle()
      assert.same({ "live" }, back:data "x")
      assert.same({ "more", "meanwhile" }, (function()
        local late = test.request(app, "/rooms/1")
        return { late.events[#late.events - 1].data, late.events[#late.events - 2].data }
      end)())
    end)

    it("waits for what waits", function()
      local client = test.request(app, "/later")
      assert.is_nil(client.status)
      test.advance(4.9)
      assert.is_nil(client.status)
      test.advance(0.1)
      assert.same({ 200, "done", true }, { client.status, client.body, client.closed })
    end)

    it("holds heartbeats and the pace of flushes", function()
      local client = test.request(app, "/paced")
      local before = #client.body
      test.advance(60)
      assert.matches("^: ?\n", client.body:sub(before + 1))
      local channel = app:channel "paced"
      for i = 1, 3 do channel:publish(i) end
      test.settle()
      assert.same({ "1", "2", "3" }, client:data())
      channel:publish(4)
      test.settle()
      assert.equal(3, #client.events)
      test.advance(0.4)
      assert.equal(3, #client.events)
      test.advance(0.1)
      assert.same({ "1", "2", "3", "4" }, client:data())
    end)

    it("raises what a handler raises, where it ran", function()
      for _, case in ipairs {
        function() test.request(app, "/fails") end,
        function()
          test.request(app, "/fails/later")
          test.advance(1)
        end,
      } do
        local fine, message = pcall(case)
        assert.is_false(fine)
        assert.matches("spec/test_spec.lua:%d+: on purpose$", message)
      end
      assert.equal(2, app:stats().errors)
    end)

    it("leaves errors to an on_error", function()
      local told
      local other = eventstream.new { on_error = function(message) told = message end }
      other:stream("/", function() error "on purpose" end)
      local client = test.request(other, "/")
      assert.matches("on purpose", told)
      assert.same({ 200, "error" }, { client.status, client.reason })
    end)

    it("sees ordinary answers, and sends what it is told to", function()
      assert.equal("127.0.0.1 localhost", test.request(app, "/remote").body)
      local other = { remote = "203.0.113.9", headers = { Host = "x" } }
      assert.equal("203.0.113.9 x", test.request(app, "/remote", other).body)
      local client = test.request(app, "/no")
      assert.same({ 403, "no", "so" }, { client.status, client.body, client.headers["x-why"] })
      assert.equal(404, test.request(app, "/none").status)
      client = test.request(app, "/remote", { method = "HEAD" })
      assert.same({ 200, "", true }, { client.status, client.body, client.closed })
      client = test.request(app, "/rooms/1", { last_event_id = "nonsense" })
      assert.same({ "room:1", "all" }, client:data "gap")
    end)

    it("sends a body of any size at once", function()
      local large = eventstream.new { limits = { body_bytes = 2 ^ 23 } }
      local got
      large:post("/", function(request)
        got = request.body
        return tostring(#got)
      end)
      large:post("/waits", function(request)
        eventstream.await(function(resume) large:after(1, resume) end)
        return tostring(#request.body)
      end)
      for _, size in ipairs { 1e5, 2e5, 1e6, 2 ^ 23 } do
        local client = test.request(large, "/", { body = ("x"):rep(size) })
        assert.same({ 200, ("%d"):format(size) }, { client.status, client.body })
        assert.equal(size, #got)
      end
      assert.equal(413, test.request(large, "/", { body = ("x"):rep(2 ^ 23 + 1) }).status)
      local client = test.request(large, "/waits", { body = ("x"):rep(1e6) })
      assert.is_nil(client.status)
      test.advance(1)
      assert.equal("1000000", client.body)
    end)

    it("knows answers that have no body", function()
      local other = eventstream.new()
      other:get("/304", function() return 304, "", { ETag = '"x"' } end)
      other:get("/204", function() end)
      for _, status in ipairs { 204, 304 } do
        local client = test.request(other, "/" .. status)
        assert.same({ status, "", true }, { client.status, client.body, client.closed })
      end
    end)

    it("has readers that are slow", function()
      local small = eventstream.new { channels = { news = { history = 20 } } }
      small:stream("/", function(stream) stream:subscribe "news" end)
      local slow, fast = test.request(small, "/"), test.request(small, "/")
      slow:pause()
      for _ = 1, 100 do
        small:channel("news"):publish(("x"):rep(100000))
        test.advance(1)
      end
      assert.equal(100, #fast.events)
      assert.equal("slow", slow.reason)
    end)
  end)

  it("loads a script as it stands: serve only returns the app", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write [[
      local app = require("eventstream").new()
      app:stream("/news", function(stream) stream:send "x" end)
      return app:serve { port = 0 }
    ]]
    file:close()
    local app = dofile(path)
    os.remove(path)
    assert.same({ "x" }, test.request(app, "/news"):data())
    local fine, message = pcall(function() app:serve { prot = 1 } end)
    assert.is_false(fine)
    assert.matches("spec/test_spec.lua:%d+: serve: unknown option 'prot'", message)
  end)

  it("lets time go on behind it", function()
    local app = eventstream.new()
    local fired = false
    app:after(0.01, function() fired = true end)
    test.stream(function(stream) stream:send "x" end)
    test.finish()
    require("spec.support.net").wait(function() return fired end)
    app:close()
  end)

  it("refuses what is none", function()
    for wrong, message in pairs {
      ["request(5, '/')"] = "request: app must be an app, not 5",
      ["request(app, 'x')"] = 'request: target must be a path, as "/news?x=y", not \'x\'',
      ["request(app, '/', { mehtod = 'x' })"] = "request: unknown option 'mehtod' (did you mean 'method'?)",
      ["request(app, '/', { remote = 'x' })"] = "request: remote must be an IP address, not 'x'",
      ["advance(-1)"] = "advance: seconds must be a number of seconds, 0 or more, at most ten years, not -1",
    } do
      local chunk = assert((loadstring or load)("local test, app = ... test." .. wrong, "=script"))
      local ok, told = pcall(chunk, test, eventstream.new())
      assert.is_false(ok)
      assert.equal("script:1: " .. message, told)
    end
  end)
end)
