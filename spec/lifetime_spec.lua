-- What outlives what: streams that are held longer than their app, ends that are queued when Lua closes, connections
-- that no one watches for a moment, and an app that closes while requests come in.
local net = require "spec.support.net"
local process = require "spec.support.process"
local streams = require "spec.support.streams"

-- A script that opens one stream of its own, keeps it as `held`, and stops. luv reads nothing: the stream stays open.
local HOLDS = [[
  local uv, eventstream = require "luv", require "eventstream"
  local app = eventstream.new()
  held = nil
  app:stream("/", function(stream) held = stream stream:hold() eventstream.stop() end)
  local listener = assert(app:listen { port = 0 })
  local client = uv.new_tcp()
  client:connect("127.0.0.1", listener.port, function() client:write("GET / HTTP/1.1\r\nHost: x\r\n\r\n") end)
]]

local function ends_cleanly(text, ...)
  local child = streams.script(text)
  for _, line in ipairs { ... } do child:wait_line(line) end
  assert.equal(0, child:wait_exit())
end

describe("lifetime", function()
  after_each(streams.finish)

  it("of an end that is still queued when Lua closes", function()
    ends_cleanly(HOLDS .. [[ eventstream.run() held:close() print "over" ]], "^over$")
  end)

  it("of a stream that an older object's __gc touches while Lua closes", function()
    ends_cleanly([[
      local stream
      local function on_gc()
        local ok, message = pcall(function() return stream.closed end)
        print(ok or message)
      end
      if newproxy then -- Lua 5.1 and LuaJIT call __gc of userdata only
        keeper = newproxy(true)
        getmetatable(keeper).__gc = on_gc
      else
        keeper = setmetatable({}, { __gc = on_gc })
      end ]] .. HOLDS .. [[ eventstream.run() stream = held ]], "the stream is gone: Lua is closing$")
  end)

  it("of a stream whose app is closed and collected", function()
    ends_cleanly(HOLDS .. [[
      eventstream.run()
      app:close { grace = 0 }
      eventstream.run()
      app, listener = nil, nil
      collectgarbage() collectgarbage()
      print(held.closed, held.request.path, next(held.request.params))
      held:on_close(function(reason) print("late", reason) end)
      print(pcall(error, "still here"))
    ]], "^true\t/\tnil$", "^false\tstill here$")
  end)

  it("of an on_close function that a late one registers: each is called once", function()
    local calls, held = {}, nil
    local _, port = streams.serve(function(app)
      app:stream("/", function(stream)
        held = stream
        stream:hold()
      end)
      app:stream("/others", function(stream) stream:hold() end)
    end)
    net.connect(port):get("/others"):wait "retry"
    local client = net.connect(port):get("/")
    client:wait "retry"
    held:close()
    client:wait_end()
    held:on_close(function()
      calls[#calls + 1] = "late"
      held:on_close(function() calls[#calls + 1] = "later" end)
    end)
    net.wait(function() return #calls >= 2 end, "both calls")
    net.settle()
    assert.same({ "late", "later" }, calls)
  end)
end)

describe("a server", function()
  after_each(streams.finish)

  it("goes on where descriptors run out while it has no connection", function()
    local child = process.spawn("sh", { "-c", "ulimit -n 64; exec \"$0\" \"$@\"", process.interpreter(), "-e", [[
      io.stdout:setvbuf "line"
      local eventstream = require "eventstream"
      local app = eventstream.new { limits = { connections = 1 } }
      app:get("/", function() return "served" end)
      local listener = assert(app:listen { port = 0 })
      local files = {}
      local file = io.open "/dev/null"
      while file do
        files[#files + 1] = file
        file = io.open "/dev/null"
      end
      app:after(0.3, function()
        for _, file in ipairs(files) do file:close() end
        print "again"
      end)
      print("port " .. listener.port)
      eventstream.run()
    ]] })
    local port = tonumber((child:wait_line "^port (%d+)$"))
    local refused = net.connect(port):get("/")
    refused:wait "^HTTP/1.1 503 "
    refused:close()
    child:wait_line "^again$"
    net.connect(port):get("/"):wait "served"
    child:kill "sigterm"
    assert.equal(0, child:wait_exit())
  end)

  it("takes a burst of one callback that the client's socket has room for", function()
    local refused = 0
    local client = streams.open(function(stream)
      stream:after(0, function()
        for i = 1, 200 do
          if not stream:send { id = i, data = ("x"):rep(1000) } then refused = refused + 1 end
        end
        stream:send "done"
      end)
    end)
    client:wait "data: done"
    assert.equal(0, refused)
  end)

  it("that closes tells an EventSource whose request comes in meanwhile to come back", function()
    local ran = false
    local app, port = streams.serve(function(app)
      app:stream("/", function(stream)
        ran = true
        stream:hold()
      end)
      app:stream("/open", function(stream) stream:hold() end)
    end)
    local client = net.connect(port):send("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n")
    streams.round_trip(port)
    app:close { grace = 5 }
    client:send "\r\n"
    client:wait_end()
    local status, headers, body = client:answer()
    assert.equal(200, status)
    assert.equal("close", headers.connection)
    assert.truthy(body:find "^retry: %d+\n\n$")
    assert.is_false(ran)
  end)

  it("that closes answers who has just come, and waits no longer than two seconds for what it asks", function()
    local app, port = streams.serve(function(app)
      app:get("/", function() return "hello" end)
    end)
    local fast, silent = net.connect(port), net.connect(port)
    streams.round_trip(port)
    app:close { grace = 3600 }
    fast:get "/"
    fast:wait_end()
    local status, headers = fast:answer()
    assert.equal(503, status)
    assert.matches("^%d+$", headers["retry-after"])
    silent:wait_end()
    assert.equal("", silent.received)
  end)

  it("that closes waits for no body", function()
    local ran = false
    local app, port = streams.serve(function(app)
      app:post("/", function() ran = true end)
    end)
    local head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n"
    local begun, late = net.connect(port):send(head .. "\r\n"), net.connect(port):send(head)
    begun:wait "^HTTP/1.1 100 Continue\r\n\r\n"
    streams.round_trip(port)
    app:close { grace = 3600 }
    late:send "\r\n"
    begun:wait "^HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 "
    late:wait "^HTTP/1.1 503 .*Retry%-After"
    assert.is_false(ran)
  end)

  local function retries(clients)
    local least, most = math.huge, 0
    for _, client in ipairs(clients) do
      client:wait_end()
      local told = tonumber(client.received:match "^HTTP/1.1 200 .*\r\n\r\nretry: (%d+)\n\n$")
      assert(told, client.received)
      least, most = math.min(least, told), math.max(most, told)
    end
    return least, most
  end

  it("that closes spreads whom it sends away before their streams began, too", function()
    local waiting = 0
    local app, port = streams.serve(function(one)
      one:before(function(request)
        if request.path ~= "/" then return end
        waiting = waiting + 1
        require "eventstream".await(function() end)
      end)
      one:stream("/", function(stream) stream:hold() end)
    end, { retry = 100 })
    local asked, late = {}, {}
    for i = 1, 30 do
      asked[i] = net.connect(port):get "/"
      late[i] = net.connect(port):send "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
    end
    net.wait(function() return waiting == 30 end, "30 that wait")
    streams.round_trip(port)
    app:close { grace = 5, spread = 30 }
    for _, client in ipairs(late) do client:send "\r\n" end
    for _, clients in ipairs { asked, late } do
      local least, most = retries(clients)
      assert(most > 10000 and most <= 30000, most)
      assert(least < 20000, least)
    end
  end)

  it("that closes tells no 200 to a POST whose stream has not begun", function()
    local waits
    local app, port = streams.serve(function(one)
      one:stream("/", { methods = { "POST" } }, function()
        waits = true
        require "eventstream".await(function() end)
      end)
    end)
    local client = net.connect(port):request("POST", "/", { "Accept: text/event-stream" }, "a message")
    net.wait(function() return waits end, "its handler")
    app:close()
    local status, fields = client:take()
    assert.equal(503, status)
    assert.matches("^%d+$", fields["retry-after"])
  end)

  it("that closes answers what a kept connection has asked already", function()
    local app, port = streams.serve(function(app)
      app:get("/", function() return "hello" end)
    end)
    local client = net.connect(port):get "/"
    client:wait "hello"
    client.handle:try_write "GET / HTTP/1.1\r\nHost: a\r\n\r\n" -- it is there, and not read
    app:close { grace = 3600 }
    client:wait_end()
    assert.equal(nil, client.failure)
    assert.matches("hello.*HTTP/1%.1 503 .*Retry%-After", client.received)
  end)

  it("that closes waits for no kept connection whose last answer was still queued", function()
    local closing
    local app, port
    app, port = streams.serve(function(a)
      a:get("/", function()
        a:after(0, function() end)
        closing = true
        app:close { grace = 8 }
        return "bye"
      end)
    end)
    local client = net.connect(port):get("/")
    client:wait "bye"
    client:wait_end()
    assert.is_true(closing)
  end)

  it("cuts sooner where close is called again with less grace", function()
    local app, port = streams.serve(function(app)
      app:get("/", function() return (require "eventstream".await(function() end)) end)
    end)
    local client = net.connect(port):get("/")
    streams.round_trip(port)
    app:close { grace = 3600 }
    app:close { grace = 0 }
    client:wait_end()
  end)

  it("refuses CONNECT", function()
    local _, port = streams.serve(function() end)
    local client = net.connect(port):send("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\nContent-Length: 3\r\n\r\nGET")
    client:wait_end()
    assert.equal(501, (client:answer()))
  end)
end)
