--- The loop: driven by luv beside luv's own handles, by the core itself, by a bare while loop, and by cqueues; how it
-- starts, how it stops, and what signals and the script's end do to it.

local uv = require "luv"
local net = require "spec.support.net"
local process = require "spec.support.process"
local streams = require "spec.support.streams"
local eventstream = require "eventstream"

local LAST_CHUNK = "\r\n0\r\n\r\n$"
local DRIVERS = { "with luv", "without luv" }

local function never() end

-- Whether the suite's Lua has a module; asked of another process, so that this one stays as it is.
local function has(module)
  local child = process.lua { "-e", ("os.exit(pcall(require, %q) and 0 or 1)"):format(module) }
  return child:wait_exit() == 0
end

local function linux()
  local file = io.open "/proc/self/status"
  return file and file:close() and true
end

-- A server by one of the drivers.
local function server(text, driver)
  return streams.server(text, driver == "without luv" and driver or nil)
end

local function script(text, driver)
  return streams.script(text, driver == "without luv" and driver or nil)
end

-- Waits for a child's orderly end.
local function ends_well(child)
  local code, signal = child:wait_exit()
  assert.same({ 0, 0, "" }, { code, signal, child.stderr })
end

describe("loop", function()
  after_each(streams.finish)

  describe(".timeout", function()
    it("is nil where nothing is to do", function()
      assert.is_nil(eventstream.loop.timeout())
    end)

    it("is nil where only clients can make work", function()
      streams.serve(never)
      net.settle()
      assert.is_nil(eventstream.loop.timeout())
    end)

    it("is the seconds until the next timer", function()
      local app = streams.serve(never)
      app:after(20, never)
      app:after(10, never)
      net.settle()
      local timeout = eventstream.loop.timeout()
      assert.is_true(timeout > 5 and timeout <= 10, tostring(timeout))
    end)

    it("is 0 where a timer is due", function()
      local app = streams.serve(never)
      app:after(0, never)
      assert.equal(0, eventstream.loop.timeout())
    end)

    it("follows the clock, also when no turn was taken", function()
      local app = streams.serve(never)
      app:after(10, never)
      net.settle()
      local before = eventstream.loop.timeout()
      local start = uv.hrtime()
      repeat until uv.hrtime() - start > 10e6
      assert.is_true(eventstream.loop.timeout() < before)
    end)
  end)

  describe(".fd", function()
    it("is a descriptor, always the same", function()
      local fd = eventstream.loop.fd()
      assert.is_true(fd >= 0)
      assert.equal(fd, eventstream.loop.fd())
    end)
  end)

  describe(".turn", function()
    it("runs what is due, and returns how often it called Lua", function()
      local app, count = streams.serve(never), 0
      for _ = 1, 3 do app:after(0, function() count = count + 1 end) end
      local calls = 0
      while count < 3 do calls = calls + eventstream.loop.turn() end
      assert.equal(3, calls)
    end)

    it("returns 0 at once where nothing is due", function()
      local app = streams.serve(never)
      app:after(60, never)
      net.settle()
      assert.equal(0, eventstream.loop.turn())
    end)

    it("inside a turn does nothing and returns 0", function()
      local app, order, inside = streams.serve(never), {}, nil
      app:after(0, function()
        inside = eventstream.loop.turn()
        order[#order + 1] = "first"
      end)
      app:after(0, function() order[#order + 1] = "second" end)
      net.wait(function() return #order == 2 end)
      assert.equal(0, inside)
      assert.same({ "first", "second" }, order)
    end)

    it("inside a handler does nothing and returns 0", function()
      local inside
      local client = streams.open(function(stream)
        stream:send "x"
        inside = eventstream.loop.turn()
      end)
      client:wait_end()
      assert.equal(0, inside)
    end)
  end)

  describe("driven by luv", function()
    it("runs beside a luv timer, a luv TCP client and a luv child process under one uv.run", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app = eventstream.new()
        local stream
        app:stream("/", function(s)
          stream = s
          s:hold()
        end)
        local port = app:listen { port = 0 }.port

        local client, received = uv.new_tcp(), ""
        client:connect("127.0.0.1", port, function(err)
          assert(not err, err)
          client:write "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
          client:read_start(function(_, bytes)
            if not bytes then
              client:close()
              return
            end
            received = received .. bytes
          end)
        end)

        local timer, ticks = uv.new_timer(), 0
        timer:start(1, 1, function()
          if not stream then return end
          ticks = ticks + 1
          stream:send("tick " .. ticks)
          if ticks < 3 then return end
          timer:close()
          local pipe = uv.new_pipe(false)
          local child
          local options = { args = { "from a child" }, stdio = { nil, pipe, nil } }
          child = uv.spawn("echo", options, function() child:close() end)
          pipe:read_start(function(_, bytes)
            if bytes then return stream:send(bytes) end
            pipe:close()
            app:close { grace = 5 }
          end)
        end)

        uv.run()
        assert(received:find "data: tick 1\n.*data: tick 2\n.*data: tick 3\n.*data: from a child\n", received)
        assert(received:find "\r\n0\r\n\r\n$", received)
        print "done"
      ]]
      child:wait_line "^done$"
      ends_well(child)
    end)

    it("does not keep luv's loop alive when it has nothing to do", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app = eventstream.new()
        local listener = app:listen { port = 0 }
        app:after(0.01, function() listener:close() end)
        uv.run()
        print "done"
      ]]
      child:wait_line "^done$"
      ends_well(child)
    end)

    it("keeps luv's loop alive again when there is something new to do", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app = eventstream.new()
        for i = 1, 3 do
          app:after(0.005, function() print("ran " .. i) end)
          uv.run()
        end
      ]]
      for i = 1, 3 do child:wait_line("^ran " .. i .. "$") end
      ends_well(child)
    end)

    it("is woken by a luv callback that makes work", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app = eventstream.new()
        local keep = app:after(60, function() end)
        local timer = uv.new_timer()
        timer:start(20, 0, function()
          timer:close()
          app:after(0.01, function()
            print "ran"
            keep:stop()
          end)
        end)
        uv.run()
      ]]
      child:wait_line("^ran$", 10)
      ends_well(child)
    end)
  end)

  describe("driven by a bare while loop", function()
    it("serves, without luv", function()
      local child, port = server([[
        local eventstream = require "eventstream"
        assert(not pcall(require, "luv"))
        local app, stopped = eventstream.new(), false
        app:stream("/", function(stream)
          for i = 1, 3 do
            stream:send(i)
            stream:sleep(0.001)
          end
        end)
        app:get("/stop", function()
          app:close()
          stopped = true
          return "stopping"
        end)
        print("port " .. app:listen { port = 0 }.port)
        local loop, calls = eventstream.loop, 0
        assert(loop.fd() >= 0)
        while not stopped or loop.timeout() do calls = calls + loop.turn() end
        print("calls " .. calls)
      ]], "without luv")
      local client = net.connect(port):get "/"
      client:wait_end()
      client:wait("\ndata: 1\n.*\ndata: 2\n.*\ndata: 3\n\n" .. LAST_CHUNK)
      client:close()
      local stop = net.connect(port):get "/stop"
      stop:wait "stopping"
      stop:close()
      assert.is_true(tonumber(child:wait_line "^calls (%d+)$") >= 5)
      ends_well(child)
    end)
  end)

  describe("driven by cqueues", function()
    -- A script whose only driver is cqueues, through its polling protocol: an object with pollfd, events and timeout.
    local PRELUDE = [[
      local cqueues, condition = require "cqueues", require "cqueues.condition"
      local eventstream = require "eventstream"
      local loop = eventstream.loop
      local app, over, begun = eventstream.new(), false, condition.new()
      local driver = {}
      function driver:pollfd() return loop.fd() end
      function driver:events() return "r" end
      function driver:timeout() return loop.timeout() end
      local queue = cqueues.new()
      queue:wrap(function()
        while not over do
          cqueues.poll(driver)
          loop.turn()
        end
      end)
    ]]
    local with_cqueues = has "cqueues"

    local function check(name, body)
      it(name, function()
        if not with_cqueues then return pending "cqueues is not installed" end
        body()
      end)
    end

    check("serves streams and cqueues' own timers", function()
      local child, port = server(PRELUDE .. [[
        local stream
        app:stream("/", function(s)
          s:every(0.001, function() s:send "tick" end)
          stream = s
          begun:signal()
          s:sleep(60)
          over = true
        end)
        print("port " .. app:listen { port = 0 }.port)
        queue:wrap(function()
          begun:wait()
          for i = 1, 3 do
            cqueues.sleep(0.01)
            stream:send("cqueues " .. i)
          end
        end)
        assert(queue:loop())
      ]], "without luv")
      local client = net.connect(port):get "/"
      client:wait "\ndata: tick\n.*\ndata: cqueues 1\n.*\ndata: cqueues 2\n.*\ndata: cqueues 3\n"
      client:wait "cqueues 3\n.*\ndata: tick\n"
      client:close()
      ends_well(child)
    end)

    check("with luv installed too", function()
      local child, port = server(PRELUDE .. [[
        app:stream("/", function(s)
          s:every(0.001, function() s:send "tick" end)
          s:sleep(60)
          over = true
        end)
        print("port " .. app:listen { port = 0 }.port)
        assert(queue:loop())
      ]])
      local client = net.connect(port):get "/"
      client:wait "\ndata: tick\n.*\ndata: tick\n"
      client:close()
      ends_well(child)
    end)

    -- Work made by another coroutine of cqueues', while the driver waits with a timeout that it read before.
    describe("is woken by work outside a turn:", function()
      local ALONE = PRELUDE .. [[
        app:after(60, function() end) -- the timeout that the driver has read
        queue:wrap(function()
          -- the driver's coroutine came first, and waits
          WORK
        end)
        assert(queue:loop())
      ]]

      local function alone(work)
        return script(ALONE:gsub("WORK", (work:gsub("%%", "%%%%"))), "without luv")
      end

      check("app:after", function()
        local child = alone [[
          local start = cqueues.monotime()
          app:after(0.05, function()
            print("took " .. cqueues.monotime() - start)
            over = true
          end)
        ]]
        local took = tonumber(child:wait_line("^took (.*)$", 10))
        assert.is_true(took < 5, took .. " s")
        ends_well(child)
      end)

      check("app:every", function()
        local child = alone [[
          local count = 0
          app:every(0.001, function()
            count = count + 1
            if count < 3 then return end
            print "ticked"
            over = true
          end)
        ]]
        child:wait_line("^ticked$", 10)
        ends_well(child)
      end)

      check("app:listen", function()
        local child = alone [[
          app:get("/stop", function()
            over = true
            return "stopping"
          end)
          print("port " .. app:listen { port = 0 }.port)
        ]]
        local client = net.connect(tonumber(child:wait_line "^port (%d+)$")):get "/stop"
        client:wait "stopping"
        ends_well(child)
      end)

      -- The same with a stream that is open.
      local OPEN = PRELUDE .. [[
        local stream
        app:stream("/", function(s)
          stream = s
          begun:signal()
          s:on_close(function() over = true end)
          HANDLER
        end)
        print("port " .. app:listen { port = 0 }.port)
        queue:wrap(function()
          begun:wait()
          WORK
        end)
        assert(queue:loop())
      ]]

      local function with_stream(work, handler)
        local text = OPEN:gsub("HANDLER", handler or "s:hold()"):gsub("WORK", work)
        local child, port = server(text, "without luv")
        return child, net.connect(port):get "/"
      end

      check("stream:send", function()
        local child, client = with_stream [[ stream:send "from outside" ]]
        client:wait "\ndata: from outside\n"
        client:close()
        ends_well(child)
      end)

      check("stream:close", function()
        local child, client = with_stream [[ stream:close() ]]
        client:wait_end()
        client:wait(LAST_CHUNK)
        client:close()
        ends_well(child)
      end)

      check("app:close", function()
        local child, client = with_stream [[ app:close() ]]
        client:wait_end()
        client:wait(LAST_CHUNK)
        client:close()
        ends_well(child)
      end)

      check("stream:every", function()
        local child, client = with_stream [[ stream:every(0.001, function(s) s:send "tick" end) ]]
        client:wait "\ndata: tick\n.*\ndata: tick\n"
        client:close()
        ends_well(child)
      end)

      check("the resume of an await", function()
        local child, client = with_stream([[ resume "resumed" ]],
          [[ s:send(eventstream.await(function(r) resume = r end)) ]])
        client:wait "\ndata: resumed\n"
        client:close()
        ends_well(child)
      end)

      check("an on_close that comes after the end", function()
        local child, port = server(PRELUDE .. [[
          app:stream("/", function(stream)
            stream:send "x"
            stream:on_close(function() begun:signal() end)
            kept = stream
          end)
          print("port " .. app:listen { port = 0 }.port)
          queue:wrap(function()
            begun:wait()
            kept:on_close(function(reason)
              print("late " .. reason)
              over = true
            end)
          end)
          assert(queue:loop())
        ]], "without luv")
        net.connect(port):get "/"
        child:wait_line("^late server$", 10)
        ends_well(child)
      end)
    end)
  end)

  describe("run", function()
    it("inside a turn is an error of the script", function()
      local app, ok, message = streams.serve(never), nil, nil
      app:after(0, function() ok, message = pcall(eventstream.run) end)
      net.wait(function() return message end)
      assert.is_false(ok)
      assert.matches("run: the loop runs already; call run once, at the script's end", message, 1, true)
    end)

    it("inside a luv callback under run is an error of the script", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app, timer = eventstream.new(), uv.new_timer()
        app:after(60, function() end)
        timer:start(0, 0, function()
          print(select(2, pcall(eventstream.run)))
          eventstream.stop()
        end)
        eventstream.run()
      ]]
      child:wait_line "run: the loop runs already"
      ends_well(child)
    end)

    for _, driver in ipairs(DRIVERS) do
      describe(driver, function()
        it("serves", function()
          local child, port = server([[
            local eventstream = require "eventstream"
            assert(not eventstream.loop.timeout())
            local app = eventstream.new()
            app:stream("/", function(stream)
              stream:every(0.001, function() stream:send "tick" end)
              stream:on_close(function() app:close() end)
            end)
            print("port " .. app:listen { port = 0 }.port)
            eventstream.run()
            print "returned"
          ]], driver)
          local client = net.connect(port):get "/"
          client:wait "\ndata: tick\n.*\ndata: tick\n"
          client:close()
          child:wait_line "^returned$"
          ends_well(child)
        end)

        it("serves by app:serve, which says where it listens", function()
          local child = script([[
            local app = require "eventstream".new()
            app:stream("/", function(stream) stream:send "x" end)
            return app:serve { port = 0 }
          ]], driver)
          local port = tonumber(child:wait_line "^eventstream: listening on http://127%.0%.0%.1:(%d+)/$")
          local client = net.connect(port):get "/"
          client:wait_end()
          client:wait "\ndata: x\n"
          client:close()
          child:kill "sigint"
          assert.equal(0, (child:wait_exit()))
        end)

        it("raises where nothing is to do", function()
          local child = script([[
            local eventstream = require "eventstream"
            local app = eventstream.new()
            eventstream.run()
          ]], driver)
          assert.equal(1, (child:wait_exit()))
          assert.matches("(command line):3: run: nothing to do: no app listens and no interval runs", child.stderr, 1,
            true)
        end)

        it("raises where nothing is to do, and names the last listen that failed", function()
          local _, port = streams.serve(never)
          local child = script(([[
            local eventstream = require "eventstream"
            local app = eventstream.new()
            print(select("#", app:listen { port = %d }))
            eventstream.run()
          ]]):format(port), driver)
          child:wait_line "^2$"
          assert.equal(1, (child:wait_exit()))
          assert.matches("run: nothing to do", child.stderr, 1, true)
          assert.matches("listen: EADDRINUSE: address already in use: 127.0.0.1:" .. port, child.stderr, 1, true)
        end)

        it("returns when nothing is left to do", function()
          local child = script([[
            local eventstream = require "eventstream"
            eventstream.new():after(0.01, function() print "ran" end)
            eventstream.run()
            print "returned"
          ]], driver)
          child:wait_line "^ran$"
          child:wait_line "^returned$"
          ends_well(child)
        end)

        it("returns on stop in a callback, though an app listens", function()
          local child = script([[
            local eventstream = require "eventstream"
            local app = eventstream.new()
            app:listen { port = 0 }
            app:after(0.01, function()
              eventstream.stop()
              print "the callback goes on"
            end)
            eventstream.run()
            print "returned"
          ]], driver)
          child:wait_line "^the callback goes on$"
          child:wait_line "^returned$"
          ends_well(child)
        end)

        it("returns on stop in a handler", function()
          local child, port = server([[
            local eventstream = require "eventstream"
            local app = eventstream.new()
            app:stream("/", function(stream)
              stream:send "x"
              stream:sleep(0.01)
              eventstream.stop()
              stream:sleep(60)
            end)
            print("port " .. app:listen { port = 0 }.port)
            eventstream.run()
            print "returned"
          ]], driver)
          net.connect(port):get "/"
          child:wait_line "^returned$"
          ends_well(child)
        end)

        it("may be called again after stop", function()
          local child = script([[
            local eventstream = require "eventstream"
            local app = eventstream.new()
            app:listen { port = 0 }
            for i = 1, 3 do
              app:after(0.001, eventstream.stop)
              eventstream.run()
              print("returned " .. i)
            end
          ]], driver)
          for i = 1, 3 do child:wait_line("^returned " .. i .. "$") end
          ends_well(child)
        end)

        -- A timer that is due when a turn begins rings before the turn looks at its sockets. In a chain of timers that
        -- are each overdue when set, every second one is such a timer.
        local CHAIN = [[
          local eventstream = require "eventstream"
          local app = eventstream.new()
          local channel = app:channel("c", { flush = 0.001 })
          app:stream("/", function(stream)
            local count = 0
            local function step()
              local due = os.clock() + 0.01
              count = count + 1
              if count == %d then return %s end
              app:after(0.001, step)
              while os.clock() < due do end
            end
            stream:subscribe(channel)
            app:after(0.001, step)
            stream:sleep(60)
          end)
          print("port " .. app:listen { port = 0 }.port)
          eventstream.run()
          print "returned"
        ]]

        for count = 4, 5 do
          local where = " in the timer " .. count .. " of a chain of overdue ones"

          it("returns on stop" .. where, function()
            local child, port = server(CHAIN:format(count, "eventstream.stop()"), driver)
            net.connect(port):get "/"
            child:wait_line "^returned$"
            ends_well(child)
          end)

          for _, call in ipairs { "stream:send 'due'", "channel:publish 'due'" } do
            it("does at once " .. call .. where, function()
              local child, port = server(CHAIN:format(count, call), driver)
              net.connect(port):get("/"):wait "data: due\n"
              child:kill "sigkill"
              child:wait_exit()
            end)
          end
        end

        it("returns when every app is closed", function()
          local child = script([[
            local eventstream = require "eventstream"
            local one, other = eventstream.new(), eventstream.new()
            one:listen { port = 0 }
            other:listen { port = 0 }
            one:after(0.001, function()
              print "one"
              one:close()
            end)
            other:after(0.02, function()
              print "other"
              other:close()
            end)
            eventstream.run()
            print "returned"
          ]], driver)
          for _, line in ipairs { "one", "other", "returned" } do child:wait_line("^" .. line .. "$") end
          ends_well(child)
        end)

        it("gives its signals back when it returns", function()
          local child = script([[
            local eventstream = require "eventstream"
            eventstream.new():after(0.001, function() end)
            eventstream.run()
            print "returned"
            while true do end
          ]], driver)
          child:wait_line "^returned$"
          child:kill "sigterm"
          local _, signal = child:wait_exit(10)
          assert.equal(15, signal)
        end)
      end)
    end

    it("returns when every app is closed, though luv handles still live", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app, timer = eventstream.new(), uv.new_timer()
        timer:start(60000, 60000, function() end)
        app:listen { port = 0 }
        app:after(0.01, function() app:close() end)
        eventstream.run()
        print "returned"
      ]]
      child:wait_line("^returned$", 10)
      ends_well(child)
    end)

    it("runs luv's handles", function()
      local child = script [[
        local uv = require "luv"
        local eventstream = require "eventstream"
        local app, timer = eventstream.new(), uv.new_timer()
        app:listen { port = 0 }
        timer:start(1, 0, function()
          print "luv's timer"
          app:close()
        end)
        eventstream.run()
      ]]
      child:wait_line "^luv's timer$"
      ends_well(child)
    end)
  end)

  for _, driver in ipairs(DRIVERS) do
    for _, signal in ipairs { "sigint", "sigterm" } do
      describe(signal .. " " .. driver, function()
        local SERVER = [[
          local eventstream = require "eventstream"
          local app = eventstream.new()
          app:stream("/", function(stream)
            stream:send "x"
            stream:on_close(function(reason) print("closed " .. reason) end)
            print("sleep " .. tostring(stream:sleep(60)))
          end)
          app:stream("/flood", function(stream)
            stream:on_close(function(reason) print("closed " .. reason) end)
            while true do stream:send(("x"):rep(10000)) end
          end)
          print("port " .. app:listen { port = 0 }.port)
          eventstream.run()
          print "returned"
        ]]

        it("ends run in order: streams get their last chunk, handlers are told, the exit code is 0", function()
          local child, port = server(SERVER, driver)
          local clients = {}
          for i = 1, 3 do
            clients[i] = net.connect(port):get "/"
            clients[i]:wait "\ndata: x\n"
          end
          child:kill(signal)
          for _, client in ipairs(clients) do
            client:wait_end()
            client:wait("\nretry: %d+\n\n" .. LAST_CHUNK)
            client:close()
          end
          for _ = 1, 3 do
            child:wait_line "^sleep nil$"
            child:wait_line "^closed server$"
          end
          child:wait_line "^returned$"
          ends_well(child)
        end)

        it("ends run at once where no client is there", function()
          local child, port = server(SERVER, driver)
          streams.round_trip(port) -- so that it runs
          child:kill(signal)
          child:wait_line("^returned$", 10)
          ends_well(child)
        end)

        it("a second time does not wait for clients that do not read", function()
          local child, port = server(SERVER, driver)
          local client = net.connect(port):get "/flood"
          client:wait "xxxx"
          client:pause()
          child:kill(signal)
          child:wait_line "^closed server$"
          child:kill(signal)
          child:wait_line("^returned$", 3)
          ends_well(child)
        end)
      end)
    end

    -- The script ends in the middle of things; its Lua state is closed, and nothing may hang, crash or be said.
    describe("the script's end " .. driver, function()
      local SERVER = [[
        local eventstream = require "eventstream"
        local app = eventstream.new { limits = { callback_seconds = false } } -- on a machine with more to do, too
        local streams = 0
        local function leave()
          pcall(os.exit, true, true)
          os.exit(0) -- Lua 5.1
        end
        local function count(stream)
          stream:on_close(function() print "on_close was called" end)
          stream:send "x"
          streams = streams + 1
        end
        app:stream("/sleeps", function(stream)
          count(stream)
          stream:sleep(60)
          print "the handler was resumed"
        end)
        app:stream("/holds", function(stream)
          count(stream)
          stream.data = stream
          stream:hold()
        end)
        app:stream("/ticks", function(stream)
          count(stream)
          stream:every(60, function() print "the interval was called" end)
        end)
        app:stream("/awaits", function(stream)
          count(stream)
          kept = stream
          eventstream.await(function(resume) kept_resume = resume end)
          print "the handler was resumed"
        end)
        app:stream("/backlog", function(stream)
          count(stream)
          while stream:send(("x"):rep(10000)) do end
          print "the handler was resumed"
        end)
        app:stream("/exits", function(stream)
          count(stream)
          leave()
        end)
        app:stream("/exits_late", function(stream)
          count(stream)
          stream:sleep(0)
          leave()
        end)
        app:stream("/exits_in_interval", function(stream)
          count(stream)
          stream:after(0, function() leave() end)
        end)
        app:stream("/exits_in_on_close", function(stream)
          stream:send "x"
          stream:on_close(function() leave() end)
          stream:on_close(function() print "on_close was called" end)
        end)
        app:get("/exits_plain", function() leave() end)
        app:get("/exits_await", function()
          eventstream.await(function() leave() end)
        end)
        print("port " .. app:listen { port = 0 }.port)
      ]]

      local OPEN = { "/sleeps", "/holds", "/ticks", "/awaits", "/backlog" }

      local function open_all(port)
        for _, path in ipairs(OPEN) do
          local client = net.connect(port):get(path)
          client:wait "\ndata: x\n"
          if path == "/backlog" then client:pause() end
        end
      end

      local function ends_silently(child)
        local code, signal = child:wait_exit()
        assert.same({ 0, 0, "" }, { code, signal, child.stderr })
        assert.equal(1, #child.lines, table.concat(child.lines, "\n")) -- the port
      end

      it("while streams are open is clean", function()
        local child, port = server(SERVER .. [[
          app:get("/end", function() eventstream.stop() end)
          eventstream.run()
        ]], driver)
        open_all(port)
        net.connect(port):get "/end"
        ends_silently(child)
      end)

      it("before the loop ever ran is clean", function()
        ends_silently((server(SERVER, driver)))
      end)

      it("in the middle of turns is clean", function()
        local child, port = server(SERVER .. [[
          while streams < 5 do eventstream.loop.turn() end
        ]], driver)
        for _, path in ipairs(OPEN) do
          local client = net.connect(port):get(path)
          if path == "/backlog" then client:pause() end
        end
        ends_silently(child)
      end)

      it("by os.exit after run is clean", function()
        local child, port = server(SERVER .. [[
          app:get("/end", function() eventstream.stop() end)
          eventstream.run()
          leave()
        ]], driver)
        open_all(port)
        net.connect(port):get "/end"
        ends_silently(child)
      end)

      it("by an error after run is clean", function()
        local child, port = server(SERVER .. [[
          app:get("/end", function() eventstream.stop() end)
          eventstream.run()
          error("the script's own", 0)
        ]], driver)
        open_all(port)
        net.connect(port):get "/end"
        assert.same({ 1, 0 }, { child:wait_exit() })
        assert.matches("^[^\n]*the script's own\n", child.stderr)
      end)

      for path, where in pairs {
        ["/exits"] = "a handler", ["/exits_late"] = "a handler that has waited",
        ["/exits_in_interval"] = "an interval", ["/exits_in_on_close"] = "an on_close function",
        ["/exits_plain"] = "a plain handler", ["/exits_await"] = "the function that await is given",
      } do
        it("by os.exit in " .. where .. " is clean", function()
          local child, port = server(SERVER .. [[
            eventstream.run()
          ]], driver)
          open_all(port)
          net.connect(port):get(path)
          ends_silently(child)
        end)
      end
    end)
  end

  describe("SIGPIPE", function()
    it("is ignored from the module's loading on, if its action was the default", function()
      if not linux() then return pending "reads /proc" end
      local child = script([[
        local function ignored()
          local file = io.open "/proc/self/status"
          local mask = file:read "*a":match "\nSigIgn:%s*(%x+)"
          file:close()
          return math.floor(tonumber(mask:sub(-4), 16) / 2 ^ 12) % 2 == 1 -- signal 13
        end
        local before = ignored()
        require "eventstream"
        print(before, ignored())
      ]], "without luv")
      child:wait_line "^false%s+true$"
      ends_well(child)
    end)

    for _, driver in ipairs(DRIVERS) do
      it("does not end a server that writes to peers which are gone, " .. driver, function()
        local child, port = server([[
          local eventstream = require "eventstream"
          local app = eventstream.new()
          app:stream("/", function(stream)
            while true do
              stream:send(("x"):rep(1000))
              stream:flush()
            end
          end)
          print("port " .. app:listen { port = 0 }.port)
          eventstream.run()
        ]], driver)
        for _ = 1, 20 do
          local client = net.connect(port):get "/"
          client:wait "xxx"
          client:reset()
        end
        net.connect(port):get("/none"):wait "^HTTP/1.1 404 "
        child:kill "sigterm"
        ends_well(child)
      end)
    end
  end)
end)
