--- A stream's life: what goes out when, how long it stays open, how it ends, and what a script sees of it.

local net = require "spec.support.net"
local streams = require "spec.support.streams"
local eventstream = require "eventstream"

local open, serve = streams.open, streams.serve

local HEAD = "^HTTP/1%.1 200 OK\r\n.-\r\n\r\n"
local FIRST_BYTES = HEAD .. "%x+\r\nretry: %d+\n\n\r\n"
local LAST_CHUNK = "\r\n0\r\n\r\n$"

-- A function that appends to a list, and the list.
local function logger()
  local list = {}
  return function(...)
    local words = { ... }
    for i = 1, select("#", ...) do words[i] = tostring(words[i]) end
    list[#list + 1] = table.concat(words, " ")
  end, list
end

local function wait_count(list, count)
  net.wait(function() return #list >= count end, function()
    return ("%d entries; so far: %s"):format(count, table.concat(list, ", "))
  end)
end

local function never() end

describe("stream", function()
  after_each(streams.finish)

  describe("head and first byte", function()
    it("go out at the first send, before its event", function()
      local client = open(function(stream)
        stream:send "x"
        eventstream.await(never)
      end)
      client:wait(FIRST_BYTES .. "%x+\r\ndata: x\n\n\r\n$")
    end)

    it("go out at the first comment", function()
      local client = open(function(stream)
        stream:comment "x"
        eventstream.await(never)
      end)
      client:wait(FIRST_BYTES .. "%x+\r\n: x\n\n\r\n$")
    end)

    it("go out at the first sleep", function()
      local client = open(function(stream) stream:sleep(60) end)
      client:wait(FIRST_BYTES .. "$")
    end)

    it("go out at a flush", function()
      local client = open(function(stream)
        stream:flush()
        eventstream.await(never)
      end)
      client:wait(FIRST_BYTES .. "$")
    end)

    it("go out at the handler's return", function()
      local client = open(function(stream) stream:hold() end)
      client:wait(FIRST_BYTES .. "$")
    end)

    it("go out at close", function()
      local client = open(function(stream)
        stream:close()
        eventstream.await(never)
      end)
      client:wait_end()
      client:wait(FIRST_BYTES .. "0\r\n\r\n$")
    end)

    it("do not go out at await", function()
      local resume
      local client, _, port = open(function(stream)
        eventstream.await(function(r) resume = r end)
        stream:send "x"
      end)
      net.wait(function() return resume end)
      streams.round_trip(port)
      assert.equal("", client.received)
      resume()
      client:wait(FIRST_BYTES .. "%x+\r\ndata: x\n\n\r\n")
    end)

    it("do not go out at every, after, hold and on_close", function()
      local waits
      local client, _, port = open(function(stream)
        stream:every(60, never)
        stream:after(60, never)
        stream:hold()
        stream:on_close(never)
        waits = true
        eventstream.await(never)
      end)
      net.wait(function() return waits end)
      streams.round_trip(port)
      assert.equal("", client.received)
    end)

    it("are the head and a comment where the app has no retry", function()
      local client = open(function(stream) stream:hold() end, { retry = false })
      client:wait(HEAD .. "%x+\r\n:[^\n]*\n\n\r\n$")
    end)

    it("go out once", function()
      local client = open(function(stream)
        stream:send "a"
        stream:flush()
        stream:sleep(0)
        stream:send "b"
      end)
      local received = client:wait_end()
      assert.equal(1, select(2, received:gsub("HTTP/1%.1 200", "")))
      assert.equal(1, select(2, received:gsub("retry: ", "")))
    end)
  end)

  describe("that nothing feeds", function()
    it("ends when the handler returns, with its last chunk", function()
      local client = open(function(stream) stream:send "x" end)
      client:wait_end()
      client:wait("\ndata: x\n\n" .. LAST_CHUNK)
    end)

    it("ends when the last of its intervals stops after the handler's return", function()
      local first, second, held
      local client, _, port = open(function(stream)
        first, second, held = stream:every(60, never), stream:every(60, never), stream
      end)
      client:wait(FIRST_BYTES)
      first:stop()
      streams.round_trip(port)
      assert.is_false(held.closed)
      second:stop()
      client:wait_end()
      client:wait(LAST_CHUNK)
    end)

    it("ends when its one after has fired", function()
      local client = open(function(stream)
        stream:after(0.01, function(s) s:send "late" end)
      end)
      client:wait_end()
      client:wait("\ndata: late\n\n" .. LAST_CHUNK)
    end)

    it("does not end while an after that fires makes another", function()
      local client = open(function(stream)
        stream:after(0, function(s)
          s:send "first"
          s:after(0, function() s:send "second" end)
        end)
      end)
      client:wait_end()
      client:wait("\ndata: first\n\n.*\ndata: second\n\n" .. LAST_CHUNK)
    end)

    it("does not end by an interval's stop while the handler runs", function()
      local client = open(function(stream)
        stream:every(60, never):stop()
        stream:sleep(0)
        stream:send "still here"
      end)
      client:wait "\ndata: still here\n"
    end)
  end)

  describe("stays open after the handler's return", function()
    it("by every", function()
      local count = 0
      local client = open(function(stream)
        stream:every(0.001, function(s)
          count = count + 1
          s:send(count)
        end)
      end)
      client:wait "\ndata: 1\n.*\ndata: 2\n.*\ndata: 3\n"
      assert.is_false(client.ended)
    end)

    it("by after", function()
      local client, _, port = open(function(stream) stream:after(60, never) end)
      client:wait(FIRST_BYTES)
      streams.round_trip(port)
      assert.is_false(client.ended)
    end)

    it("by hold", function()
      local held
      local client, _, port = open(function(stream)
        stream:hold()
        held = stream
      end)
      client:wait(FIRST_BYTES)
      streams.round_trip(port)
      assert.is_false(held.closed)
      held:send "from outside"
      client:wait "\ndata: from outside\n"
    end)
  end)

  describe("hint", function()
    local SERVER = [[
      local eventstream = require "eventstream"
      local app = eventstream.new()
      app:stream("/empty", function() end)
      app:stream("/other/:name", function() end)
      app:stream("/sleeps", function(stream) stream:sleep(0) end)
      app:stream("/sends", function(stream) stream:send "x" end)
      app:stream("/holds", function(stream) stream:hold() end)
      app:stream("/ticks", function(stream) stream:after(0, function() end) end)
      app:stream("/closes", function(stream) stream:close() end)
      print("port " .. app:listen { port = 0 }.port)
      eventstream.run()
    ]]

    local function hints(...)
      local child, port = streams.server(SERVER)
      for _, path in ipairs { ... } do
        local client = net.connect(port):get(path)
        if path == "/holds" then client:wait "retry: " else client:wait_end() end
      end
      child:kill "sigterm"
      assert.equal(0, (child:wait_exit()))
      return child.stderr
    end

    it("says once a route that a handler returned and fed nothing", function()
      local stderr = hints("/empty", "/empty", "/other/a", "/other/b", "/empty")
      assert.equal(1, select(2, stderr:gsub("GET /empty ", "")))
      assert.equal(1, select(2, stderr:gsub("GET /other/:name ", "")))
      assert.equal(2, select(2, stderr:gsub("\n", "")))
    end)

    it("says how to keep the stream open", function()
      assert.matches("stream:every, stream:hold or a loop around stream:sleep", hints "/empty", 1, true)
    end)

    it("is told of a handler that only slept", function()
      assert.matches("GET /sleeps ", hints "/sleeps", 1, true)
    end)

    it("is not told where something was sent, held, set going or closed", function()
      assert.equal("", hints("/sends", "/holds", "/ticks", "/closes"))
    end)
  end)

  describe(":close", function()
    it("delivers what was sent before it, and the last chunk", function()
      local client = open(function(stream)
        for i = 1, 100 do stream:send(("%03d "):format(i) .. ("x"):rep(500)) end
        stream:close()
      end)
      client:wait_end()
      local _, _, body, complete = client:answer()
      assert.is_true(complete)
      local i = 0
      for number in body:gmatch "data: (%d+) x+\n\n" do
        i = i + 1
        assert.equal(i, tonumber(number))
      end
      assert.equal(100, i)
    end)

    it("delivers more than the kernel takes at once", function()
      local size = 4 * 1024 * 1024
      local client = open(function(stream)
        stream:send(("x"):rep(size))
        stream:close()
      end)
      client:wait_end()
      local _, _, body, complete = client:answer()
      assert.is_true(complete)
      assert.equal(size, #body:match "data: (x+)\n\n$")
    end)

    it("takes nothing that is sent after it", function()
      local client = open(function(stream)
        stream:send "before"
        stream:close()
        stream:send "after"
      end)
      assert.not_matches("after", client:wait_end(), 1, true)
    end)

    it("has no effect a second time", function()
      local log, list = logger()
      local client = open(function(stream)
        stream:on_close(log)
        stream:close()
        stream:close()
      end)
      client:wait_end()
      assert.same({ "server" }, list)
      client:wait(LAST_CHUNK)
    end)

    it("works from outside any callback", function()
      local held
      local client = open(function(stream)
        held = stream
        stream:hold()
      end)
      client:wait(FIRST_BYTES)
      held:send "bye"
      held:close()
      client:wait_end()
      client:wait("\ndata: bye\n\n" .. LAST_CHUNK)
    end)
  end)

  describe(":send", function()
    it("answers true", function()
      local result
      local client = open(function(stream) result = { stream:send "x" } end)
      client:wait_end()
      assert.same({ true }, result)
    end)

    it("answers nil, closed in a callback after the end", function()
      local held
      local client = open(function(stream)
        held = stream
        stream:hold()
      end)
      client:wait(FIRST_BYTES)
      held:close()
      for _ = 1, 3 do assert.same({ nil, "closed" }, { held:send "x" }) end
      assert.same({ nil, "closed" }, { held:comment "x" })
      assert.same({ nil, "closed" }, { held:flush() })
      assert.same({ nil, "closed" }, { held:hold() })
    end)

    it("waits in the handler until a slow client reads, and loses nothing", function()
      local sent, total = 0, 2000
      local client, _, port = open(function(stream)
        for i = 1, total do
          assert(stream:send(("%05d "):format(i) .. ("x"):rep(10000)))
          sent = i
        end
      end)
      client:wait(FIRST_BYTES)
      client:pause()
      local before
      repeat -- until a whole turn brings nothing more out
        before = sent
        streams.round_trip(port)
      until sent == before
      assert.is_true(sent < total, "all was taken, though nobody reads")
      client:resume()
      client:wait_end()
      local i = 0
      for number in client.received:gmatch "data: (%d+) x" do
        i = i + 1
        assert.equal(i, tonumber(number))
      end
      assert.equal(total, i)
    end)

    it("answers nil, backlog outside the handler, also while that waits", function()
      local held, waits
      local client = open(function(stream)
        held, waits = stream, true
        while stream:send(("x"):rep(10000)) do waits = true end
      end)
      client:wait(FIRST_BYTES)
      client:pause()
      net.wait(function()
        local ok, why = held:send(("y"):rep(10000))
        return not ok and why == "backlog"
      end, "a full backlog")
      assert.is_true(waits)
    end)

    it("takes an event that is larger than the backlog when nothing waits", function()
      local result
      local client = open(function(stream)
        stream:sleep(0)
        result = { stream:send(("x"):rep(5000)) }
      end, { limits = { backlog_bytes = 100 } })
      client:wait_end()
      assert.same({ true }, result)
      assert.equal(5000, #client.received:match "data: (x+)")
    end)
  end)

  describe(":comment", function()
    it("sends a comment, one line for each of the text's", function()
      local client = open(function(stream) stream:comment "a\nb\r\nc\rd" end)
      client:wait_end()
      client:wait "\n: a\n: b\n: c\n: d\n\n"
    end)
  end)

  describe(":flush", function()
    it("hands what was sent to the kernel at once", function()
      local app, before, after
      local client
      client, app = open(function(stream)
        stream:send "x"
        before = app:stats().bytes_out
        stream:flush()
        after = app:stats().bytes_out
      end)
      client:wait_end()
      assert.equal(0, before)
      assert.is_true(after > 0)
    end)

    it("answers true", function()
      local result
      local client = open(function(stream)
        result = { stream:flush() }
        stream:send "x"
      end)
      client:wait_end()
      assert.same({ true }, result)
    end)
  end)

  describe(":header", function()
    it("sets a header of the head, and replaces it under any case", function()
      local client = open(function(stream)
        stream:header("X-Test", "first")
        stream:header("x-test", "second"):header("X-Other", 7)
        stream:send "x"
      end)
      client:wait_end()
      local _, headers = client:answer()
      assert.equal("second", headers["x-test"])
      assert.equal("7", headers["x-other"])
      assert.not_matches("first", client.received, 1, true)
    end)

    it("may be called after an await", function()
      local client = open(function(stream)
        eventstream.await(function(resume) resume() end)
        stream:header("X-Test", "late")
        stream:send "x"
      end)
      client:wait_end()
      assert.equal("late", (select(2, client:answer()))["x-test"])
    end)

    it("raises after the first byte, and says when it may be set", function()
      local ok, message
      local client = open(function(stream)
        stream:send "x"
        ok, message = pcall(stream.header, stream, "X-Test", "late")
      end)
      client:wait_end()
      assert.is_false(ok)
      assert.matches("before the first send, subscribe or sleep", message, 1, true)
    end)
  end)

  describe(".closed", function()
    it("is false while the stream runs, and true from close on", function()
      local before, after
      local client = open(function(stream)
        before = stream.closed
        stream:close()
        after = stream.closed
      end)
      client:wait_end()
      assert.is_false(before)
      assert.is_true(after)
    end)

    it("is true in on_close, and after", function()
      local held, inside
      local client = open(function(stream)
        held = stream
        stream:hold()
        stream:on_close(function() inside = stream.closed end)
      end)
      client:wait(FIRST_BYTES)
      client:shutdown()
      net.wait(function() return inside ~= nil end)
      assert.is_true(inside)
      assert.is_true(held.closed)
    end)
  end)

  describe(".last_event_id", function()
    local function seen(target, headers)
      local id, called
      local _, port = serve(function(app)
        app:stream("/", function(stream)
          id, called = stream.last_event_id, true
          stream:close()
        end)
      end)
      net.connect(port):get(target, headers):wait_end()
      assert.is_true(called)
      return id
    end

    it("is nil for a client that comes the first time", function()
      assert.is_nil(seen "/")
    end)

    it("is the header's", function()
      assert.equal("a b", seen("/", { "Last-Event-ID: a b" }))
    end)

    it("is the header's before the query's", function()
      assert.equal("new", seen("/?last_event_id=old&lastEventId=old&evs_last_event_id=old", { "last-event-id: new" }))
    end)

    for _, name in ipairs { "last_event_id", "lastEventId", "evs_last_event_id" } do
      it("is the query's " .. name .. ", decoded", function()
        assert.equal("a b/1", seen("/?" .. name .. "=a%20b%2F1"))
      end)
    end

    it("is the query's where the header is empty", function()
      assert.equal("7", seen("/?lastEventId=7", { "Last-Event-ID:" }))
    end)

    it("is nil where all are empty", function()
      assert.is_nil(seen("/?last_event_id=&lastEventId&evs_last_event_id=", { "Last-Event-ID: " }))
    end)

    it("keeps raw bytes from 0x80 on, as Chromium sends them", function()
      assert.equal("\226\128\166\195\169", seen("/", { "Last-Event-ID: \226\128\166\195\169" }))
    end)
  end)

  describe(".request", function()
    it("is the handler's second argument", function()
      local same
      local client = open(function(stream, request)
        same = rawequal(stream.request, request)
        stream:close()
      end)
      client:wait_end()
      assert.is_true(same)
    end)

    it("is there after the stream's end", function()
      local held
      local client = open(function(stream)
        held = stream
        stream:close()
      end)
      client:wait_end()
      collectgarbage()
      assert.equal("GET", held.request.method)
      assert.equal("/", held.request.path)
    end)

    it("is there when the app is gone", function()
      local child, port = streams.server [[
        local eventstream = require "eventstream"
        local app = eventstream.new()
        local held
        app:stream("/:name", function(stream)
          held = stream
          app:close()
        end)
        print("port " .. app:listen { port = 0 }.port)
        eventstream.run()
        app = nil
        collectgarbage()
        local request = held.request
        held = nil
        collectgarbage()
        collectgarbage()
        print(request.method, request.path, type(request.params), request.headers.host)
        request.mine = 1
        print(request.mine)
      ]]
      net.connect(port):get("/x"):wait_end()
      child:wait_line "^GET\t/x\ttable\tlocalhost$"
      child:wait_line "^1$"
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)
  end)

  describe(".data", function()
    it("is the script's own, and nil at first", function()
      local first, later
      local client = open(function(stream)
        first = stream.data
        stream.data = { name = "x" }
        stream:after(0, function(s) later = s.data.name end)
      end)
      client:wait_end()
      assert.is_nil(first)
      assert.equal("x", later)
    end)

    it("lives as long as the stream, though nothing else refers to either", function()
      local client = open(function(stream)
        stream.data = { text = "kept" }
        stream:every(0.001, function(s) if s.data then s:send(s.data.text) end end)
      end)
      client:wait(FIRST_BYTES)
      for _ = 1, 3 do collectgarbage() end
      client.received = ""
      client:wait "\ndata: kept\n"
    end)

    it("is there in on_close", function()
      local seen
      local client = open(function(stream)
        stream.data = "mine"
        stream:send "x"
        stream:on_close(function() seen = stream.data end)
      end)
      client:wait_end()
      assert.equal("mine", seen)
    end)

    it("lets go of its value when the stream is over", function()
      local held
      local weak = setmetatable({}, { __mode = "v" })
      local client = open(function(stream)
        held = stream
        stream:send "x"
        stream.data = {}
        weak[1] = stream.data
      end)
      client:wait_end()
      collectgarbage()
      collectgarbage()
      assert.is_nil(weak[1])
      assert.is_nil(held.data)
    end)

    it("cannot be set after the stream's end", function()
      local held
      local client = open(function(stream)
        held = stream
        stream:close()
      end)
      client:wait_end()
      assert.error_matches(function() held.data = 1 end, "data cannot be set any more: the stream is over", 1, true)
    end)

    it("is the only field that can be set", function()
      local client, app = open(function(stream) stream.name = "x" end)
      client:wait_end()
      assert.matches("only stream.data can be set; keep your own values in it", streams.errors(app).message, 1, true)
    end)
  end)

  describe("userdata", function()
    it("is one while a script holds it", function()
      local held, same
      local client = open(function(stream)
        held = stream
        stream:after(0, function(s) same = rawequal(s, held) end)
      end)
      client:wait_end()
      assert.is_true(same)
    end)

    it("closes nothing when its last reference is dropped", function()
      local app
      local client
      client, app = open(function(stream) stream:hold() end)
      client:wait(FIRST_BYTES)
      for _ = 1, 3 do collectgarbage() end
      net.settle()
      assert.equal(1, app:stats().streams)
      assert.is_false(client.ended)
    end)

    it("may be dropped while intervals go on sending", function()
      local client = open(function(stream)
        stream:every(0.001, function(s) s:send "tick" end)
      end)
      client:wait "\ndata: tick\n"
      for _ = 1, 3 do collectgarbage() end
      client.received = ""
      client:wait "\ndata: tick\n.*\ndata: tick\n"
    end)

    it("may be dropped while the handler waits", function()
      local resume
      local client = open(function(stream)
        eventstream.await(function(r) resume = r end)
        stream:send "after all"
      end)
      net.wait(function() return resume end)
      for _ = 1, 3 do collectgarbage() end
      resume()
      client:wait "\ndata: after all\n"
    end)

    it("answers after the app's end", function()
      local held
      local client = open(function(stream)
        held = stream
        stream:hold()
      end)
      client:wait(FIRST_BYTES)
      net.finish()
      collectgarbage()
      assert.is_true(held.closed)
      assert.same({ nil, "closed" }, { held:send "x" })
      assert.same({ nil, "closed" }, { held:every(1, never) })
      assert.is_nil(held:close())
      assert.matches("^stream / %(", tostring(held))
    end)
  end)

  describe("by POST", function()
    local function echo(options)
      return serve(function(app)
        app:stream("/", { methods = { "POST" } }, function(stream, request)
          for word in request.body:gmatch "%S+" do stream:send(word) end
        end)
      end, options)
    end

    it("has the request's body", function()
      local _, port = echo()
      local client = net.connect(port):request("POST", "/", {}, "one two")
      client:wait_end()
      local status, headers, body, complete = client:answer()
      assert.equal(200, status)
      assert.equal("text/event-stream", headers["content-type"])
      assert.matches("^retry: %d+\n\ndata: one\n\ndata: two\n\n$", body)
      assert.is_true(complete)
    end)

    it("has a body that came in chunks", function()
      local _, port = echo()
      local client = net.connect(port):request("POST", "/", { "Transfer-Encoding: chunked" })
      client:send("4\r\none \r\n"):send("3\r\ntwo\r\n"):send("0\r\n\r\n")
      client:wait_end()
      client:wait "\ndata: one\n.*\ndata: two\n"
    end)

    it("is told of its client's FIN", function()
      local reason
      local _, port = serve(function(app)
        app:stream("/", { methods = { "POST" } }, function(stream)
          stream:hold()
          stream:on_close(function(r) reason = r end)
        end)
      end)
      local client = net.connect(port):request("POST", "/", {}, "body")
      client:wait(FIRST_BYTES)
      client:shutdown()
      net.wait(function() return reason end)
      assert.equal("client", reason)
    end)

    it("leaves GET refused, with an Allow header", function()
      local _, port = echo()
      local client = net.connect(port):get "/"
      client:wait "^HTTP/1.1 405 .-\r\n\r\n"
      assert.equal("OPTIONS, POST", (select(2, client:answer())).allow)
    end)
  end)

  describe("over HTTP/1.0", function()
    it("is not chunked, and ends with the connection", function()
      local _, port = serve(function(app)
        app:stream("/", function(stream)
          stream:send "a"
          stream:send "b"
        end)
      end)
      local received = net.connect(port):send("GET / HTTP/1.0\r\n\r\n"):wait_end()
      local head, body = received:match "^(.-\r\n)\r\n(.*)$"
      assert.matches("^HTTP/1%.%d 200 OK\r\n", head)
      assert.not_matches("transfer-encoding", head:lower(), 1, true)
      assert.matches("^retry: %d+\n\ndata: a\n\ndata: b\n\n$", body)
    end)
  end)

  describe("by HEAD", function()
    local function head(request)
      local ran = false
      local _, port = serve(function(app) app:stream("/", function() ran = true end) end)
      local client = net.connect(port):send(request)
      client:wait "\r\n\r\n"
      streams.round_trip(port)
      assert.is_false(ran, "the handler ran")
      return client
    end

    it("has the head of GET alone, and runs no handler", function()
      local status, headers, body = head("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"):answer()
      assert.equal(200, status)
      assert.equal("text/event-stream", headers["content-type"])
      assert.equal("", body)
    end)

    it("leaves the connection open for the next request", function()
      local client = head "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
      client:get("/none"):wait "\r\n\r\nHTTP/1.1 404 "
    end)

    it("ends the connection where the client asks for that", function()
      head "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":wait_end()
    end)

    it("ends the connection over HTTP/1.0", function()
      head "HEAD / HTTP/1.0\r\n\r\n":wait_end()
    end)
  end)

  describe(":on_close", function()
    -- Opens a stream that stays open, lets end(client, stream, app) end it, ends it in every other way as well, and
    -- returns the reasons that on_close was called with.
    local function reasons(finish, options)
      local log, list = logger()
      local held
      local client, app = open(function(stream)
        held = stream
        stream:on_close(log)
        stream:hold()
      end, options)
      client:wait(FIRST_BYTES)
      finish(client, held, app)
      wait_count(list, 1)
      held:close()
      client:close()
      net.finish()
      return list
    end

    it("is told client at the client's FIN", function()
      assert.same({ "client" }, reasons(function(client) client:shutdown() end))
    end)

    it("is told client when the client closes its socket", function()
      assert.same({ "client" }, reasons(function(client) client:close() end))
    end)

    it("is told client at the client's RST", function()
      assert.same({ "client" }, reasons(function(client) client:reset() end))
    end)

    it("is told client at the FIN behind bytes that no one asked for", function()
      assert.same({ "client" }, reasons(function(client)
        client:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"):shutdown()
      end))
    end)

    it("is told server at close", function()
      assert.same({ "server" }, reasons(function(_, stream) stream:close() end))
    end)

    it("is told server at the app's close", function()
      assert.same({ "server" }, reasons(function(_, _, app) app:close() end))
    end)

    it("is told server at the handler's return", function()
      local log, list = logger()
      local client = open(function(stream)
        stream:on_close(log)
        stream:send "x"
      end)
      client:wait_end()
      assert.same({ "server" }, list)
    end)

    it("is told expired at limits.stream_seconds, and the client gets its last chunk", function()
      assert.same({ "expired" }, reasons(function(client)
        client:wait_end()
        client:wait(LAST_CHUNK)
      end, { limits = { stream_seconds = 0.02 } }))
    end)

    it("is told error after a script's error", function()
      local log, list = logger()
      local client, app = open(function(stream)
        stream:on_close(log)
        error "wrong"
      end)
      client:wait_end()
      streams.errors(app)
      assert.same({ "error" }, list)
    end)

    it("is told the first cause", function()
      assert.same({ "server" }, reasons(function(client, stream)
        stream:close()
        client:reset()
      end))
    end)

    it("calls several functions in their order", function()
      local log, list = logger()
      local client = open(function(stream)
        stream:send "x"
        for i = 1, 4 do stream:on_close(function(reason) log(i, reason) end) end
      end)
      client:wait_end()
      assert.same({ "1 server", "2 server", "3 server", "4 server" }, list)
    end)

    it("calls nothing inside close()", function()
      local log, list = logger()
      local client = open(function(stream)
        stream:on_close(function() log "on_close" end)
        stream:close()
        log "close has returned"
      end)
      client:wait_end()
      assert.same({ "close has returned", "on_close" }, list)
    end)

    it("calls a function at the turn's end if the stream is over already", function()
      local log, list = logger()
      local held
      local client, app = open(function(stream)
        held = stream
        stream:close()
      end)
      client:wait_end()
      app:after(0, function()
        held:on_close(function(reason) log("late", reason) end)
        log "callback"
      end)
      wait_count(list, 2)
      assert.same({ "callback", "late server" }, list)
    end)

    it("calls a function that came outside a turn after the end", function()
      local log, list = logger()
      local held
      local client = open(function(stream)
        held = stream
        stream:close()
      end)
      client:wait_end()
      held:on_close(log)
      assert.same({}, list)
      wait_count(list, 1)
      assert.same({ "server" }, list)
    end)

    it("calls a function that came after the app's end", function()
      local log, list = logger()
      local held
      local client = open(function(stream)
        held = stream
        stream:close()
      end)
      client:wait_end()
      net.finish()
      held:on_close(log)
      wait_count(list, 1)
      assert.same({ "server" }, list)
    end)

    it("calls its functions after the waiting handler was resumed", function()
      local log, list = logger()
      local client = open(function(stream)
        stream:on_close(function(reason) log("first", reason) end)
        stream:on_close(function(reason) log("second", reason) end)
        log("sleep", stream:sleep(60))
        stream:on_close(function(reason) log("third", reason) end)
      end)
      client:wait(FIRST_BYTES)
      client:shutdown()
      wait_count(list, 4)
      assert.same({ "sleep nil closed", "first client", "second client", "third client" }, list)
    end)

    it("may register another function, which is called too", function()
      local log, list = logger()
      local client, _, port = open(function(stream)
        stream:send "x"
        stream:on_close(function(reason)
          log("outer", reason)
          stream:on_close(function(again) log("inner", again) end)
        end)
        stream:on_close(function(reason) log("second", reason) end)
      end)
      client:wait_end()
      streams.round_trip(port)
      assert.same({ "outer server", "second server", "inner server" }, list)
    end)

    it("may close another stream, whose functions are called after it has returned", function()
      local log, list = logger()
      local other
      local _, port = serve(function(app)
        app:stream("/a", function(stream)
          stream:hold()
          stream:on_close(function(reason)
            log("a begins", reason)
            other:close()
            log "a ends"
          end)
          stream:on_close(function() log "a's second" end)
        end)
        app:stream("/b", function(stream)
          other = stream
          stream:hold()
          stream:on_close(function(reason) log("b", reason) end)
        end)
      end)
      local b = net.connect(port):get "/b"
      b:wait(FIRST_BYTES)
      local a = net.connect(port):get "/a"
      a:wait(FIRST_BYTES)
      a:shutdown()
      b:wait_end()
      b:wait(LAST_CHUNK)
      assert.same({ "a begins client", "a ends", "a's second", "b server" }, list)
    end)

    it("may close its own stream", function()
      local log, list = logger()
      local client = open(function(stream)
        stream:send "x"
        stream:on_close(function(reason)
          log(reason)
          stream:close()
          log(stream:send "x")
        end)
      end)
      client:wait_end()
      assert.same({ "server", "nil closed" }, list)
    end)

    it("that raises keeps no other function from its call, and harms no other stream", function()
      local log, list = logger()
      local app, port = serve(function(a)
        a:stream("/fails", function(stream)
          stream:on_close(function() error "on_close went wrong" end)
          stream:on_close(log)
          stream:send "x"
        end)
        a:stream("/ticks", function(stream) stream:every(0.001, function(s) s:send "tick" end) end)
      end)
      local ticks = net.connect(port):get "/ticks"
      ticks:wait "\ndata: tick\n"
      local fails = net.connect(port):get "/fails"
      fails:wait_end()
      fails:wait("\ndata: x\n\n" .. LAST_CHUNK)
      wait_count(list, 1)
      assert.same({ "server" }, list)
      assert.matches("on_close went wrong", streams.errors(app).message, 1, true)
      ticks.received = ""
      ticks:wait "\ndata: tick\n"
    end)
  end)
end)
