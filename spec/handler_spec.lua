--- Handlers as coroutines: what waits, what ends them, and what their errors cost.

local uv = require "luv"
local net = require "spec.support.net"
local streams = require "spec.support.streams"
local eventstream = require "eventstream"

local open, serve = streams.open, streams.serve

local LAST_CHUNK = "\r\n0\r\n\r\n$"
local compile = loadstring or load -- luacheck: ignore
local has_close = compile "local x <close> = nil" ~= nil

-- Whether this Lua can wait inside a pcall: all but 5.1.
local waits_in_pcall = coroutine.resume(coroutine.create(function()
  if not pcall(coroutine.yield) then error() end
end))

local function never() end

-- The number of the line that calls it, plus some.
local function line(offset)
  return debug.getinfo(2, "l").currentline + (offset or 0)
end

-- Calls a function from a luv callback.
local function soon(callback)
  local timer = uv.new_timer()
  timer:start(0, 0, function()
    timer:close()
    callback()
  end)
end

-- Waits until a handler's coroutine is gone: watch() is called in it, and the function that it returns in the spec.
local function coroutine_watch()
  local weak = setmetatable({}, { __mode = "k" })
  return function() weak[coroutine.running()] = true end, function()
    net.wait(function()
      collectgarbage()
      return next(weak) == nil
    end, "the end of the handler's coroutine")
  end
end

