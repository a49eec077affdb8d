--- eventstream.connect: what it asks for, what it makes of answers, when it comes back, how scripts wait for events.

local uv = require "luv"
local eventstream = require "eventstream"
local net = require "spec.support.net"
local process = require "spec.support.process"
local scripted = require "spec.support.scripted"
local streams = require "spec.support.streams"

local stream = scripted.stream
local LUA51 = _VERSION == "Lua 5.1" and not rawget(_G, "jit")
local QUICK = 1 -- milliseconds; the least that it waits is 0.1 s

describe("eventstream.connect", function()
  local sources = {}

  local function connect(where, options)
    options = options or {}
    local seen = { events = {}, errors = {}, waits = {}, opens = 0 }
    local on_open, on_event = options.on_open, options.on_event
    if on_event ~= false then
      options.on_event = function(event, source)
        seen.events[#seen.events + 1] = event
        if on_event then on_event(event, source) end
      end
    else
      options.on_event = nil
    end
    options.on_open = function(source, answer)
      seen.opens, seen.answer = seen.opens + 1, answer
      if on_open then on_open(source, answer) end
    end
    options.on_error = options.on_error or function(message, seconds)
      seen.errors[#seen.errors + 1] = message
      seen.waits[#seen.errors] = seconds or false
    end
    options.retry = options.retry or QUICK
    local source = eventstream.connect(type(where) == "number" and ("http://127.0.0.1:%d/"):format(where) or where,
      options)
    sources[#sources + 1] = source
    return source, seen
  end

  after_each(function()
    for i, source in ipairs(sources) do
      source:close()
      sources[i] = nil
    end
    scripted.finish()
    streams.finish()
  end)

  local function datas(seen)
    local list = {}
    for i, event in ipairs(seen.events) do list[i] = event.data end
    return table.concat(list, " ")
  end

  describe("asks", function()
    it("as a browser does", function()
      local port, requests = scripted.serve { function() end }
      connect(("http://127.0.0.1:%d/a b?c=ü&d=%%20#e"):format(port))
      net.wait(function() return requests[1] end)
      assert.equal(("GET /a%%20b?c=%%C3%%BC&d=%%20 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n"
        .. "Cache-Control: no-cache\r\n\r\n"):format(port), requests[1])
    end)

    it("with a method, headers, a body and an id of the script's", function()
      local port, requests = scripted.serve { stream "data: x\n\n" }
      local _, seen = connect(port, { method = "PUT", body = "hello", last_event_id = "…7", headers = {
        Accept = "text/event-stream, application/json", Authorization = "Bearer x", ["X-List"] = { "a", "b" } } })
      net.wait(function() return #requests >= 2 and requests[2]:find "hello" end) -- the same on a reconnect
      local wanted = ("PUT / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream, application/json\r\n"
        .. "Authorization: Bearer x\r\nX-List: a\r\nX-List: b\r\nCache-Control: no-cache\r\nLast-Event-ID: …7\r\n"
        .. "Content-Length: 5\r\n\r\nhello"):format(port)
      assert.same({ wanted, wanted }, { requests[1], requests[2] })
      assert.equal("…7", seen.events[1].id)
    end)

    it("posts a table as JSON", function()
      local port, requests = scripted.serve { function() end }
      connect(port, { body = { prompt = "why" } })
      net.wait(function() return requests[1] and requests[1]:find "}$" end)
      assert.matches("^POST / .*Content%-Type: application/json\r\nContent%-Length: 16\r\n\r\n{\"prompt\":\"why\"}$",
        requests[1])
    end)

    it("with a length of 0 where a method says of a body that there is none", function()
      for method, wanted in pairs { POST = "0", PUT = "0", PATCH = "0", GET = "none", DELETE = "none" } do
        local port, requests = scripted.serve { function() end }
        connect(port, { method = method })
        net.wait(function() return requests[1] end)
        assert.equal(wanted, requests[1]:match "\r\nContent%-Length: (%d+)\r\n" or "none", method)
      end
    end)

    it("by a name, with IPv4 and IPv6", function()
      for _, host in ipairs { "127.0.0.1", "::1" } do
        local app = net.serve(function(a)
          a:stream("/", function(s) s:send("from " .. s.request.headers.host:match "^(.*):") end)
        end)
        local listener, message = app:listen { host = host, port = 0 }
        if not listener then
          assert.matches("EADDRNOTAVAIL", message) -- a machine without IPv6
        else
          local name = host == "::1" and "[::1]" or "localhost" -- which may be ::1, too, and is tried there first
          local _, seen = connect(("http://%s:%d/"):format(name, listener.port))
          net.wait(function() return seen.events[1] end)
          assert.equal("from " .. name, seen.events[1].data)
        end
      end
    end)
  end)

  describe("takes", function()
    it("events of any framing: chunked, of a length, up to the end, of HTTP/1.0", function()
      for _, answer in ipairs {
        stream("6\r\ndata: \r\n3;x=y\r\na\n\n\r\n9\r\ndata: b\n\n\r\n0\r\nX: y\r\n\r\n",
          "Transfer-Encoding: chunked\r\n"),
        stream("data: a\n\ndata: b\n\nmore", "Content-Length: 18\r\n"),
        stream("data: a\n\ndata: b\n\n"),
        "HTTP/1.0 200 Fine\r\ncontent-type:TEXT/Event-Stream ; charset=utf-8\r\n\r\n\239\187\191data: a\r\rdata: b\r\r",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" .. stream("data: a\n\ndata: b\n\n"),
      } do
        local port = scripted.serve { answer, "HTTP/1.1 204 No Content\r\n\r\n" }
        local source, seen = connect(port)
        net.wait(function() return source.state == "closed" end, answer)
        assert.equal("a b", datas(seen), answer)
        assert.same({ "the stream ended", "the server answered 204: it has nothing more" }, seen.errors, answer)
      end
    end)

    it("events with their type and id, and tells of the answer", function()
      local port = scripted.serve { function(connection)
        connection.send(stream("id: 1\nevent: one\ndata: a\n\ndata: b\n\nid: 2\n\nid: 3\ndata: unfinished\n",
          "X-One: 1\r\nX-Two: a\r\nx-two: b\r\n"))
      end }
      local source, seen = connect(port)
      net.wait(function() return source.last_event_id == "2" end)
      assert.same({ { event = "one", data = "a", id = "1" }, { event = "message", data = "b", id = "1" } }, seen.events)
      assert.equal("open", source.state)
      assert.equal(200, seen.answer.status)
      assert.same({ "1", "a, b" }, { seen.answer.headers["x-one"], seen.answer.headers["x-two"] })
    end)

    it("an answer in any pieces", function()
      local answer = stream("5\r\ndata:\r\n4\r\n a\n\n\r\n", "Transfer-Encoding: chunked\r\n")
      local timer
      local port = scripted.serve { function(connection)
        connection.handle:nodelay(true)
        local at = 0
        timer = uv.new_timer()
        timer:start(0, 1, function()
          at = at + 1
          connection.send(answer:sub(at, at))
          if at == #answer then timer:close() end
        end)
      end }
      local _, seen = connect(port)
      net.wait(function() return seen.events[1] and timer:is_closing() end)
      assert.equal("a", seen.events[1].data)
    end)
  end)

  describe("comes back", function()
    it("after an end, a cut and a refused connection, with the last id", function()
      local port, requests = scripted.serve {
        stream "id: 1\ndata: a\n\nid: 9\ndata: lost",
        stream("20\r\nid: 2\ndata: b\n\n", "Transfer-Encoding: chunked\r\n"),
        function(connection) -- a reset
          connection.send(stream "id: 3\ndata: c\n\n")
          local timer = uv.new_timer()
          timer:start(20, 0, function()
            timer:close()
            connection.handle:close_reset()
          end)
        end,
        function(connection) connection.handle:close() end,
        "HTTP/1.1 nonsense\r\n\r\n",
        stream "data: d\n\n",
      }
      local _, seen = connect(port)
      net.wait(function() return seen.events[4] end, function() return table.concat(seen.errors, "; ") end)
      assert.equal("a b c d", datas(seen))
      local ids = {}
      for i, request in ipairs(requests) do ids[i] = request:match "Last%-Event%-ID: (%d)" or "none" end
      assert.same({ "none", "1", "2", "3", "3", "3" }, ids)
      assert.equal("the stream ended", seen.errors[1])
      assert.equal("the connection was cut within the answer", seen.errors[2])
      assert.equal("the connection was closed before an answer", seen.errors[4])
      assert.equal("the answer is not HTTP/1.1 as it should be", seen.errors[5])
    end)

    it("when nobody listens, ever later, until somebody does", function()
      local probe = uv.new_tcp()
      probe:bind("127.0.0.1", 0)
      local port = probe:getsockname().port
      probe:close()
      local source, seen = connect(port, { retry = 100 })
      net.wait(function() return seen.errors[3] end)
      assert.matches("^connect: ECONNREFUSED: ", seen.errors[1])
      assert.equal("connecting", source.state)
      for i, least in ipairs { 0.1, 0.2, 0.4 } do
        assert.is_true(seen.waits[i] >= least and seen.waits[i] <= least * 1.5, seen.waits[i])
      end
      local app = eventstream.new()
      app:stream("/", function(s) s:send "here" end)
      assert(app:listen { port = port })
      net.wait(function() return seen.events[1] end)
      app:close { grace = 0, spread = 0 }
    end)

    it("after the server's time", function()
      local port = scripted.serve { stream "retry: 300\n", function() end }
      local _, seen = connect(port)
      net.wait(function() return seen.waits[1] end)
      assert.is_true(seen.waits[1] >= 0.3 and seen.waits[1] <= 0.45, seen.waits[1])
    end)

    it("when the server is silent for too long", function()
      local port, requests = scripted.serve { function(connection) connection.send(stream ": here\n") end }
      local _, seen = connect(port, { idle_seconds = 0.1 })
      net.wait(function() return #requests == 2 end)
      assert.equal("the server was silent for too long", seen.errors[1])
    end)

    it("after the statuses that it is told to, and no sooner than the server wants", function()
      local port, requests = scripted.serve { "HTTP/1.1 503 Full\r\nRetry-After: 1\r\n\r\n",
        "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", stream "data: x\n\n" }
      local _, seen = connect(port, { retry_status = true })
      net.wait(function() return seen.events[1] end)
      assert.same({ "the server answered 503", "the server answered 500" }, { seen.errors[1], seen.errors[2] })
      assert.equal(3, #requests)
      assert.equal(1, seen.waits[1])
    end)
  end)

  describe("stops for good", function()
    for answer, message in pairs {
      ["HTTP/1.1 204 No Content\r\n\r\n"] = "the server answered 204: it has nothing more",
      ["HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"] = "the server answered 500",
      ["HTTP/1.1 404 No\r\nContent-Length: 100000\r\n\r\nx"] = "the server answered 404",
      ["HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\ndata: x\n\n"] =
        "the server answered with the type text/html, and not text/event-stream",
      ["HTTP/1.1 200 OK\r\nContent-Type: text/event-stream-x\r\n\r\n"] =
        "the server answered with the type text/event-stream-x, and not text/event-stream",
      ["HTTP/1.1 200 OK\r\n\r\n"] = "the server answered with the type none, and not text/event-stream",
      ["HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\nx"] =
        "the server answered with the coding gzip, unasked",
      ["HTTP/1.1 302 Found\r\n\r\n"] = "the server answered 302, without a Location",
      ["HTTP/1.1 302 Found\r\nLocation:\r\n\r\n"] = "the server answered 302, without a Location",
      ["HTTP/1.1 307 Found\r\nLocation: ftp://x/\r\n\r\n"] =
        "the server answered 307, with a Location that is none: it must begin with http:// or https://",
      ["HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"] = "too many redirects",
    } do
      it("after: " .. answer:gsub("\r\n.*Content%-Type", " ... Content-Type"):gsub("\r\n", " "), function()
        local port = scripted.serve { answer }
        local source, seen = connect(port)
        net.wait(function() return source.state == "closed" end)
        assert.same({ { message }, { false }, {}, message },
          { seen.errors, seen.waits, seen.events, source.failure })
      end)
    end

    it("at close: in a callback, while it waits, while it connects, twice", function()
      local port, requests = scripted.serve { stream "data: a\n\ndata: b\n\n" }
      local source, seen = connect(port, { on_event = function(_, self) self:close() end })
      net.wait(function() return source.state == "closed" end)
      assert.same({ "a", {} }, { datas(seen), seen.errors })
      source:close()
      source = connect(port, { on_open = function(self) self:close() end })
      net.wait(function() return source.state == "closed" end)
      source = connect(port, { on_error = function(_, _, self) self:close() end })
      net.wait(function() return source.state == "closed" end)
      assert.is_nil(source.failure)
      local before = #requests
      connect(port):close()
      connect("http://no.such.host.invalid/"):close()
      net.settle()
      assert.equal(before, #requests)
    end)

    it("keeps a script running until then, and no longer", function()
      local port = scripted.serve { stream "data: a\n\n" }
      local child = process.lua { "-e", ([[
        local eventstream = require "eventstream"
        eventstream.connect("http://127.0.0.1:%d/", { retry = 1, on_event = function(event, source)
          print("got " .. event.data)
          source:close()
        end })
        eventstream.run()
        print "over"
      ]]):format(port) }
      assert.equal(0, (child:wait_exit()))
      assert.same({ "got a", "over" }, child.lines)
    end)
  end)

  describe("follows redirects", function()
    it("to where they lead, with what may go there", function()
      local other, others = scripted.serve { stream "data: x\n\n" }
      local port, requests = scripted.serve {
        "HTTP/1.1 307 Moved\r\nLocation: ../b/./c?d\r\n\r\n", "HTTP/1.1 308 Moved\r\nLocation: ?e\r\n\r\n",
        ("HTTP/1.1 307 Moved\r\nLocation: //127.0.0.1:%d/f\r\n\r\n"):format(other),
      }
      local _, seen = connect(("http://127.0.0.1:%d/a/x/y?z"):format(port), { method = "POST", body = "hello",
        headers = { Authorization = "secret", Cookie = "secret", ["X-Other"] = "1" } })
      net.wait(function() return seen.events[1] end)
      for i, target in ipairs { "/a/x/y%?z", "/a/b/c%?d", "/a/b/c%?e" } do
        assert.matches("^POST " .. target .. " .*Authorization: secret\r\n.*hello$", requests[i])
      end
      assert.matches("^POST /f .*X%-Other: 1\r\n", others[1])
      assert.is_nil(others[1]:find "secret")
      net.wait(function() return #requests >= 4 end) -- it comes back to where it was told to go
      assert.matches("^POST /a/x/y%?z ", requests[4])
    end)

    it("by GET, and without the body, where browsers do that", function()
      for _, status in ipairs { 301, 302, 303 } do
        local answer = ("HTTP/1.1 %d X\r\nLocation: /b\r\n\r\n"):format(status)
        local port, requests = scripted.serve { answer, function() end }
        connect(port, { body = "hello" })
        net.wait(function() return requests[2] end)
        assert.matches("^GET /b HTTP/1.1\r\n", requests[2])
        assert.is_nil(requests[2]:find "Content")
      end
    end)

    it("by GET without the headers that tell of the body, which are sent again when it comes back", function()
      local port, requests = scripted.serve { "HTTP/1.1 303 X\r\nLocation: /b\r\n\r\n", stream "data: x\n\n",
        function() end }
      connect(port, { body = "hello", headers = { ["content-type"] = "text/plain", ["Content-Language"] = "en",
        ["Content-Encoding"] = "identity", Digest = "x", ["X-Mine"] = "1" } })
      net.wait(function() return requests[3] end)
      assert.equal(("GET /b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Mine: 1\r\nAccept: text/event-stream\r\n"
        .. "Cache-Control: no-cache\r\n\r\n"):format(port), requests[2])
      for _, line in ipairs { "content%-type: text/plain", "Content%-Language: en", "Content%-Encoding: identity",
        "Digest: x", "Content%-Length: 5" } do
        assert.matches("^POST / .*\r\n" .. line .. "\r\n", requests[3])
      end
    end)

    it("with a method that stays, and the headers with it", function()
      local port, requests = scripted.serve { "HTTP/1.1 302 X\r\nLocation: /b\r\n\r\n", function() end }
      connect(port, { method = "PUT", body = "hello", headers = { ["Content-Type"] = "text/plain" } })
      net.wait(function() return requests[2] and requests[2]:find "hello" end)
      assert.matches("^PUT /b .*\r\nContent%-Type: text/plain\r\n", requests[2])
    end)

    it("to an address that is none, and takes no long time to see that", function()
      local port = scripted.serve { "HTTP/1.1 302 X\r\nLocation: //" .. ("1"):rep(60000) .. "!/\r\n\r\n" }
      local before = os.clock()
      local source = connect(port)
      net.wait(function() return source.state == "closed" end)
      assert.equal("the server answered 302, with a Location that is none: its host is none", source.failure)
      assert.is_true(os.clock() - before < 1, os.clock() - before)
    end)
  end)

  describe("is bounded", function()
    it("in the size of an event", function()
      local large, fine = stream("data: " .. ("x"):rep(2000) .. "\n\n"), stream ": fine\ndata: y\n\n"
      local port, requests = scripted.serve { large, fine }
      local _, seen = connect(port, { event_bytes = 1000 })
      net.wait(function() return seen.events[1] end)
      assert.same({ "an event is larger than event_bytes", "y", 2 }, { seen.errors[1], datas(seen), #requests })
    end)

    it("in the size of an answer's head", function()
      local port = scripted.serve { "HTTP/1.1 200 OK\r\nX: " .. ("x"):rep(70000) .. "\r\n\r\n", function() end }
      local _, seen = connect(port)
      net.wait(function() return seen.errors[1] end)
      assert.equal("the answer's headers are too large", seen.errors[1])
    end)

    it("in how long a server may be silent, and not in how long we do not read", function()
      local beats
      local port = scripted.serve { function(connection)
        connection.send(stream(("data: %s\n\n"):format(("x"):rep(300000))))
        beats = uv.new_timer()
        beats:start(20, 20, function() connection.send ": here\n" end)
      end }
      local source, seen = connect(port, { on_event = false, idle_seconds = 0.1 })
      local late, timer = false, uv.new_timer()
      timer:start(400, 0, function() late = true end)
      net.wait(function() return late end)
      timer:close()
      beats:close()
      assert.same({ {}, "open" }, { seen.errors, source.state })
    end)

    it("in what waits for next(): the server is held back", function()
      local piece, sent, refused = stream(), 0, false
      local port = scripted.serve { function(connection)
        local function more()
          if connection.handle:is_closing() then return end
          sent = sent + 1
          connection.handle:write(piece .. ("data: %d %s\n\n"):format(sent, ("x"):rep(10000)), function()
            if sent < 5000 then more() end
          end)
          piece = ""
          refused = connection.handle:get_write_queue_size() > 0
        end
        more()
      end }
      local source = connect(port, { on_event = false })
      net.wait(function() return refused end)
      net.settle()
      assert.is_true(sent < 5000, "all was taken")
      local got = 0
      coroutine.wrap(function()
        for _ = 1, 5000 do
          local event = source:next()
          got = got + 1
          assert(event.data:match "^%d+" == tostring(got))
        end
      end)()
      net.wait(function() return got == 5000 end, function() return got end)
    end)
  end)

  describe("in coroutine style", function()
    it("waits for events in a handler, and relays them", function()
      local upstream = scripted.serve { stream "data: a\n\ndata: b\n\ndata: c\n\n", "HTTP/1.1 204 Over\r\n\r\n" }
      local reason
      local _, port = net.serve(function(a)
        a:stream("/", function(s)
          local source = eventstream.connect(("http://127.0.0.1:%d/"):format(upstream), { retry = QUICK })
          local event = source:next()
          while event do
            s:send { data = event.data }
            event, reason = source:next()
          end
        end)
      end)
      local client = net.connect(port):get "/"
      client:wait_end()
      local _, _, body = client:answer()
      assert.matches("data: a\n\ndata: b\n\ndata: c\n\n$", body)
      assert.equal("the server answered 204: it has nothing more", reason)
    end)

    if not LUA51 then
      it("in a for loop, and in a coroutine of the script's own", function()
        local port = scripted.serve { stream "data: a\n\ndata: b\n\n", "HTTP/1.1 204 Over\r\n\r\n" }
        local list, source = {}, connect(port, { on_event = false })
        local thread = coroutine.create(function()
          for event in source:events() do list[#list + 1] = event.data end
          list[#list + 1] = "over"
        end)
        assert.is_true(coroutine.resume(thread))
        net.wait(function() return coroutine.status(thread) == "dead" end)
        assert.same({ "a", "b", "over" }, list)
      end)
    end

    it("tells a handler whose client leaves, and goes on until it is closed", function()
      local upstream = scripted.serve { function(connection) connection.send(stream "data: a\n\n") end }
      local told, source
      local _, port = net.serve(function(a)
        a:stream("/", function(s)
          source = eventstream.connect(("http://127.0.0.1:%d/"):format(upstream))
          sources[#sources + 1] = source
          s:on_close(function() source:close() end)
          s:send(source:next().data)
          told = { source:next() }
        end)
      end)
      local client = net.connect(port):get "/"
      client:wait "data: a\n\n"
      client:close()
      net.wait(function() return told end)
      assert.same({ n = 2, nil, "closed" }, { n = 2, told[1], told[2] })
      assert.equal("closed", source.state)
    end)

    it("cannot wait where nobody could be resumed", function()
      local port = scripted.serve { function() end }
      local source = connect(port, { on_event = false })
      local line = debug.getinfo(1, "l").currentline + 1
      local ok, message = pcall(function() source:next() end)
      assert.is_false(ok)
      assert.equal(("spec/connect_spec.lua:%d: next: only a handler, or a coroutine of your own, can wait; elsewhere "
        .. "use on_event"):format(line), (message:gsub("^%./", "")))
    end)
  end)

  it("tells of failures where there is no on_error, and raises in a for loop at its line", function()
    local child = process.lua { "-e", [[
      local eventstream = require "eventstream"
      local source = eventstream.connect("http://127.0.0.1:9/x", { retry = 1 })
      print(pcall(function()
        for _ in source:events() do end
      end))
      local app = eventstream.new()
      app:after(0.5, function() source:close() end)
      eventstream.run()
    ]] }
    assert.equal(0, (child:wait_exit()))
    assert.matches("^false\t%(command line%):4: next: only a handler", child.stdout)
    assert.matches("^eventstream: http://127%.0%.0%.1:9/x: connect: ECONNREFUSED: connection refused; "
      .. "it is tried again\n$", child.stderr)
  end)

  it("says where an error of a callback is, and goes on", function()
    local port = scripted.serve { stream "data: a\n\ndata: b\n\n" }
    local child = process.lua { "-e", ([[
      local eventstream = require "eventstream"
      eventstream.connect("http://127.0.0.1:%d/", { retry = 1, on_event = function(event, source)
        if event.data == "b" then source:close() end
        error "on purpose"
      end })
      eventstream.run()
    ]]):format(port) }
    assert.equal(0, (child:wait_exit()))
    local _, count = child.stderr:gsub("eventstream: %(command line%):4: on purpose\nstack traceback", "")
    assert.equal(2, count, child.stderr)
  end)

  it("says where an error of on_open is, and takes what the stream has", function()
    local port, requests = scripted.serve { stream "data: a\n\ndata: b\n\n" }
    local child = process.lua { "-e", ([[
      local eventstream = require "eventstream"
      eventstream.connect("http://127.0.0.1:%d/", { on_open = function() error "on purpose" end,
        on_event = function(event, source)
          print(event.data)
          if event.data == "b" then source:close() end
        end,
        on_error = function(message, _, source) -- what ends it where it does not go on
          print(message)
          source:close()
        end })
      eventstream.run()
    ]]):format(port) }
    assert.equal(0, (child:wait_exit()))
    assert.same({ "a\nb\n", 1 }, { child.stdout, #requests })
    assert.matches("^eventstream: %(command line%):2: on purpose\nstack traceback", child.stderr)
  end)

  it("is collected when it is closed, and not while it runs", function()
    local port = scripted.serve { stream "data: a\n\n" }
    local kept = setmetatable({}, { __mode = "k" })
    local got = 0
    local function begin()
      local source = eventstream.connect(("http://127.0.0.1:%d/"):format(port), { retry = QUICK,
        on_event = function(_, self)
          got = got + 1
          if got == 3 then self:close() end
        end })
      kept[source] = true
    end
    begin()
    net.wait(function()
      collectgarbage()
      return got == 3
    end)
    net.settle()
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(kept))
  end)

  describe("refuses", function()
    for wrong, message in pairs {
      ["('ftp://x/')"] = "connect: url 'ftp://x/': it must begin with http:// or https://",
      ["('http:///x')"] = "connect: url 'http:///x': its host is none",
      ["('http://a b/')"] = "connect: url 'http://a b/': its host is none",
      ["('http://u:p@x/')"] = "connect: url 'http://u:p@x/': it must not contain a user; send an Authorization header",
      ["('http://x:0/')"] = "connect: url 'http://x:0/': its port is none",
      ["(5)"] = "connect: url must be a string, not 5",
      ["('http://x/', { on_evnt = print })"] = "connect: unknown option 'on_evnt' (did you mean 'on_event'?)",
      ["('http://x/', { body = 'x', method = 'GET' })"] = "connect: a GET has no body",
      ["('http://x/', { headers = { Host = 'y' } })"] = "connect: header 'Host' is written by the server",
      ["('http://x/', { headers = { A = 'b\\r\\nC: d' } })"] =
        "connect: header 'A' must not contain control characters",
      ["('http://x/', { last_event_id = 'a\\nb' })"] =
        "connect: last_event_id must be a string without line ends, not 'a\\x0Ab'",
      ["('http://x/', { retry = -1 })"] = "connect: retry must be a whole number, 0 or more, not -1",
      ["('https://x/', { ca_file = '/nowhere' })"] = "connect: ca_file: /nowhere: No such file or directory",
    } do
      it(wrong, function()
        local chunk = assert((loadstring or load)("require 'eventstream'.connect" .. wrong, "=script"))
        local ok, told = pcall(chunk)
        assert.is_false(ok)
        assert.equal("script:1: " .. message, told)
      end)
    end
  end)
end)
