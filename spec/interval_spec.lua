--- Intervals: app:every, app:after, stream:every, stream:after, and their stop.

local uv = require "luv"
local eventstream = require "eventstream"
local net = require "spec.support.net"
local streams = require "spec.support.streams"

local open, serve = streams.open, streams.serve

local function never() end

local function milliseconds()
  return uv.hrtime() / 1e6
end

-- Keeps the processor busy: what a script does that makes its ticks late.
local function busy(ms)
  local till = milliseconds() + ms
  repeat until milliseconds() >= till
end

-- An app without routes.
local function new_app()
  return (serve(never))
end

-- Runs an interval for a number of ticks, with work(n) in each; returns when each came, in milliseconds after the start
-- as the loop's clock, which counts whole ones, sees it.
local function ticks(count, seconds, work)
  local app, times = new_app(), {}
  local start = math.floor(milliseconds())
  local interval
  interval = app:every(seconds, function()
    times[#times + 1] = milliseconds() - start
    work(#times)
    if #times == count then interval:stop() end
  end)
  net.wait(function() return #times == count end, "ticks")
  return times
end

-- How many of the ticks came at most grain milliseconds after one of the times that the interval has.
local function punctual(times, period, grain)
  local count = 0
  for _, time in ipairs(times) do
    if (time + 1) % period <= grain + 1 then count = count + 1 end
  end
  return count
end

describe("interval", function()
  after_each(streams.finish)

  describe("app:every", function()
    it("calls back again and again, without arguments", function()
      local app, count, arguments = new_app(), 0, 0
      app:every(0.001, function(...)
        count = count + 1
        arguments = arguments + select("#", ...)
      end)
      net.wait(function() return count == 5 end)
      assert.equal(0, arguments)
    end)

    it("calls back first after its seconds, not at once", function()
      assert.is_true(ticks(1, 0.03, never)[1] >= 29)
    end)

    it("goes on though nothing refers to it", function()
      local app, count = new_app(), 0
      app:every(0.001, function() count = count + 1 end)
      for _ = 1, 3 do collectgarbage() end
      net.wait(function() return count == 3 end)
      for _ = 1, 3 do collectgarbage() end
      net.wait(function() return count == 6 end)
    end)

    it("goes on though nothing refers to its app", function()
      local count = 0
      new_app():every(0.001, function() count = count + 1 end)
      for _ = 1, 3 do collectgarbage() end
      net.wait(function() return count == 3 end)
    end)

    it("needs no listener", function()
      local child = streams.script [[
        local eventstream = require "eventstream"
        local app, count = eventstream.new(), 0
        local interval
        interval = app:every(0.001, function()
          count = count + 1
          if count == 3 then interval:stop() end
        end)
        eventstream.run()
        print("count " .. count)
      ]]
      assert.equal("3", child:wait_line "^count (%d+)$")
      assert.equal(0, (child:wait_exit()))
    end)

    it("keeps its times, whatever its callback takes", function()
      local times = ticks(12, 0.05, function() busy(20) end)
      -- the twelfth is due at 600; were the callback's time added to the period, it would come at 840
      assert.is_true(times[12] >= 599 and times[12] < 720, table.concat(times, " "))
    end)

    it("keeps its times where the period is no whole number of milliseconds", function()
      local times = ticks(40, 0.0125, never)
      assert.is_true(punctual(times, 12.5, 3) >= 20, table.concat(times, " "))
    end)

    it("ticks as often as its seconds say over a span of time", function()
      local app, count, span = new_app(), 0, 0.3
      local start, due = math.floor(milliseconds()), nil
      app:every(0.01, function() count = count + 1 end)
      app:after(span, function() due = milliseconds() - start end)
      net.wait(function() return due end)
      assert.is_true(count <= due / 10, count .. " ticks in " .. due)
      assert.is_true(count >= 15, count .. " ticks in " .. due)
    end)

    it("skips the ticks that a late one missed", function()
      local times = ticks(6, 0.02, function(n) if n == 2 then busy(70) end end)
      -- the second at 40, busy to 110: 60, 80 and 100 are missed but for the one that is late, and 120 is the next
      for i = 2, #times do
        assert.is_true(math.floor((times[i] + 1) / 20) > math.floor((times[i - 1] + 1) / 20),
          "two ticks in one period: " .. table.concat(times, " "))
      end
      assert.is_true(times[6] >= 160, table.concat(times, " "))
    end)

    it("keeps its times after a late tick", function()
      local times = ticks(15, 0.02, function(n) if n == 1 then busy(50) end end)
      assert.is_true(punctual(times, 20, 4) >= 6, table.concat(times, " "))
    end)

    it("may have other intervals made in its callback", function()
      local app, order = new_app(), {}
      app:after(0, function()
        order[#order + 1] = "outer"
        app:after(0, function() order[#order + 1] = "inner" end)
      end)
      net.wait(function() return #order == 2 end)
      assert.same({ "outer", "inner" }, order)
    end)
  end)

  describe("app:after", function()
    it("calls back once", function()
      local app, count, last = new_app(), 0, false
      app:after(0.001, function() count = count + 1 end)
      app:after(0.02, function() last = true end)
      net.wait(function() return last end)
      assert.equal(1, count)
    end)

    it("calls back after its seconds", function()
      local app, start, took = new_app(), math.floor(milliseconds()), nil
      app:after(0.03, function() took = milliseconds() - start end)
      net.wait(function() return took end)
      assert.is_true(took >= 29, took .. " ms")
    end)

    it("calls back after no time at all, but not at once", function()
      local app, called = new_app(), false
      app:after(0, function() called = true end)
      assert.is_false(called)
      net.wait(function() return called end)
    end)

    it("calls back in the order of the times", function()
      local app, order = new_app(), {}
      for _, ms in ipairs { 30, 10, 20 } do
        app:after(ms / 1000, function() order[#order + 1] = ms end)
      end
      net.wait(function() return #order == 3 end)
      assert.same({ 10, 20, 30 }, order)
    end)

    it("lets go of its function", function()
      local app, called = new_app(), false
      local weak = setmetatable({}, { __mode = "v" })
      do
        local held = {}
        weak[1] = held
        app:after(0, function() called = held end)
      end
      net.wait(function() return called end)
      called = true
      collectgarbage()
      collectgarbage()
      assert.is_nil(weak[1])
    end)
  end)

  describe(":stop", function()
    it("ends an interval", function()
      local app, count, ended = new_app(), 0, false
      local interval = app:every(0.001, function() count = count + 1 end)
      net.wait(function() return count == 3 end)
      interval:stop()
      app:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.equal(3, count)
    end)

    it("ends an interval inside its own callback", function()
      local app, count, ended = new_app(), 0, false
      local interval
      interval = app:every(0.001, function()
        count = count + 1
        interval:stop()
      end)
      app:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.equal(1, count)
    end)

    it("ends another interval that is due in the same turn", function()
      local app, log = new_app(), {}
      local first, second
      first = app:after(0.005, function()
        log[#log + 1] = "first"
        second:stop()
      end)
      second = app:after(0.005, function()
        log[#log + 1] = "second"
        first:stop()
      end)
      busy(10)
      local ended
      app:after(0.005, function() ended = true end)
      net.wait(function() return ended end)
      assert.equal(1, #log)
    end)

    it("keeps an after from its call", function()
      local app, called, ended = new_app(), false, false
      app:after(0.005, function() called = true end):stop()
      app:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.is_false(called)
    end)

    it("has no effect a second time, nor after an after has fired", function()
      local app, called = new_app(), false
      local interval, once = app:every(60, never), app:after(0, function() called = true end)
      net.wait(function() return called end)
      interval:stop()
      interval:stop()
      once:stop()
    end)

    it("has no effect after the app's end", function()
      local app = new_app()
      local interval = app:every(60, never)
      app:close { grace = 0 }
      net.finish()
      interval:stop()
    end)

    it("lets go of the function at once", function()
      local app = new_app()
      local weak = setmetatable({}, { __mode = "v" })
      local interval
      do
        local held = {}
        weak[1] = held
        interval = app:every(60, function() return held end)
      end
      interval:stop()
      collectgarbage()
      collectgarbage()
      assert.is_nil(weak[1])
    end)

    it("lets a loop end that has nothing else to do", function()
      local child = streams.script [[
        local eventstream = require "eventstream"
        local app = eventstream.new()
        local interval = app:every(60, function() end)
        app:after(0, function() interval:stop() end)
        eventstream.run()
        print "done"
      ]]
      child:wait_line "^done$"
      assert.equal(0, (child:wait_exit()))
    end)
  end)

  describe("of an app", function()
    it("stops with the app's close", function()
      local app, count = new_app(), 0
      app:every(0.001, function() count = count + 1 end)
      net.wait(function() return count == 2 end)
      app:close { grace = 0 }
      local other, ended = new_app(), false
      other:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.equal(2, count)
    end)

    it("stops with the app's close in its own callback", function()
      local app, count = new_app(), 0
      app:every(0.001, function()
        count = count + 1
        app:close { grace = 0 }
      end)
      local other, ended = new_app(), false
      other:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.equal(1, count)
    end)

    it("that comes once is what a handler may wait for while the app closes", function()
      local waits, late = false, false
      local app, port = net.serve(function(app)
        app:get("/", function()
          for _ = 1, 2 do
            waits = true
            eventstream.await(function(resume) app:after(0.02, resume) end)
          end
          return "at last"
        end)
      end)
      local client = net.connect(port):get "/"
      net.wait(function() return waits end)
      app:after(60, function() late = true end)
      app:every(0.001, function() late = true end)
      app:close()
      assert.error_matches(function() app:every(1, never) end, "every: the app is closed", 1, true)
      local status, _, body = client:take()
      assert.same({ 200, "at last" }, { status, body })
      client:wait_end()
      net.wait(function() return not pcall(app.after, app, 1, never) end, "its end")
      assert.is_false(late)
    end)

    it("cannot be made after the app's close", function()
      local app = new_app()
      app:close { grace = 0 }
      assert.error_matches(function() app:every(1, never) end, "every: the app is closed", 1, true)
      assert.error_matches(function() app:after(1, never) end, "after: the app is closed", 1, true)
    end)
  end)

  describe("of a stream", function()
    it("is called with the stream", function()
      local held, given
      local client = open(function(stream)
        held = stream
        stream:every(0.001, function(...)
          given = { n = select("#", ...), ... }
          stream:close()
        end)
      end)
      client:wait_end()
      assert.equal(1, given.n)
      assert.is_true(rawequal(held, given[1]))
    end)

    it("stops when its client leaves", function()
      local count, closed = 0, false
      local client, app = open(function(stream)
        stream:every(0.001, function() count = count + 1 end)
        stream:on_close(function() closed = true end)
      end)
      net.wait(function() return count >= 3 end)
      client:close()
      net.wait(function() return closed end)
      local before, ended = count, false
      app:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.equal(before, count)
    end)

    it("stops before on_close is called", function()
      local late, closed = false, false
      local client, app = open(function(stream)
        stream:every(0.001, function() late = late or stream.closed end)
        stream:on_close(function() closed = true end)
      end)
      client:wait "retry: "
      client:shutdown()
      net.wait(function() return closed end)
      local ended
      app:after(0.02, function() ended = true end)
      net.wait(function() return ended end)
      assert.is_false(late)
    end)

    it("is not called any more after the stream's close in the same turn", function()
      local calls = 0
      local client = open(function(stream)
        stream:every(0.001, function() calls = calls + 1 end)
        stream:sleep(0.01)
        busy(5) -- now a tick is due
        calls = 0
        stream:close()
      end)
      client:wait_end()
      assert.equal(0, calls)
    end)

    it("stops by stop, and the stream goes on by what else feeds it", function()
      local count = 0
      local client, _, port = open(function(stream)
        local interval
        interval = stream:every(0.001, function()
          count = count + 1
          if count == 3 then interval:stop() end
        end)
        stream:hold()
      end)
      net.wait(function() return count == 3 end)
      streams.round_trip(port)
      assert.equal(3, count)
      assert.is_false(client.ended)
    end)

    it("leaves other streams' intervals alone", function()
      local counts = { a = 0, b = 0 }
      local _, port = serve(function(app)
        app:stream("/:name", function(stream, request)
          local name = request.params.name
          stream:every(0.001, function() counts[name] = counts[name] + 1 end)
        end)
      end)
      local a, b = net.connect(port):get "/a", net.connect(port):get "/b"
      net.wait(function() return counts.a > 0 and counts.b > 0 end)
      a:close()
      local before = counts.b
      net.wait(function() return counts.b > before + 5 end)
      assert.is_false(b.ended)
    end)

    it("on a stream that is over returns nil, closed", function()
      local held
      local client = open(function(stream)
        held = stream
        stream:close()
      end)
      client:wait_end()
      assert.same({ nil, "closed" }, { held:every(1, never) })
      assert.same({ nil, "closed" }, { held:after(1, never) })
    end)
  end)

  describe("with a bad argument", function()
    local BAD_SECONDS = {
      ["a negative number"] = -1, ["NaN"] = 0 / 0, ["infinity"] = math.huge, ["minus infinity"] = -math.huge,
      ["a string"] = "1", ["a table"] = {}, ["a function first"] = never, ["true"] = true,
    }

    -- Calls a method of an app, and of a stream; returns the messages of both errors, and the line they were made at.
    local function messages(method, ...)
      local held, at
      local client, app = open(function(stream)
        held = stream
        stream:hold()
      end)
      client:wait "retry: "
      local arguments, list = { n = select("#", ...), ... }, {}
      for i, object in ipairs { app, held } do
        local ok, message = pcall(function()
          at = debug.getinfo(1, "l").currentline + 1
          object[method](object, (unpack or table.unpack)(arguments, 1, arguments.n)) -- luacheck: ignore
        end)
        assert.is_false(ok)
        list[i] = message
      end
      return list, ("interval_spec.lua:%d: %s: "):format(at, method)
    end

    for _, method in ipairs { "every", "after" } do
      for name, seconds in pairs(BAD_SECONDS) do
        it(method .. " refuses " .. name .. " as seconds, at the script's line", function()
          local list, start = messages(method, seconds, never)
          for _, message in ipairs(list) do assert.matches(start .. "seconds must be ", message, 1, true) end
        end)
      end

      it(method .. " refuses no seconds", function()
        for _, message in ipairs(messages(method)) do assert.matches("seconds must be a number", message, 1, true) end
      end)

      for name, callback in pairs { ["a string"] = "f", ["a table"] = {}, ["a number"] = 1 } do
        it(method .. " refuses " .. name .. " as its function, at the script's line", function()
          local list, start = messages(method, 1, callback)
          for _, message in ipairs(list) do
            assert.matches(start .. "function expected, got " .. type(callback), message, 1, true)
          end
        end)
      end

      it(method .. " refuses no function", function()
        for _, message in ipairs(messages(method, 1)) do assert.matches("function expected", message, 1, true) end
      end)
    end

    it("every refuses 0 seconds", function()
      for _, message in ipairs(messages("every", 0, never)) do
        assert.matches("seconds must be above 0", message, 1, true)
      end
    end)

    it("makes nothing", function()
      local app = new_app()
      pcall(app.every, app, 1)
      pcall(app.after, app, -1, never)
      app:close { grace = 0 }
    end)
  end)

  it("share turns where a crowd falls due, and skip no tick for it", function()
    local COUNT, EACH_MS, PERIOD, ROUNDS = 1600, 16, 0.4, 3
    local counts, turns, first = {}, {}, nil
    local app = serve(function() end)
    for i = 1, COUNT do
      counts[i] = 0
      app:every(PERIOD, function()
        counts[i] = counts[i] + 1
        if counts[i] == 2 then turns[uv.now()] = true end -- the first round came before there was a crowd
        if i == 1 then first = counts[1] end
      end)
      if i % EACH_MS == 0 then busy(1) end -- so that they fall due over 100 ms
    end
    net.wait(function() return counts[COUNT] == ROUNDS end, "the ticks")
    assert.equal(ROUNDS, first)
    local count = 0
    for _ in pairs(turns) do count = count + 1 end
    assert.is_true(count <= 40, count .. " turns for " .. COUNT .. " ticks over 100 ms")
  end)
end)