describe("handler", function()
  after_each(streams.finish)

  describe("stream:sleep", function()
    it("returns true", function()
      local result
      local client = open(function(stream)
        result = { stream:sleep(0) }
        stream:close()
      end)
      client:wait_end()
      assert.same({ true }, result)
    end)

    it("lasts as long as it says", function()
      local took
      local client = open(function(stream)
        local start = uv.hrtime()
        stream:sleep(0.05)
        took = (uv.hrtime() - start) / 1e9
        stream:close()
      end)
      client:wait_end()
      assert.is_true(took >= 0.045, took .. " s") -- the clock's grain is a few milliseconds
    end)

    it("returns nil, closed when the client leaves meanwhile", function()
      local result
      local client = open(function(stream) result = { stream:sleep(60) } end)
      client:wait "retry: "
      client:shutdown()
      net.wait(function() return result end)
      assert.same({ nil, "closed" }, result)
    end)

    it("returns nil, closed when a callback closes the stream meanwhile", function()
      local result
      local client = open(function(stream)
        stream:after(0, function(s) s:close() end)
        result = { stream:sleep(60) }
      end)
      client:wait_end()
      assert.same({ nil, "closed" }, result)
    end)

    it("returns nil, closed after the handler's own close", function()
      local result
      local client = open(function(stream)
        stream:close()
        result = { stream:sleep(60) }
      end)
      client:wait_end()
      assert.same({ nil, "closed" }, result)
    end)

    it("lets other handlers run", function()
      local order = {}
      local _, port = serve(function(app)
        app:stream("/:name", function(stream, request)
          for i = 1, 3 do
            order[#order + 1] = request.params.name .. i
            stream:send "x"
            stream:sleep(0)
          end
        end)
      end)
      local a, b = net.connect(port), net.connect(port)
      a:get "/a"
      b:get "/b"
      a:wait_end()
      b:wait_end()
      table.sort(order)
      assert.same({ "a1", "a2", "a3", "b1", "b2", "b3" }, order)
    end)

    it("in a coroutine of the script's own is an error that says what to do", function()
      local ok, message, at
      local client = open(function(stream)
        stream:send "x"
        ok, message = pcall(coroutine.wrap(function()
          at = line(1)
          stream:sleep(1)
        end))
      end)
      client:wait_end()
      assert.is_false(ok)
      assert.matches(("handler_spec%%.lua:%d: sleep: only the stream's own handler can wait; "):format(at), message)
      assert.matches("in a callback use stream:after or stream:every", message, 1, true)
    end)

    it("in a callback is an error that says what to do", function()
      local message
      local client = open(function(stream)
        stream:after(0, function(s) message = select(2, pcall(s.sleep, s, 1)) end)
      end)
      client:wait_end()
      assert.matches("in a callback use stream:after or stream:every", message, 1, true)
    end)

    it("of another stream's handler is an error", function()
      local message, other
      local _, port = serve(function(app)
        app:stream("/other", function(stream)
          other = stream
          stream:hold()
        end)
        app:stream("/", function(stream)
          stream:send "x"
          message = select(2, pcall(other.sleep, other, 1))
        end)
      end)
      net.connect(port):get("/other"):wait "retry: "
      net.connect(port):get("/"):wait_end()
      assert.matches("sleep: only the stream's own handler can wait", message, 1, true)
    end)

    it("where Lua cannot yield is an error, and leaves no wait behind", function()
      local ok, result
      local client = open(function(stream)
        local list = { 2, 1 }
        ok = pcall(table.sort, list, function() stream:sleep(0) end)
        result = { eventstream.await(function(resume)
          stream:after(0.02, function() resume "awaited" end)
        end) }
      end)
      client:wait_end()
      assert.is_false(ok)
      assert.same({ "awaited" }, result)
    end)

    for name, seconds in pairs {
      ["a negative number"] = -1, ["NaN"] = 0 / 0, ["infinity"] = math.huge, ["a string"] = "1",
      ["nothing"] = false,
    } do
      it("refuses " .. name, function()
        local ok, message
        local client = open(function(stream)
          stream:send "x"
          ok, message = pcall(stream.sleep, stream, seconds or nil)
        end)
        client:wait_end()
        assert.is_false(ok)
        assert.matches("sleep: seconds must be ", message, 1, true)
      end)
    end
  end)

  describe("of a dead stream", function()
    -- Runs a handler until its client leaves; fails if the handler does not end.
    local function leaves(handler)
      local watch, wait = coroutine_watch()
      local client, app = open(function(stream)
        watch()
        handler(stream)
      end)
      client:wait "\ndata: x\n"
      client:close()
      wait()
      assert.same({}, app.errors)
    end

    it("stops in a loop around send and sleep, and that is no error", function()
      leaves(function(stream)
        while true do
          stream:send "x"
          stream:sleep(0.01)
        end
      end)
    end)

    it("stops in a loop around send alone", function()
      leaves(function(stream)
        while true do stream:send "x" end
      end)
    end)

    it("stops in a loop around await", function()
      leaves(function(stream)
        stream:send "x"
        while true do
          eventstream.await(function(resume)
            soon(function() resume() end)
          end)
        end
      end)
    end)

    it("stops in a loop around comment", function()
      leaves(function(stream)
        stream:send "x"
        while true do
          stream:comment "quiet"
          stream:sleep(0)
        end
      end)
    end)

    it("is told nil, closed once, and ends at the next wait", function()
      local told, after = 0, false
      leaves(function(stream)
        stream:send "x"
        repeat until not stream:sleep(0.001)
        told = told + 1
        stream:sleep(0.001)
        after = true
      end)
      assert.equal(1, told)
      assert.is_false(after)
    end)

    it("may clean up without waiting after it was told", function()
      local cleaned
      leaves(function(stream)
        stream:send "x"
        repeat until not stream:sleep(0.001)
        cleaned = true
      end)
      assert.is_true(cleaned)
    end)

    it("is resumed in a waiting send", function()
      local result
      local watch, wait = coroutine_watch()
      local client = open(function(stream)
        watch()
        while true do
          local ok, why = stream:send(("x"):rep(50000))
          if not ok then
            result = { ok, why }
            return
          end
        end
      end)
      client:wait "retry: "
      client:pause()
      client:reset()
      wait()
      assert.same({ nil, "closed" }, result)
    end)

    if has_close then
      it("closes its <close> variables", function()
        local closed = 0
        local body = compile [[
          local stream, on_close = ...
          local outer <close> = setmetatable({}, { __close = on_close })
          while true do
            local inner <close> = setmetatable({}, { __close = on_close })
            stream:send "x"
            stream:sleep(60)
            stream:sleep(60)
          end
        ]]
        leaves(function(stream)
          body(stream, function() closed = closed + 1 end)
        end)
        assert.equal(2, closed)
      end)

      it("that fails in a __close is reported", function()
        local body = compile [[
          local stream = ...
          local variable <close> = setmetatable({}, { __close = function() error "__close went wrong" end })
          stream:send "x"
          while true do stream:sleep(60) end
        ]]
        local client, app = open(function(stream) body(stream) end)
        client:wait "\ndata: x\n"
        client:close()
        assert.matches("__close went wrong", streams.errors(app).message, 1, true)
      end)

      it("has its answers in a __close, too", function()
        local answers
        local body = compile [[
          local stream, tell = ...
          local variable <close> = setmetatable({}, {
            __close = function() tell { stream:send "x", (select(2, stream:send "x")), select(2, stream:sleep(0)) } end,
          })
          stream:send "x"
          while true do stream:sleep(60) end
        ]]
        local client = open(function(stream) body(stream, function(told) answers = told end) end)
        client:wait "\ndata: x\n"
        client:close()
        net.wait(function() return answers end, "the __close")
        assert.same({ [2] = "closed", [3] = "closed" }, answers)
      end)
    end

    if waits_in_pcall then
      it("is not kept alive by a pcall around its waits", function()
        -- in a process of its own: where this goes wrong, the loop never comes back
        local child, port = streams.server [[
          local eventstream = require "eventstream"
          local app = eventstream.new()
          app:stream("/", function(stream)
            while true do
              pcall(function()
                stream:send "x"
                stream:sleep(0.01)
              end)
            end
          end)
          print("port " .. app:listen { port = 0 }.port)
          eventstream.run()
        ]]
        local client = net.connect(port):get "/"
        client:wait "\ndata: x\n"
        client:close()
        local other = net.connect(port):get "/none"
        other:wait "^HTTP/1.1 404 "
        child:kill "sigterm"
        assert.equal(0, (child:wait_exit(10)))
        assert.equal("", child.stderr)
      end)

      it("is not kept alive by a pcall around a send alone", function()
        local child, port = streams.server [[
          local eventstream = require "eventstream"
          local app = eventstream.new()
          app:stream("/", function(stream)
            while true do pcall(stream.send, stream, "x") end
          end)
          print("port " .. app:listen { port = 0 }.port)
          eventstream.run()
        ]]
        local client = net.connect(port):get "/"
        client:wait "\ndata: x\n"
        client:close()
        net.connect(port):get("/none"):wait "^HTTP/1.1 404 "
        child:kill "sigterm"
        assert.equal(0, (child:wait_exit(10)))
        assert.equal("", child.stderr)
      end)
    end
  end)

  describe("eventstream.await", function()
    -- What await(start) returned in a stream's handler, with the count first.
    local function awaited(start)
      local results
      local client = open(function(stream)
        local function keep(...) results = { n = select("#", ...), ... } end
        keep(eventstream.await(function(resume) start(resume, stream) end))
        stream:close()
      end)
      client:wait_end()
      return results
    end

    it("returns the values that resume is given, nils too", function()
      assert.same({ n = 4, "a", nil, 3, nil }, awaited(function(resume, stream)
        stream:after(0, function() resume("a", nil, 3, nil) end)
      end))
    end)

    it("returns nothing where resume is given nothing", function()
      assert.same({ n = 0 }, awaited(function(resume, stream)
        stream:after(0, function() resume() end)
      end))
    end)

    it("returns at once where the function resumes at once", function()
      assert.same({ n = 4, "a", nil, 3, nil }, awaited(function(resume) resume("a", nil, 3, nil) end))
    end)

    it("takes the first of two resumes at once", function()
      assert.same({ n = 1, "first" }, awaited(function(resume)
        resume "first"
        resume "second"
      end))
    end)

    it("takes the first of two later resumes", function()
      assert.same({ n = 1, "first" }, awaited(function(resume, stream)
        stream:after(0, function()
          resume "first"
          resume "second"
        end)
      end))
    end)

    it("is not resumed by the resume of an await that is over", function()
      local old
      local results = {}
      local client = open(function(stream)
        results[1] = eventstream.await(function(resume)
          old = resume
          resume "first"
        end)
        results[2] = eventstream.await(function(resume)
          stream:after(0, function()
            old "stale"
            resume "second"
          end)
        end)
        stream:after(0, function() old "staler" end)
        results[3] = tostring(stream:sleep(0.01))
      end)
      client:wait_end()
      assert.same({ "first", "second", "true" }, results)
    end)

    it("goes on when the callback that resumes has returned", function()
      local order = {}
      local client = open(function(stream)
        eventstream.await(function(resume)
          stream:after(0, function()
            resume()
            order[#order + 1] = "callback"
          end)
        end)
        order[#order + 1] = "handler"
        stream:send "x"
      end)
      client:wait_end()
      assert.same({ "callback", "handler" }, order)
    end)

    it("is resumed from a luv callback", function()
      assert.same({ n = 2, "from luv", 7 }, awaited(function(resume)
        soon(function() resume("from luv", 7) end)
      end))
    end)

    it("is resumed from outside any callback", function()
      local resume, result
      local client = open(function(stream)
        result = eventstream.await(function(r) resume = r end)
        stream:send "x"
      end)
      net.wait(function() return resume end)
      resume "outside"
      assert.is_nil(result)
      client:wait_end()
      assert.equal("outside", result)
    end)

    it("is resumed from another handler", function()
      local resume, result
      local _, port = serve(function(app)
        app:stream("/waits", function(stream)
          result = eventstream.await(function(r) resume = r end)
          stream:send(result)
        end)
        app:get("/resumes", function()
          resume "from another"
          return "done"
        end)
      end)
      local client = net.connect(port):get "/waits"
      net.wait(function() return resume end)
      net.connect(port):get("/resumes"):wait "done"
      client:wait "\ndata: from another\n"
    end)

    it("carries many values", function()
      local values = {}
      for i = 1, 200 do values[i] = i end
      local results = awaited(function(resume, stream)
        stream:after(0, function() resume((unpack or table.unpack)(values)) end) -- luacheck: ignore
      end)
      assert.equal(200, results.n)
      assert.equal(200, results[200])
    end)

    it("returns nil, closed when the client leaves", function()
      local results
      local client = open(function(stream)
        stream:send "x"
        results = { eventstream.await(never) }
      end)
      client:wait "data: x"
      client:shutdown()
      net.wait(function() return results end)
      assert.same({ nil, "closed" }, results)
    end)

    it("returns nil, closed when the client leaves before the head", function()
      local results, waits
      local client = open(function()
        waits = true
        results = { eventstream.await(never) }
      end)
      net.wait(function() return waits end)
      client:shutdown()
      net.wait(function() return results end)
      assert.same({ nil, "closed" }, results)
    end)

    it("returns nil, closed on a stream that is over already, and calls nothing", function()
      local called, results = false, nil
      local client = open(function(stream)
        stream:close()
        results = { eventstream.await(function() called = true end) }
      end)
      client:wait_end()
      assert.same({ nil, "closed" }, results)
      assert.is_false(called)
    end)

    it("ignores a resume after the end", function()
      local resume, results
      local client, _, port = open(function(stream)
        stream:send "x"
        results = { eventstream.await(function(r) resume = r end) }
      end)
      client:wait "data: x"
      client:shutdown()
      net.wait(function() return results end)
      resume "too late"
      streams.round_trip(port)
      assert.same({ nil, "closed" }, results)
    end)

    it("returns the values where the stream ends right after the resume", function()
      local results
      local client = open(function(stream)
        stream:after(0, function() end)
        results = { eventstream.await(function(resume)
          stream:after(0, function(s)
            resume "in time"
            s:close()
          end)
        end) }
      end)
      client:wait_end()
      assert.same({ "in time" }, results)
    end)

    it("passes on an error of the function, with its line", function()
      local at
      local client, app = open(function()
        eventstream.await(function()
          at = line(1)
          error "start went wrong"
        end)
      end)
      client:wait_end()
      local failure = streams.errors(app)
      assert.matches(("handler_spec%%.lua:%d: start went wrong"):format(at), failure.message)
    end)

    it("lets a handler catch an error of the function, and go on", function()
      local ok, message, slept
      local client = open(function(stream)
        stream:send "x"
        ok, message = pcall(eventstream.await, function() error({ code = 7 }) end)
        slept = stream:sleep(0)
      end)
      client:wait_end()
      assert.is_false(ok)
      assert.same({ code = 7 }, message)
      assert.is_true(slept)
    end)

    it("ignores the resume of a function that has failed", function()
      local resume
      local results = {}
      local client = open(function(stream)
        stream:send "x"
        pcall(eventstream.await, function(r)
          resume = r
          error "no"
        end)
        stream:after(0, function() resume "stale" end)
        results = { stream:sleep(0.01) }
      end)
      client:wait_end()
      assert.same({ true }, results)
    end)

    it("refuses what is no function", function()
      local message
      local client = open(function(stream)
        stream:send "x"
        message = select(2, pcall(eventstream.await, "resume"))
      end)
      client:wait_end()
      assert.matches("await: function expected, got string", message, 1, true)
    end)

    it("outside a handler is an error", function()
      assert.error_matches(function() eventstream.await(never) end, "await: only a handler can wait", 1, true)
    end)

    it("in a callback is an error", function()
      local message
      local client = open(function(stream)
        stream:after(0, function() message = select(2, pcall(eventstream.await, never)) end)
      end)
      client:wait_end()
      assert.matches("await: only a handler can wait", message, 1, true)
    end)

    it("in a coroutine of the script's own is an error", function()
      local message
      local client = open(function(stream)
        stream:send "x"
        message = select(2, pcall(coroutine.wrap(function() eventstream.await(never) end)))
      end)
      client:wait_end()
      assert.matches("await: only a handler can wait", message, 1, true)
    end)

    describe("before the head", function()
      -- A handler that asks who the client is, and says no to all but one.
      local function guarded()
        local app, port = serve(function(app)
          app:stream("/", function(stream, request)
            local user = eventstream.await(function(resume)
              soon(function() resume(request.headers.authorization == "Bearer good" and "ann" or nil) end)
            end)
            if not user then return stream:reject(401, "who are you?\n", { ["WWW-Authenticate"] = "Bearer" }) end
            stream:send("hello " .. user)
          end)
        end)
        return port, app
      end

      it("a stream may still be rejected", function()
        local client = net.connect((guarded())):get("/", { "Authorization: Bearer bad" })
        client:wait_end()
        local status, headers, body = client:answer()
        assert.equal(401, status)
        assert.equal("Bearer", headers["www-authenticate"])
        assert.equal("who are you?\n", body)
      end)

      it("a stream may still be accepted", function()
        local client = net.connect((guarded())):get("/", { "Authorization: Bearer good" })
        client:wait_end()
        client:wait("\ndata: hello ann\n\n" .. LAST_CHUNK)
      end)

      it("a client may leave meanwhile", function()
        local port = guarded()
        local client = net.connect(port):get("/", { "Authorization: Bearer bad" })
        client:close()
        streams.round_trip(port)
      end)
    end)

    describe("in a plain handler", function()
      it("waits for its values", function()
        local _, port = serve(function(app)
          app:get("/", function()
            return eventstream.await(function(resume)
              soon(function() resume(201, "made", { ["X-Test"] = "yes" }) end)
            end)
          end)
        end)
        local client = net.connect(port):get "/"
        client:wait "made$"
        local status, headers = client:answer()
        assert.equal(201, status)
        assert.equal("yes", headers["x-test"])
      end)

      it("returns nil, closed when the client is gone", function()
        local waits, results
        local _, port = serve(function(app)
          app:get("/", function()
            waits = true
            results = { eventstream.await(never) }
          end)
        end)
        local client = net.connect(port):get "/"
        net.wait(function() return waits end)
        client:reset()
        net.wait(function() return results end)
        assert.same({ nil, "closed" }, results)
      end)

      it("returns nil, closed when the app's close has cut it", function()
        local waits, results
        local app, port = serve(function(app)
          app:get("/", function()
            waits = true
            results = { eventstream.await(never) }
          end)
        end)
        net.connect(port):get "/"
        net.wait(function() return waits end)
        app:close { grace = 0 }
        net.wait(function() return results end)
        assert.same({ nil, "closed" }, results)
      end)
    end)
  end)

  describe("coroutine", function()
    it("that yields by itself is an error that names eventstream.await", function()
      local client, app = open(function() coroutine.yield() end)
      client:wait_end()
      assert.matches("wait with eventstream.await", streams.errors(app).message, 1, true)
    end)

    it("that yields by itself has the script's line in its traceback", function()
      local at
      local client, app = open(function()
        at = line(1)
        coroutine.yield(1, 2, 3)
      end)
      client:wait_end()
      assert.matches(("handler_spec.lua:%d:"):format(at), streams.errors(app).traceback, 1, true)
    end)

    it("may use coroutines of its own", function()
      local client = open(function(stream)
        for number in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) do
          stream:send(number)
          stream:sleep(0)
        end
      end)
      client:wait_end()
      client:wait "\ndata: 1\n.*\ndata: 2\n.*\ndata: 3\n"
    end)

    it("may send from a coroutine of its own", function()
      local client = open(function(stream)
        coroutine.wrap(function() stream:send "from within" end)()
      end)
      client:wait_end()
      client:wait "\ndata: from within\n"
    end)

    if waits_in_pcall then
      it("may wait inside pcall", function()
        local results
        local client = open(function(stream)
          results = { pcall(stream.sleep, stream, 0) }
          stream:close()
        end)
        client:wait_end()
        assert.same({ true, true }, results)
      end)
    end
  end)

  describe("that raises", function()
    -- One stream that ticks on while other things fail.
    local function with_ticks(define)
      local app, port = serve(function(app)
        app:stream("/ticks", function(stream) stream:every(0.001, function(s) s:send "tick" end) end)
        define(app)
      end)
      local ticks = net.connect(port):get "/ticks"
      ticks:wait "\ndata: tick\n"
      return app, port, function()
        ticks.received = ""
        ticks:wait "\ndata: tick\n.*\ndata: tick\n"
        assert.is_false(ticks.ended)
      end
    end

    it("before the head of a GET stream gives 200 with a retry, and ends it", function()
      local client, app = open(function() error "too early" end)
      client:wait_end()
      local status, headers, body = client:answer()
      assert.equal(200, status)
      assert.equal("text/event-stream", headers["content-type"])
      local retry = tonumber(body:match "^retry: (%d+)\n\n$")
      assert.is_true(retry >= 3000 and retry <= 4500, body)
      streams.errors(app)
    end)

    it("before the head of a POST stream gives 500", function()
      local app, port = serve(function(app)
        app:stream("/", { methods = { "POST" } }, function() error "too early" end)
      end)
      local client = net.connect(port):request("POST", "/", {}, "body")
      client:wait_end()
      assert.equal(500, (client:answer()))
      streams.errors(app)
    end)

    it("in a plain handler gives 500, which tells nothing of the script", function()
      local app, port = serve(function(app) app:get("/", function() error "a secret" end) end)
      local client = net.connect(port):get "/"
      client:wait "\r\n\r\n."
      local status, _, body = client:answer()
      assert.equal(500, status)
      assert.not_matches("secret", body, 1, true)
      streams.errors(app)
    end)

    it("in a plain handler after a wait gives 500", function()
      local app, port = serve(function(app)
        app:get("/", function()
          eventstream.await(function(resume) app:after(0, resume) end)
          error "later"
        end)
      end)
      net.connect(port):get("/"):wait "^HTTP/1.1 500 "
      streams.errors(app)
    end)

    it("by returning nonsense from a plain handler gives 500", function()
      local app, port = serve(function(app) app:get("/", function() return "200 OK", {} end) end)
      net.connect(port):get("/"):wait "^HTTP/1.1 500 "
      local failure = streams.errors(app)
      assert.matches("handler of GET /: status must be a whole number from 200 to 599", failure.message, 1, true)
    end)

    it("after the head ends the stream with its last chunk", function()
      local reason
      local client, app = open(function(stream)
        stream:on_close(function(r) reason = r end)
        stream:send "x"
        error "too late"
      end)
      client:wait_end()
      client:wait("\ndata: x\n\n" .. LAST_CHUNK)
      assert.equal("error", reason)
      streams.errors(app)
    end)

    it("after a wait ends the stream", function()
      local client, app = open(function(stream)
        stream:sleep(0)
        error "later"
      end)
      client:wait_end()
      client:wait(LAST_CHUNK)
      assert.matches("later", streams.errors(app).message, 1, true)
    end)

    it("stops the stream's intervals", function()
      local ticks = 0
      local client, app, port = open(function(stream)
        stream:every(0.001, function() ticks = ticks + 1 end)
        stream:sleep(0.005)
        error "wrong"
      end)
      client:wait_end()
      local then_ = ticks
      for _ = 1, 5 do streams.round_trip(port) end
      assert.equal(then_, ticks)
      streams.errors(app)
    end)

    it("is reported once, with the line, a traceback and its stream", function()
      local at, held
      local function fails()
        at = line(1)
        error "wrong"
      end
      local client, app, port = open(function(stream)
        held = stream
        fails()
      end)
      client:wait_end()
      streams.round_trip(port)
      assert.equal(1, #app.errors)
      local failure = streams.errors(app)
      assert.matches(("handler_spec%%.lua:%d: wrong$"):format(at), failure.message)
      assert.matches(("handler_spec.lua:%d:"):format(at), failure.traceback, 1, true)
      assert.is_true(rawequal(held, failure.stream))
    end)

    it("after a wait is reported with a traceback from the handler's coroutine", function()
      local at
      local client, app = open(function(stream)
        stream:sleep(0)
        at = line(1)
        error "wrong"
      end)
      client:wait_end()
      local failure = streams.errors(app)
      assert.matches(("handler_spec%%.lua:%d: wrong$"):format(at), failure.message)
      assert.matches(("handler_spec.lua:%d:"):format(at), failure.traceback, 1, true)
    end)

    it("in a plain handler is reported without a stream", function()
      local app, port = serve(function(app) app:get("/", function() error "wrong" end) end)
      net.connect(port):get("/"):wait "500"
      local failure = streams.errors(app)
      assert.matches("wrong", failure.message, 1, true)
      assert.is_nil(failure.stream)
    end)

    it("an error of the library's has the script's line", function()
      local at
      local client, app = open(function(stream)
        at = line(1)
        stream:send { datum = "x" }
      end)
      client:wait_end()
      assert.matches(("handler_spec%%.lua:%d: send: unknown field 'datum' %%(did you mean 'data'%%?%%)$"):format(at),
        streams.errors(app).message)
    end)

    it("a table with __tostring is reported by that", function()
      local client, app = open(function()
        error(setmetatable({}, { __tostring = function() return "a readable object" end }))
      end)
      client:wait_end()
      assert.equal("a readable object", streams.errors(app).message)
    end)

    for name, object in pairs {
      ["a table without __tostring"] = {}, ["false"] = false, ["nothing"] = "nil",
      ["a table whose __tostring fails"] = setmetatable({}, { __tostring = function() error "no" end }),
      ["a table whose __tostring gives no string"] = setmetatable({}, { __tostring = function() return 7 end }),
    } do
      it(name .. " is reported by a string", function()
        local client, app = open(function()
          if object == "nil" then error() end
          error(object)
        end)
        client:wait_end()
        local failure = streams.errors(app)
        assert.is_string(failure.message)
        assert.is_string(failure.traceback)
      end)

      it(name .. " in a callback is reported by a string", function()
        local client, app = open(function(stream)
          stream:after(0, function()
            if object == "nil" then error() end
            error(object)
          end)
        end)
        client:wait_end()
        local failure = streams.errors(app)
        assert.is_string(failure.message)
        assert.is_string(failure.traceback)
      end)
    end

    it("costs no other stream anything", function()
      local app, port, still_ticks = with_ticks(function(app)
        app:stream("/", function(stream)
          stream:send "x"
          error "wrong"
        end)
        app:get("/plain", function() error "wrong" end)
      end)
      for _ = 1, 10 do net.connect(port):get("/"):wait_end() end
      for _ = 1, 10 do net.connect(port):get("/plain"):wait "500" end
      still_ticks()
      streams.errors(app, 20)
    end)

    it("leaves the route to the next client", function()
      local first = true
      local app, port = serve(function(app)
        app:stream("/", function(stream)
          if first then
            first = false
            error "only once"
          end
          stream:send "second"
        end)
      end)
      net.connect(port):get("/"):wait_end()
      net.connect(port):get("/"):wait "\ndata: second\n"
      streams.errors(app)
    end)

    it("on a stack overflow costs that stream alone", function()
      local app, port, still_ticks = with_ticks(function(app)
        app:stream("/", function()
          local function deeper() return 1 + deeper() end
          deeper()
        end)
      end)
      net.connect(port):get("/"):wait_end()
      still_ticks()
      assert.matches("stack overflow", streams.errors(app).message, 1, true)
    end)

    describe("in a stream's interval", function()
      it("ends that stream with its last chunk, and on_close is told error", function()
        local reason
        local app, port, still_ticks = with_ticks(function(app)
          app:stream("/", function(stream)
            stream:on_close(function(r) reason = r end)
            stream:every(0.001, function() error "tick went wrong" end)
            stream:send "x"
          end)
        end)
        local client = net.connect(port):get "/"
        client:wait_end()
        client:wait("\ndata: x\n\n" .. LAST_CHUNK)
        assert.equal("error", reason)
        still_ticks()
        assert.equal(1, #app.errors)
        streams.errors(app)
      end)

      it("is reported with the line, a traceback and the stream", function()
        local at, held
        local client, app = open(function(stream)
          held = stream
          stream:after(0, function()
            at = line(1)
            error "wrong"
          end)
        end)
        client:wait_end()
        local failure = streams.errors(app)
        assert.matches(("handler_spec%%.lua:%d: wrong$"):format(at), failure.message)
        assert.matches(("handler_spec.lua:%d:"):format(at), failure.traceback, 1, true)
        assert.is_true(rawequal(held, failure.stream))
      end)

      it("resumes the waiting handler with nil, closed", function()
        local results
        local client, app = open(function(stream)
          stream:after(0, function() error "wrong" end)
          results = { stream:sleep(60) }
        end)
        client:wait_end()
        assert.same({ nil, "closed" }, results)
        streams.errors(app)
      end)

      it("before the head gives 200 with a retry", function()
        local client, app = open(function(stream)
          stream:after(0, function() error "wrong" end)
          eventstream.await(never)
        end)
        client:wait_end()
        local status, _, body = client:answer()
        assert.equal(200, status)
        assert.matches("^retry: %d+\n\n$", body)
        streams.errors(app)
      end)
    end)

    it("in an app's interval costs no stream, and the interval goes on", function()
      local count = 0
      local app, _, still_ticks = with_ticks(function(app)
        app:every(0.001, function()
          count = count + 1
          if count <= 3 then error "wrong" end
        end)
      end)
      net.wait(function() return count > 5 end)
      still_ticks()
      assert.equal(3, #app.errors)
      local failure = streams.errors(app)
      assert.matches("handler_spec%.lua:%d+: wrong$", failure.message)
      assert.is_nil(failure.stream)
    end)

    describe("in on_close", function()
      it("is reported with the line and the stream, and costs nothing else", function()
        local at, held
        local app, port, still_ticks = with_ticks(function(app)
          app:stream("/", function(stream)
            held = stream
            stream:send "x"
            stream:on_close(function()
              at = line(1)
              error "wrong"
            end)
          end)
        end)
        net.connect(port):get("/"):wait_end()
        local failure = streams.errors(app)
        assert.matches(("handler_spec%%.lua:%d: wrong$"):format(at), failure.message)
        assert.is_true(rawequal(held, failure.stream))
        still_ticks()
      end)
    end)

    describe("in on_error", function()
      local SERVER = [[
        local eventstream = require "eventstream"
        local app = eventstream.new { on_error = function(message) error("on_error fails at " .. message) end }
        app:stream("/", function(stream)
          stream:send "x"
          error "the first error"
        end)
        print("port " .. app:listen { port = 0 }.port)
        eventstream.run()
      ]]

      it("is told on stderr beside the first error, and the server serves on", function()
        local child, port = streams.server(SERVER)
        for _ = 1, 2 do
          local client = net.connect(port):get "/"
          client:wait_end()
          client:wait("\ndata: x\n\n" .. LAST_CHUNK)
        end
        child:kill "sigterm"
        assert.equal(0, (child:wait_exit()))
        assert.matches("%(command line%):5: the first error\n", child.stderr)
        assert.matches("on_error: .-%(command line%):2: on_error fails", child.stderr)
      end)
    end)

    it("goes to stderr with its traceback where the app has no on_error", function()
      local child, port = streams.server [[
        local eventstream = require "eventstream"
        local app = eventstream.new()
        app:stream("/", function()
          error "wrong"
        end)
        print("port " .. app:listen { port = 0 }.port)
        eventstream.run()
      ]]
      net.connect(port):get("/"):wait_end()
      child:kill "sigterm"
      assert.equal(0, (child:wait_exit()))
      assert.matches("^eventstream: %(command line%):4: wrong\nstack traceback:\n", child.stderr)
      assert.matches("(command line):4: in ", child.stderr, 1, true)
    end)

    it("while the app closes is reported too", function()
      local client, app = open(function(stream)
        stream:sleep(60)
        error "at the end"
      end)
      client:wait "retry: "
      app:close()
      assert.matches("at the end", streams.errors(app).message, 1, true)
    end)
  end)
end)
