-- Who may come in: hosts, origins, trusted proxies, and the functions that come before a route.
local eventstream = require "eventstream"
local net = require "spec.support.net"

local app, port, seen

local function listen(options, listen_options)
  seen = {}
  app = net.serve(function(one)
    one:get("/", function(request)
      seen[#seen + 1] = request
      return request.remote or "nowhere"
    end)
    one:stream("/events", function(stream, request)
      seen[#seen + 1] = request
      stream:send(request.remote or "nowhere")
    end)
  end, options)
  port = assert(app:listen(listen_options or { port = 0 })).port
end

local function ask(lines, target)
  local client = net.connect(port)
  client:send(("GET %s HTTP/1.1\r\n%s\r\n\r\n"):format(target or "/", table.concat(lines, "\r\n")))
  local status, fields, body = client:take()
  client:close()
  return status, body, fields
end

after_each(net.finish)

describe("hosts", function()
  local function status_of(host, target) return (ask({ "Host: " .. host }, target)) end

  it("refuses requests that name another one with 421, before anything of the script's runs", function()
    listen { hosts = { "example.com", "*.example.org", "localhost:8080", "[::1]" } }
    for _, host in ipairs { "example.com", "EXAMPLE.com", "example.com:1234", "example.com.", "a.example.org",
      "a.b.example.org:80", "localhost:8080", "[::1]", "[::1]:8080" } do
      assert.equal(200, status_of(host), host)
    end
    local count = #seen
    for _, host in ipairs { "evil.com", "example.com.evil.com", "evilexample.com", "example.org", "localhost",
      "localhost:80", "[::2]", "127.0.0.1", "" } do
      assert.equal(421, status_of(host), host)
    end
    assert.equal(count, #seen)
  end)

  it("looks at a target that names a host, too", function()
    listen { hosts = { "example.com" } }
    assert.equal(200, status_of("example.com", "http://example.com/"))
    assert.equal(421, status_of("example.com", "http://evil.com/"))
    assert.equal(421, status_of("evil.com", "http://example.com/"))
  end)

  it("refuses a client that names none", function()
    listen { hosts = { "example.com" } }
    local client = net.connect(port):send "GET / HTTP/1.0\r\n\r\n"
    assert.equal(421, (client:take()))
  end)

  it("holds for streams, and for paths that have no route", function()
    listen { hosts = { "example.com" } }
    assert.equal(421, status_of("evil.com", "/events"))
    assert.equal(421, status_of("evil.com", "/nothing"))
    assert.equal(404, status_of("example.com", "/nothing"))
  end)
end)

describe("origins", function()
  local function status_of(origin) return (ask { "Host: a", "Origin: " .. origin }) end

  it("refuses pages of another one with 403, before anything of the script's runs", function()
    listen { origins = { "https://example.com", "http://localhost:3000", "https://*.example.org" } }
    for _, origin in ipairs { "https://example.com", "HTTPS://Example.com", "http://localhost:3000",
      "https://a.example.org" } do
      assert.equal(200, status_of(origin), origin)
    end
    local count = #seen
    for _, origin in ipairs { "http://example.com", "https://example.com:444", "https://example.com.evil.com",
      "http://localhost", "https://example.org", "http://a.example.org", "null", "https://evil.com/.example.org" } do
      assert.equal(403, status_of(origin), origin)
    end
    assert.equal(count, #seen)
  end)

  it("lets in who names none, as no browser does across origins", function()
    listen { origins = { "https://example.com" } }
    assert.equal(200, (ask { "Host: a" }))
  end)

  it("may list those without one of their own", function()
    listen { origins = { "null" } }
    assert.equal(200, status_of "null")
  end)
end)

describe("who is refused by hosts or origins", function()
  it("is counted by the reason, and is a request", function()
    listen { hosts = { "a" }, origins = { "https://a.example" } }
    app:page(421, function() return "a page" end)
    ask { "Host: a", "Origin: https://a.example" }
    ask { "Host: b" }
    ask { "Host: b", "Origin: https://b.example" }
    ask({ "Host: b" }, "/events")
    ask { "Host: a", "Origin: https://b.example" }
    ask({ "Host: a", "Origin: https://b.example" }, "/nothing")
    local stats = app:stats()
    assert.same({ 3, 2, 5, 6 }, { stats.rejected_host, stats.rejected_origin, stats.rejected, stats.requests })
    local text = eventstream.metrics(app)
    assert.matches('eventstream_rejected_total{reason="host"} 3\n', text, 1, true)
    assert.matches('eventstream_rejected_total{reason="origin"} 2\n', text, 1, true)
  end)
end)

describe("request.remote", function()
  local function remote(lines) return select(2, ask({ "Host: a", (table.unpack or unpack)(lines) })) end -- luacheck: ignore

  it("is what a trusted proxy says, and nobody else", function()
    listen { trusted = { "127.0.0.1", "10.0.0.0/8" } }
    assert.equal("127.0.0.1", remote {})
    assert.equal("203.0.113.9", remote { "X-Forwarded-For: 203.0.113.9" })
    assert.equal("203.0.113.9", remote { "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.1.1" })
    assert.equal("203.0.113.9", remote { "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9" })
    assert.equal("127.0.0.1", remote { "X-Forwarded-For: unknown" })
    assert.equal("127.0.0.1", remote { "Forwarded: for=6.6.6.6" })
  end)

  it("is the socket's where nobody is trusted, or others are", function()
    listen()
    assert.equal("127.0.0.1", remote { "X-Forwarded-For: 6.6.6.6" })
    app:close { grace = 0 }
    listen { trusted = { "10.0.0.0/8" } }
    assert.equal("127.0.0.1", remote { "X-Forwarded-For: 6.6.6.6" })
  end)

  it("comes from Forwarded where that is what proxies write", function()
    listen { trusted = { "127.0.0.1", header = "Forwarded" } }
    assert.equal("2001:db8::9", remote { 'Forwarded: for=6.6.6.6, for="[2001:db8::9]:4711";proto=https' })
    assert.equal("127.0.0.1", remote { "X-Forwarded-For: 6.6.6.6" })
  end)

  it("comes from a proxy behind a Unix socket", function()
    local path = os.tmpname()
    os.remove(path)
    listen({ trusted = { "unix" } }, { path = path })
    local client = net.connect(path):get("/", { "X-Forwarded-For: 203.0.113.9" })
    assert.equal("203.0.113.9", (select(3, client:take())))
  end)
end)

describe("the PROXY protocol", function()
  local V2 = "\r\n\r\n\0\r\nQUIT\n\33\17\0\12\203\0\113\9\192\0\2\2\220\4\1\187"
  local request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

  local function answer(bytes)
    local client = net.connect(port):send(bytes)
    local status, _, body = client:take()
    return status, body
  end

  local function refused(bytes)
    local client = net.connect(port):send(bytes)
    assert.equal("", client:wait_end())
    assert.equal(0, #seen)
  end

  it("names the client, in its first form and in its second", function()
    listen({ trusted = { "127.0.0.1" } }, { port = 0, proxy_protocol = true })
    local status, body = answer("PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\r\n" .. request)
    assert.same({ 200, "203.0.113.9" }, { status, body })
    status, body = answer(V2 .. request)
    assert.same({ 200, "203.0.113.9" }, { status, body })
    status, body = answer("PROXY UNKNOWN\r\n" .. request)
    assert.same({ 200, "127.0.0.1" }, { status, body })
  end)

  it("that names nobody lets nobody name himself", function()
    listen({ trusted = { "127.0.0.1", "203.0.113.9" } }, { port = 0, proxy_protocol = true })
    local says = request:gsub("\r\n\r\n", "\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
    for _, header in ipairs { "PROXY UNKNOWN\r\n", "\r\n\r\n\0\r\nQUIT\n\32\0\0\0",
      "\r\n\r\n\0\r\nQUIT\n\33\49\0\216" .. ("\0"):rep(216) } do
      assert.same({ 200, "127.0.0.1" }, { answer(header .. says) })
    end
    assert.same({ 200, "6.6.6.6" }, { answer(V2 .. says) }) -- a trusted proxy before that one
  end)

  it("may come in pieces, and the request in those behind", function()
    listen({ trusted = { "127.0.0.1" } }, { port = 0, proxy_protocol = true })
    local client = net.connect(port)
    for byte in (V2 .. request .. request):gmatch "[%z\1-\255]" do
      client:send(byte)
      net.settle()
    end
    assert.equal(200, (client:take()))
    assert.equal(200, (client:take()))
  end)

  it("is not for who is not trusted, and not to be left out", function()
    listen({ trusted = { "10.0.0.1" } }, { port = 0, proxy_protocol = true })
    refused("PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\r\n" .. request)
    app:close { grace = 0 }
    listen({ trusted = { "127.0.0.1" } }, { port = 0, proxy_protocol = true })
    refused(request)
    refused("PROXY TCP4 203.0.113.9\r\n" .. request)
    assert.equal(2, app:stats().rejected)
  end)

  it("is a malformed request where no listener expects it", function()
    listen { trusted = { "127.0.0.1" } }
    assert.equal(400, (answer("PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\r\n" .. request)))
  end)

  it("has the time of a head", function()
    listen({ trusted = { "127.0.0.1" }, limits = { header_seconds = 0.1 } }, { port = 0, proxy_protocol = true })
    refused "PROXY TCP4"
  end)

  it("tells whose connections are counted", function()
    listen({ trusted = { "127.0.0.1" }, limits = { address_connections = 1 } }, { port = 0, proxy_protocol = true })
    local stream = "GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
    app:stream("/hold", function(opened) opened:hold() end)
    local held = stream:gsub("/events", "/hold")
    local first = net.connect(port):send("PROXY TCP4 203.0.113.9 192.0.2.2 1 443\r\n" .. held)
    first:wait "chunked"
    net.connect(port):send("PROXY TCP4 203.0.113.8 192.0.2.2 1 443\r\n" .. held):wait "chunked"
    net.connect(port):send("PROXY TCP4 203.0.113.9 192.0.2.2 2 443\r\n" .. held):wait "\r\n\r\nretry: %d+\n\n$"
  end)
end)

describe("app:before", function()
  it("lets a request through with what it learned", function()
    listen()
    app:before(function(request) request.user = "ann of " .. request.path end)
    ask { "Host: a" }
    net.connect(port):get "/events":wait_end()
    assert.equal("ann of /", seen[1].user)
    assert.equal("ann of /events", seen[2].user)
  end)

  it("answers instead of any route, also where there is none", function()
    listen()
    app:before(function(request)
      if request.query.key ~= "secret" then return 401, "who are you?", { ["WWW-Authenticate"] = "Basic" } end
    end)
    for _, target in ipairs { "/", "/events", "/nothing" } do
      local status, body, fields = ask({ "Host: a" }, target)
      assert.same({ 401, "who are you?", "Basic" }, { status, body, fields["www-authenticate"] })
    end
    assert.equal(0, #seen)
    assert.equal(200, (ask({ "Host: a" }, "/?key=secret")))
    assert.equal(404, (ask({ "Host: a" }, "/nothing?key=secret")))
    net.connect(port):get "/events?key=secret":wait "data: 127.0.0.1\n\n"
  end)

  it("holds for HEAD, OPTIONS and methods without a route", function()
    listen()
    local open = false
    app:before(function() if not open then return 403 end end)
    local function status_of(method, target)
      local client = net.connect(port):request(method, target)
      return (client:take(method == "HEAD"))
    end
    assert.equal(403, status_of("HEAD", "/events"))
    assert.equal(403, status_of("HEAD", "/"))
    assert.equal(403, status_of("OPTIONS", "/"))
    assert.equal(403, status_of("POST", "/"))
    open = true
    assert.equal(200, status_of("HEAD", "/events"))
    assert.equal(204, status_of("OPTIONS", "/"))
    assert.equal(405, status_of("POST", "/"))
    local _, fields = net.connect(port):request("HEAD", "/events"):take(true)
    assert.equal("text/event-stream", fields["content-type"])
    assert.is_nil(fields["content-length"])
    assert.same({}, app.errors)
  end)

  it("may redirect", function()
    listen()
    app:before(function() return 302, "", { Location = "/login" } end)
    local status, _, fields = ask { "Host: a" }
    assert.same({ 302, "/login" }, { status, fields.location })
  end)

  it("runs several in order, until one answers", function()
    listen()
    local order = {}
    app:before(function() order[#order + 1] = 1 end)
    app:before(function()
      order[#order + 1] = 2
      return 204
    end)
    app:before(function() order[#order + 1] = 3 end)
    assert.equal(204, (ask { "Host: a" }))
    assert.same({ 1, 2 }, order)
  end)

  it("may wait, and the stream it refuses has not begun", function()
    listen()
    app:before(function(request)
      local user = eventstream.await(function(resume) app:after(0.01, function() resume(request.query.user) end) end)
      if not user then return 401 end
      request.user = user
    end)
    assert.equal(401, (ask({ "Host: a" }, "/events")))
    net.connect(port):get "/events?user=ann":wait "data: 127"
    assert.equal("ann", seen[1].user)
    assert.equal("127.0.0.1", (select(2, ask({ "Host: a" }, "/?user=bob"))))
  end)

  it("sees the path that the routes see, however it was sent", function()
    listen()
    local paths = {}
    app:get("/secret~/a b/:name", function(request) return request.params.name end)
    app:before(function(request)
      paths[#paths + 1] = request.path
      if request.path:find("/secret~/", 1, true) then return 403 end
    end)
    for _, target in ipairs { "/secret~/a%20b/c", "/%73ecret%7E/a%20b/c", "/%73%65%63%72%65%74%7e/%61%20b/c?d",
      "http://a/secret%7e/a%20b/%63" } do
      assert.equal(403, (ask({ "Host: a" }, target)), target)
    end
    for _, path in ipairs(paths) do assert.equal("/secret~/a%20b/c", path) end
    for _, target in ipairs { "/%73ecret~%2Fa%20b/c", "//secret%7E/a%20b/c", "/%%373ecret~/a%20b/c" } do
      assert.not_equal(200, (ask({ "Host: a" }, target)), target)
    end
  end)

  it("sees the parameters of the route that it comes before", function()
    listen()
    local room
    app:get("/rooms/:room", function() return "in" end)
    app:before(function(request) room = request.params.room end)
    assert.equal(200, (ask({ "Host: a" }, "/rooms/red")))
    assert.equal("red", room)
  end)

  it("lets nobody in when it fails: an EventSource comes back later, others get 500", function()
    listen()
    app:before(function() error "the database is away" end)
    assert.equal(500, (ask { "Host: a" }))
    net.connect(port):get "/events":wait "^HTTP/1.1 200 .*\r\n\r\nretry: %d+\n\n$"
    assert.equal(0, #seen)
    assert.equal(2, #app.errors)
    assert.truthy(app.errors[1].message:find("the database is away", 1, true))
  end)

  it("is told of a bad answer like a handler", function()
    listen()
    app:before(function() return 99 end)
    assert.equal(500, (ask { "Host: a" }))
    assert.truthy(app.errors[1].message:find("before GET /: status must be a whole number from 200 to 599, not 99", 1,
      true))
  end)

  it("is told apart from what is no function", function()
    listen()
    assert.has_error(function() app:before "x" end, "before: function expected, got string")
    assert.has_error(function() app.before(function() end) end, "before: call it with a colon: app:before(...)")
  end)
end)

describe("stream:expire", function()
  local reason, result

  local function open(seconds, options)
    reason, result = nil, nil
    app, port = net.serve(function(one)
      one:stream("/", function(stream)
        stream:on_close(function(why) reason = why end)
        result = { stream:expire(seconds) }
        stream:hold()
      end)
    end, options)
    return net.connect(port):get "/"
  end

  it("ends a stream then, in order, as \"expired\"", function()
    local client = open(0.1)
    client:wait_end()
    assert.is_true((select(4, client:answer())))
    assert.equal("expired", reason)
    assert.same({ true }, result)
  end)

  it("ends one that was expired before it began, once it has begun", function()
    for _, seconds in ipairs { 0, -100 } do
      local client = open(seconds)
      client:wait_end()
      assert.equal(200, (client:answer()))
      assert.equal("expired", reason)
    end
  end)

  local function wait_before_it_begins(method, seconds)
    local waited
    reason = nil
    app, port = net.serve(function(one)
      one:stream("/", { methods = { method } }, function(stream)
        stream:on_close(function(why) reason = why end)
        stream:expire(seconds)
        waited = { eventstream.await(function() end) }
      end)
    end, { heartbeat = 0.02 })
    local client = net.connect(port):request(method, "/")
    client:wait_end()
    assert.equal("expired", reason)
    assert.same({ nil, "closed" }, waited)
    return client:answer()
  end

  it("ends one that has not begun by then, and an EventSource comes back", function()
    for _, seconds in ipairs { 0.1, 0 } do
      local status, fields, body = wait_before_it_begins("GET", seconds)
      assert.same({ 200, "text/event-stream" }, { status, fields["content-type"] })
      assert.matches("^retry: %d+\n\n$", body)
    end
    local status, fields = wait_before_it_begins("POST", 0.1)
    assert.equal(503, status)
    assert.matches("^%d+$", fields["retry-after"])
  end)

  it("does not lengthen what was shorter", function()
    local client = open(60, { limits = { stream_seconds = 0.1 } })
    client:wait_end()
    assert.equal("expired", reason)
    app, port = net.serve(function(one)
      one:stream("/", function(stream)
        stream:expire(0.1)
        stream:expire(60)
        stream:hold()
      end)
    end)
    net.connect(port):get "/":wait_end()
  end)

  it("holds for what is told later, too, while heartbeats come", function()
    app, port = net.serve(function(one)
      one:stream("/", function(stream)
        stream:on_close(function(why) reason = why end)
        stream:after(0.05, function() stream:expire(0.1) end)
        stream:hold()
      end)
    end, { heartbeat = 0.02 })
    net.connect(port):get "/":wait_end()
    assert.equal("expired", reason)
  end)

  it("may be far away, and is refused where it is no number", function()
    local client = open(1e300)
    client:wait "chunked"
    assert.same({ true }, result)
    app:close { grace = 0 }
    open "soon":wait_end()
    assert.truthy(app.errors[1].message:find("expire: seconds must be a number, not string", 1, true))
  end)

  it("of a stream that is over says so", function()
    local late
    app, port = net.serve(function(one)
      one:stream("/", function(stream)
        stream:close()
        late = { stream:expire(1) }
      end)
    end)
    net.connect(port):get "/":wait_end()
    assert.same({ nil, "closed" }, late)
  end)
end)

describe("a bad option says what it must be:", function()
  for _, case in ipairs {
    { { hosts = "example.com" }, "new: hosts must be a list of hosts, as { 'example.com', '*.example.com', "
      .. "'localhost:8080' }, not 'example.com'" },
    { { hosts = {} }, "new: hosts must be a list of hosts, as { 'example.com', '*.example.com', "
      .. "'localhost:8080' }, not a table" },
    { { hosts = { "http://example.com" } }, "new: hosts must be a list of hosts, as { 'example.com', "
      .. "'*.example.com', 'localhost:8080' }, not 'http://example.com'" },
    { { hosts = { "a.*.com" } }, "new: hosts must be a list of hosts, as { 'example.com', "
      .. "'*.example.com', 'localhost:8080' }, not 'a.*.com'" },
    { { hosts = { "*example.com" } }, "new: hosts must be a list of hosts, as { 'example.com', "
      .. "'*.example.com', 'localhost:8080' }, not '*example.com'" },
    { { hosts = { "*" } }, "new: hosts must be a list of hosts, as { 'example.com', "
      .. "'*.example.com', 'localhost:8080' }, not '*'" },
    { { origins = { "https://*example.com" } }, "new: origins must be a list of origins without a path, as "
      .. "{ 'https://example.com' }, not 'https://*example.com'" },
    { { cors = { origins = { "https://*" }, credentials = true } }, "new: cors.origins must be a list of origins "
      .. "without a path, as { 'https://example.com' }, not 'https://*'" },
    { { origins = { "example.com" } }, "new: origins must be a list of origins without a path, as "
      .. "{ 'https://example.com' }, not 'example.com'" },
    { { origins = { "https://example.com/" } }, "new: origins must be a list of origins without a path, as "
      .. "{ 'https://example.com' }, not 'https://example.com/'" },
    { { trusted = { "localhost" } }, "new: trusted must be a list of addresses and networks, as { '127.0.0.1', "
      .. "'10.0.0.0/8', 'unix' }, not 'localhost'" },
    { { trusted = { "10.0.0.0/33" } }, "new: trusted must be a list of addresses and networks, as { '127.0.0.1', "
      .. "'10.0.0.0/8', 'unix' }, not '10.0.0.0/33'" },
    { { trusted = { "::1", header = "X-Real-IP" } }, "new: trusted must be a list whose header is 'X-Forwarded-For' "
      .. "(the default) or 'Forwarded', not 'X-Real-IP'" },
    { { trusted = { "::1", headers = "Forwarded" } }, "new: trusted must be a list of addresses and networks, as "
      .. "{ '127.0.0.1', '10.0.0.0/8', 'unix' }, not 'headers'" },
    { { limits = { address_connections = 0 } }, "new: limits.address_connections must be a whole number, 1 or more, "
      .. "or false, not 0" },
  } do
    it(case[2], function()
      assert.has_error(function() eventstream.new(case[1]) end, case[2])
    end)
  end

  it("proxy_protocol without a trusted proxy", function()
    listen()
    assert.has_error(function() app:listen { port = 0, proxy_protocol = true } end, "listen: proxy_protocol needs "
      .. "proxies that are trusted: eventstream.new { trusted = { '127.0.0.1' } }")
  end)
end)
