-- What clients may take, and what they are told above it. Every limit is met here over real sockets.
local uv = require "luv"
local eventstream = require "eventstream"
local net = require "spec.support.net"
local process = require "spec.support.process"

local app, port
local timers = {}

local function hold(stream) stream:hold() end

local function listen(options, listen_options)
  app = eventstream.new(options)
  app:stream("/events", hold)
  app:get("/", function(request) return request.remote or "nowhere" end)
  app:post("/", function(request) return tostring(#request.body) end)
  local listener = assert(app:listen(listen_options or { port = 0 }))
  port = listener.port
  return listener
end

-- A client with an address of its own.
local function connect_from(address)
  local client = { received = "", handle = uv.new_tcp() }
  assert(client.handle:bind(address, 0))
  local connected
  client.handle:connect("127.0.0.1", port, function(failure) connected = failure or true end)
  net.wait(function() return connected end, "a connection")
  assert.equal(true, connected)
  client.handle:read_start(function(failure, bytes)
    if bytes then client.received = client.received .. bytes else client.ended = failure or true end
  end)
  function client.get(path) client.handle:write("GET " .. path .. " HTTP/1.1\r\nHost: a\r\n\r\n") end
  function client.stream()
    client.handle:write "GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
  end
  function client.wait(pattern)
    net.wait(function() return client.received:find(pattern) end, function()
      return pattern .. "; so far " .. client.received
    end)
    return client
  end
  return client
end

local function tick(milliseconds, callback)
  local timer = uv.new_timer()
  timers[#timers + 1] = timer
  timer:start(milliseconds, milliseconds, callback)
end

after_each(function()
  for _, timer in ipairs(timers) do timer:close() end
  timers = {}
  if app then app:close { grace = 0 } end
  net.finish()
end)

-- --- Connections of one address ---

describe("limits.address_connections", function()
  local opened

  before_each(function() opened = {} end)
  after_each(function()
    for _, client in ipairs(opened) do client.handle:close() end
  end)

  local function open(address)
    local client = connect_from(address)
    opened[#opened + 1] = client
    client.stream()
    return client
  end

  it("tells an EventSource above it to come back, and serves other addresses", function()
    listen { limits = { address_connections = 2 } }
    open("127.0.0.2").wait "chunked"
    open("127.0.0.2").wait "chunked"
    local third = open("127.0.0.2").wait "retry: %d+\n\n$"
    assert.truthy(third.received:find("^HTTP/1.1 200 OK\r\n"))
    net.wait(function() return third.ended end, "its end")
    open("127.0.0.3").wait "chunked"
    assert.equal(1, app:stats().rejected)
    assert.equal(3, app:stats().streams)
  end)

  it("has room again when one has left", function()
    listen { limits = { address_connections = 1 } }
    local first = open("127.0.0.2").wait "chunked"
    first.handle:read_stop()
    first.handle:shutdown()
    net.wait(function() return app:stats().connections == 0 end, "its end")
    open("127.0.0.2").wait "chunked"
  end)

  it("answers any other client 503 with Retry-After", function()
    listen { limits = { address_connections = 1 } }
    open("127.0.0.2").wait "chunked"
    local second = connect_from "127.0.0.2"
    opened[#opened + 1] = second
    second.get "/"
    second.wait "^HTTP/1.1 503 .*\r\nRetry%-After: %d"
  end)

  it("cuts those far above it without a word", function()
    listen { limits = { address_connections = 1 } }
    open("127.0.0.2").wait "chunked"
    local silent, cut = {}, 0
    for i = 1, 30 do
      silent[i] = connect_from "127.0.0.2"
      opened[#opened + 1] = silent[i]
    end
    net.wait(function()
      cut = 0
      for _, client in ipairs(silent) do cut = cut + (client.ended and 1 or 0) end
      return cut == 14 -- 16 may wait for what they are told
    end, function() return "14 that are cut, not " .. cut end)
  end)

  it("counts no loopback address where it is not given", function()
    listen { limits = { connections = 1000 } }
    for _ = 1, 20 do open("127.0.0.2").wait "chunked" end
    assert.equal(0, app:stats().rejected)
  end)

  it("counts the clients of a trusted proxy each by itself", function()
    listen { limits = { address_connections = 1 }, trusted = { "127.0.0.1" } }
    local function through(client_address)
      return net.connect(port):get("/events", { "Accept: text/event-stream", "X-Forwarded-For: " .. client_address })
    end
    local first = through "203.0.113.9"
    first:wait "chunked"
    through "203.0.113.10":wait "chunked"
    through "203.0.113.9":wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$"
    through "2001:db8::1":wait "chunked"
    through "2001:db8::ffff:1":wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$" -- of the same 64 bits
    through "2001:db8:0:1::1":wait "chunked"
    first:close()
    net.wait(function() return app:stats().streams == 3 end, "its end")
    through "203.0.113.9":wait "chunked"
  end)

  it("is 500 by default", function()
    listen { trusted = { "127.0.0.1" } }
    local proxy = { "Accept: text/event-stream", "X-Forwarded-For: 203.0.113.9" }
    for _ = 1, 500 do net.connect(port):get("/events", proxy) end
    net.wait(function() return app:stats().streams == 500 end, "500 streams")
    net.connect(port):get("/events", proxy):wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$"
  end)

  it("= false is no limit", function()
    listen { limits = { address_connections = false }, trusted = { "127.0.0.1" } }
    for _ = 1, 501 do
      net.connect(port):get("/events", { "X-Forwarded-For: 203.0.113.9" })
    end
    net.wait(function() return app:stats().streams == 501 end, "501 streams")
  end)
end)

-- --- Connections in all ---

describe("limits.connections", function()
  local stream = "Accept: text/event-stream"

  local function fill()
    listen { limits = { connections = 1 } }
    net.connect(port):get("/events"):wait "chunked"
  end

  it("answers one too many as soon as its head is there, and waits for no body", function()
    fill()
    local head = "%s HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n%s\r\n"
    local client = net.connect(port):send(head:format("POST /", ""))
    local status, fields = client:take()
    assert.same({ 503, "close" }, { status, fields.connection })
    net.connect(port):send(head:format("GET /events", stream .. "\r\n")):wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$"
    net.connect(port):send(head:format("POST /", "") .. "some of it"):wait "^HTTP/1.1 503 "
  end)

  it("gives it no more time where it goes on", function()
    fill()
    local start = uv.hrtime()
    local client = net.connect(port):send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    tick(100, function()
      if not client.ended then client.handle:try_write "x" end
    end)
    net.wait(function() return app:stats().connections == 1 end, "its end")
    local took = (uv.hrtime() - start) / 1e9
    assert(took < 4, took)
  end)

  it("tells no 200 to what is no GET, whatever it accepts", function()
    fill()
    local status, fields = net.connect(port):request("POST", "/", { "Accept: application/json, text/event-stream" },
      "a message"):take()
    assert.equal(503, status)
    assert.matches("^%d+$", fields["retry-after"])
  end)

  it("knows an EventSource by what it names, in whatever case", function()
    fill()
    for _, accept in ipairs { "Text/Event-Stream", "application/json, TEXT/EVENT-STREAM;q=0.5" } do
      net.connect(port):get("/events", { "Accept: " .. accept }):wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$"
    end
    for _, accept in ipairs { "*/*", "text/*", "text/plain" } do
      assert.equal(503, (net.connect(port):get("/events", { "Accept: " .. accept }):take()))
    end
  end)
end)

it("who is sent away is told a retry even where the app tells none", function()
  listen { retry = false, limits = { connections = 1 } }
  net.connect(port):get("/events"):wait "chunked"
  net.connect(port):get("/events", { "Accept: text/event-stream" }):wait "\r\n\r\nretry: %d%d%d%d\n\n$"
end)

-- --- Time ---

local function seconds_since(start) return (uv.hrtime() - start) / 1e9 end

local function late(start, limit)
  local took = seconds_since(start)
  assert(took >= limit - 0.01, took)
  assert(took < limit + 2, took)
end

describe("limits.header_seconds", function()
  local function drip(client, bytes)
    local at = 0
    tick(20, function()
      at = at + 1
      if at <= #bytes and not client.ended then client.handle:try_write(bytes:sub(at, at)) end
    end)
    return client
  end

  it("cuts a request that comes a byte at a time, and says why", function()
    listen { limits = { header_seconds = 0.3 } }
    local start = uv.hrtime()
    local client = drip(net.connect(port), ("GET / HTTP/1.1\r\nHost: a\r\nX-Filler: %s"):format(("x"):rep(200)))
    client:wait "^HTTP/1.1 408 "
    late(start, 0.3)
    client:wait_end()
  end)

  it("begins with the connection, and not anew with its first byte", function()
    listen { limits = { header_seconds = 0.4 } }
    local start = uv.hrtime()
    local client, sent = net.connect(port), false
    app:after(0.3, function()
      client:send "GET / HTT"
      sent = true
    end)
    client:wait "^HTTP/1.1 408 "
    assert.is_true(sent)
    late(start, 0.4)
    assert(seconds_since(start) < 0.65)
  end)

  it("closes a connection that says nothing", function()
    listen { limits = { header_seconds = 0.2 } }
    local start = uv.hrtime()
    assert.equal("", net.connect(port):wait_end())
    late(start, 0.2)
  end)

  it("of a kept connection begins with the next request's first byte", function()
    listen { limits = { header_seconds = 0.2, keep_alive_seconds = 5 } }
    local client = net.connect(port):get "/"
    client:take()
    local due
    app:after(0.4, function() due = true end)
    net.wait(function() return due end)
    assert.is_nil(client.ended or nil)
    local start = uv.hrtime()
    client:send "GET / HTTP/1.1\r\n"
    client:wait "^HTTP/1.1 408 "
    late(start, 0.2)
  end)
end)

describe("limits.body_seconds", function()
  local head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"

  it("cuts a body that comes too slowly, and says why", function()
    listen { limits = { body_seconds = 0.2, header_seconds = 0.1 } }
    local start = uv.hrtime()
    net.connect(port):send(head .. "12345"):wait "^HTTP/1.1 408 "
    late(start, 0.2)
  end)

  it("leaves a body its time that header_seconds would not", function()
    listen { limits = { body_seconds = 5, header_seconds = 0.1 } }
    local client = net.connect(port):send(head)
    local due
    app:after(0.3, function() due = true end)
    net.wait(function() return due end)
    client:send "1234567890"
    local status, _, body = client:take()
    assert.same({ 200, "10" }, { status, body })
  end)
end)

describe("limits.keep_alive_seconds", function()
  it("closes a connection that brings no next request, without a word", function()
    listen { limits = { keep_alive_seconds = 0.2 } }
    local client = net.connect(port):get "/"
    client:take()
    local start = uv.hrtime()
    assert.equal("", client:wait_end())
    late(start, 0.2)
    assert.is_nil(client.failure)
  end)
end)

-- --- Requests ---

describe("limits.pipelined", function()
  local one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

  local function count(client, what) return select(2, client.received:gsub(what, "")) end

  it("answers so many that stand behind one another, and closes, and says so", function()
    listen { limits = { pipelined = 3 } }
    local client = net.connect(port):send(one:rep(10))
    client:wait_end()
    assert.equal(4, count(client, "HTTP/1.1 200 "))
    assert.equal(1, count(client, "Connection: close"))
    assert.equal(4, app:stats().requests)
  end)

  it("counts none that came by itself", function()
    listen { limits = { pipelined = 1 } }
    local client = net.connect(port)
    for _ = 1, 5 do
      client:send(one)
      assert.equal(200, (client:take()))
    end
  end)

  it("is 100 by default", function()
    listen()
    local client = net.connect(port):send(one:rep(150))
    client:wait_end()
    assert.equal(101, count(client, "HTTP/1.1 200 "))
  end)
end)

-- --- What waits in all ---

describe("limits.total_bytes", function()
  local MIB = 1048576

  it("refuses a body that does not fit beside the others, and counts none that is done", function()
    listen { limits = { total_bytes = 3 * MIB, body_bytes = 2 * MIB } }
    local head = ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"):format(2 * MIB)
    local first = net.connect(port):send(head .. ("x"):rep(MIB + 1))
    net.wait(function() return app:stats().backlog > MIB end, "half of a body")
    local status, fields = net.connect(port):send(head):take()
    assert.equal(503, status)
    assert.truthy(fields["retry-after"])
    first:send(("x"):rep(MIB - 1))
    assert.equal(200, (first:take()))
    local third = net.connect(port):send(head)
    third:send(("x"):rep(2 * MIB))
    assert.equal(200, (third:take()))
  end)

  it("counts a body as it comes, and none that was only announced", function()
    listen { limits = { total_bytes = MIB, body_bytes = MIB } }
    local expecting = ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"):format(MIB)
    for _ = 1, 4 do net.connect(port):send(expecting):wait "^HTTP/1.1 100 " end
    assert.equal(0, app:stats().backlog)
    local status, _, body = net.connect(port):request("POST", "/", nil, "x"):take()
    assert.same({ 200, "1" }, { status, body })
  end)

  it("counts what stands behind a request that is being answered", function()
    local resume
    app = eventstream.new()
    app:get("/", function() return (eventstream.await(function(r) resume = r end)) end)
    app:post("/", function(request) return tostring(#request.body) end)
    port = assert(app:listen { port = 0 }).port
    local client = net.connect(port):send("GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\n"
      .. "Content-Length: 1000\r\n\r\n" .. ("x"):rep(1000))
    net.wait(function() return resume end, "the first request")
    assert(app:stats().backlog > 1000, app:stats().backlog)
    resume "first"
    client:wait "first.*\r\n\r\n1000$"
    assert.equal(0, app:stats().backlog)
  end)

  it("refuses a body in chunks when it has grown too large", function()
    listen { limits = { total_bytes = MIB, body_bytes = 4 * MIB } }
    local client = net.connect(port):send "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    client:send(("10000\r\n%s\r\n"):format(("x"):rep(65536)):rep(40))
    client:wait "^HTTP/1.1 503 "
  end)

  it("holds for all streams' backlogs together: a send is refused that its own limit would allow", function()
    local streams, answers = {}, {}
    app = eventstream.new { limits = { total_bytes = MIB, backlog_bytes = MIB } }
    app:stream("/", function(stream)
      streams[#streams + 1] = stream
      stream:hold()
    end)
    port = assert(app:listen { port = 0 }).port
    for i = 1, 4 do
      local client = net.connect(port):get "/"
      net.wait(function() return #streams == i end, "a stream")
      client:wait "chunked"
      client:pause()
    end
    local event = ("x"):rep(16384)
    net.wait(function()
      for i, stream in ipairs(streams) do
        for _ = 1, 32 do
          local ok, why = stream:send(event)
          answers[i] = why
          assert(ok or why == "backlog", why)
        end
      end
      return answers[1] and answers[2] and answers[3] and answers[4]
    end, "full backlogs")
    local waiting = app:stats().backlog
    assert(waiting <= MIB + 4 * #event, waiting)
    assert(waiting > MIB / 2, waiting)
  end)

  it("answers 503 instead of a large answer that nobody may ever read", function()
    app = eventstream.new { limits = { total_bytes = 20 * MIB } }
    app:get("/", function() return 200, ("x"):rep(8 * MIB) end)
    port = assert(app:listen { port = 0 }).port
    for _ = 1, 2 do
      local client = net.connect(port)
      client:pause()
      client:get "/"
    end
    net.wait(function() return app:stats().requests == 2 end, "two large answers")
    net.settle()
    local client = net.connect(port):get "/"
    client:wait "^HTTP/1.1 503 .*Retry%-After: "
  end)
end)

-- --- The close after a refusal ---

describe("the answer to a request that is refused", function()
  it("reaches a client that is sending for seconds still", function()
    listen { limits = { body_bytes = 1000 } }
    local client = net.connect(port):send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
    client:pause()
    local sent = 0
    tick(100, function()
      sent = sent + 1
      if sent <= 35 then client.handle:write(("x"):rep(10000)) end
    end)
    net.wait(function() return sent >= 35 end, "3.5 seconds of a body")
    client:resume()
    client:wait "^HTTP/1.1 413 "
    client:shutdown()
    client:wait_end()
    assert.is_nil(client.failure)
  end)
end)

-- --- Descriptors ---

describe("without a descriptor left", function()
  local SERVER = [[
    local eventstream = require "eventstream"
    local app = eventstream.new()
    app:stream("/events", function(stream) stream:hold() end)
    app:get("/", function() return tostring(app:stats().streams) end)
    local listener = assert(app:listen { port = 0 })
    io.stderr:write("port ", listener.port, "\n")
    eventstream.run()
  ]]
  local server

  after_each(process.kill_all)

  local function start()
    local interpreter = process.interpreter()
    server = process.spawn("sh", { "-c", 'ulimit -n 80; exec "$0" -e "$1"', interpreter, SERVER })
    port = tonumber((server:wait_line "^port (%d+)"))
  end

  local function cpu_seconds()
    local file = assert(io.open(("/proc/%d/stat"):format(server.pid)))
    local user, system = file:read("*a"):match "%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
    file:close()
    return (tonumber(user) + tonumber(system)) / 100
  end

  it("tells who comes to come back, and serves again when there is one", function()
    start()
    local streams, away = {}, 0
    for _ = 1, 120 do
      local client = net.connect(port):get("/events", { "Accept: text/event-stream" })
      client:wait "\r\n\r\n"
      if client.received:find "chunked" then
        streams[#streams + 1] = client
      else
        client:wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$"
        away = away + 1
      end
    end
    assert(#streams > 20, #streams)
    assert(away > 20, away)
    net.connect(port):get("/"):wait "^HTTP/1.1 503 "
    for i = 1, 10 do streams[i]:close() end
    net.wait(function()
      local client = net.connect(port):get "/"
      return client:take() == 200
    end, "an ordinary answer")
  end)

  it("tells who comes to come back while others keep the bodies that they announced", function()
    start()
    for _ = 1, 90 do
      net.connect(port):send "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    end
    net.connect(port):get("/events", { "Accept: text/event-stream" }):wait "\r\n\r\nretry: %d+\n\n$"
  end)

  it("does not spin while those who are told say nothing, and closes who only waits for a next request", function()
    start()
    local clients, silent = {}, {}
    for i = 1, 12 do
      clients[i] = net.connect(port):get "/"
      clients[i]:take()
    end
    local streams = 0
    for _ = 1, 60 do
      local client = net.connect(port):get("/events", { "Accept: text/event-stream" })
      client:wait "\r\n\r\n"
      if client.received:find "chunked" then streams = streams + 1 end
    end
    net.wait(function() return clients[1].ended end, "the end of who waited")
    for i = 1, 60 do silent[i] = net.connect(port) end
    local before, over = cpu_seconds(), false
    tick(1000, function() over = true end)
    net.wait(function() return over end, "a second")
    local used = cpu_seconds() - before
    assert(used < 0.3, used)
    net.wait(function() return silent[1].ended end, "the end of one that said nothing")
    net.connect(port):get("/"):wait "^HTTP/1.1 "
  end)
end)
