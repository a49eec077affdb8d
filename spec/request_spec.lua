--- What a script sees of a request, in whatever pieces it comes, and what the server answers to what is none.

local eventstream = require "eventstream"
local net = require "spec.support.net"

local HOST = "Host: localhost\r\n"

-- Everything of a request in plain tables, as it was when the handler ran.
local function copy(request)
  local seen = { query_all = request.query_all }
  for _, name in ipairs { "method", "path", "target", "body", "remote", "version" } do seen[name] = request[name] end
  for _, name in ipairs { "query", "params", "cookies", "headers" } do
    seen[name] = {}
    for key, value in pairs(request[name]) do seen[name][key] = value end
  end
  return seen
end

describe("request", function()
  after_each(net.finish)

  local requests -- those that came, as copies

  -- A server that keeps what comes to the paths, and answers 204; its port.
  local function listen(paths, options)
    requests = {}
    local _, port = net.serve(function(app)
      for _, path in ipairs(paths) do
        for _, method in ipairs { "GET", "POST", "PUT", "DELETE" } do
          app:route(method, path, function(request)
            local seen = copy(request)
            seen.route = path
            requests[#requests + 1] = seen
          end)
        end
      end
    end, options)
    return port
  end

  -- What the server sees of one request: a target, further header lines, a body.
  local function get(paths, target, lines)
    local client = net.connect(listen(paths))
    client:get(target, lines)
    assert.equal(204, (client:take()))
    return requests[1]
  end

  -- The status and the text that a target gets.
  local function refused(paths, target)
    local client = net.connect(listen(paths))
    client:get(target)
    local status, _, body = client:take()
    assert.equal(0, #requests)
    return status, body
  end

  describe("has", function()
    it("the method", function()
      local client = net.connect(listen { "/" })
      for i, method in ipairs { "GET", "POST", "PUT", "DELETE" } do
        client:request(method, "/", nil, "")
        client:take()
        assert.equal(method, requests[i].method)
      end
    end)

    it("the target as it was sent, and the path of it", function()
      local request = get({ "/a/:b" }, "/a/b%20c?d=%41&e")
      assert.equal("/a/b%20c?d=%41&e", request.target)
      assert.equal("/a/b%20c", request.path)
    end)

    it("the path of an absolute target (RFC 9112, 3.2.2)", function()
      assert.equal("/a", get({ "/a" }, "http://localhost:80/a?b=c").path)
      assert.equal("/", get({ "/" }, "http://localhost").path)
      local request = get({ "/" }, "http://localhost?b=c")
      assert.same({ "/", { b = "c" } }, { request.path, request.query })
    end)

    it("the version", function()
      local port = listen { "/" }
      net.connect(port):send("GET / HTTP/1.1\r\n" .. HOST .. "\r\n"):take()
      net.connect(port):send("GET / HTTP/1.0\r\n\r\n"):take()
      assert.same({ "1.1", "1.0" }, { requests[1].version, requests[2].version })
    end)

    it("the client's address", function()
      assert.equal("127.0.0.1", get({ "/" }, "/").remote)
    end)

    it("an empty body and empty tables where nothing was sent", function()
      local request = get({ "/" }, "/")
      assert.equal("", request.body)
      assert.same({ {}, {}, {}, {} }, { request.query, request.query_all, request.params, request.cookies })
    end)
  end)

  describe("query", function()
    local function query(text)
      return get({ "/" }, "/?" .. text).query
    end

    it("is decoded: + and %XX, in names and in values", function()
      assert.same({ ["a b"] = "c d", ["e&"] = "=+\195\169" }, query "a+b=c%20d&e%26=%3D%2B%c3%A9")
    end)

    it("keeps a % that is no escape", function()
      assert.same({ a = "100%", b = "%zz", c = "%4" }, query "a=100%&b=%zz&c=%4")
    end)

    it("may have empty values, and names without a value", function()
      assert.same({ a = "", b = "", [""] = "c" }, query "a=&b&=c")
    end)

    it("splits at the first = only, and passes over empty pieces", function()
      assert.same({ a = "b=c", d = "e?f" }, query "&a=b=c&&d=e?f&")
    end)

    it("has the last value of a repeated key, and query_all has all", function()
      local request = get({ "/" }, "/?a=1&b=2&a=3&%61=4")
      assert.same({ a = "4", b = "2" }, request.query)
      assert.same({ a = { "1", "3", "4" }, b = { "2" } }, request.query_all)
    end)
  end)

  describe("params", function()
    it("are decoded after the path is split, so that %2F separates nothing", function()
      local request = get({ "/:name/:file" }, "/a%2Fb/%E2%82%AC%20c+d")
      assert.same({ name = "a/b", file = "\226\130\172 c+d" }, request.params)
    end)

    it("of a rest are all that is left of the path", function()
      assert.same({ ["*"] = "a/b c/d" }, get({ "/files/*" }, "/files/a/b%20c/d").params)
    end)

    it("of a rest may be empty", function()
      assert.same({ ["*"] = "" }, get({ "/files/*" }, "/files/").params)
    end)

    it("match no empty segment", function()
      assert.equal(404, (refused({ "/rooms/:room" }, "/rooms/")))
    end)

    it("that hold a NUL or a broken escape are a bad request", function()
      assert.equal(400, (refused({ "/:name" }, "/a%00b")))
      assert.equal(400, (refused({ "/:name" }, "/a%zz")))
      assert.equal(400, (refused({ "/:name" }, "/a%4")))
    end)

    local ROUTES = { "/a/b", "/a/:one", "/a/*", "/:first/b", "/:first/c", "/*" }

    for path, route in pairs {
      ["/a/b"] = "/a/b", ["/a/%62"] = "/a/b", ["/a/x"] = "/a/:one", ["/a/x/y"] = "/a/*", ["/a/"] = "/a/*",
      ["/x/b"] = "/:first/b", ["/x/c"] = "/:first/c", ["/x/d"] = "/*", ["/"] = "/*", ["/a"] = "/*",
    } do
      it(("of %s are those of %s (literal before parameter before rest)"):format(path, route), function()
        assert.equal(route, get(ROUTES, path).route)
      end)
    end

    it("are found where the literal leads nowhere", function()
      assert.same({ first = "a" }, get({ "/a/b", "/:first/c" }, "/a/c").params)
    end)
  end)

  describe("cookies", function()
    it("are split and unquoted", function()
      local request = get({ "/" }, "/", { 'Cookie: a=1; b="two words";c=x=y; empty=; lone' })
      assert.same({ a = "1", b = "two words", c = "x=y", empty = "", lone = "" }, request.cookies)
    end)

    it("come from all Cookie headers, the first of a name wins", function()
      local request = get({ "/" }, "/", { "Cookie: a=1; b=2", "cookie: b=3; c=4" })
      assert.same({ a = "1", b = "2", c = "4" }, request.cookies)
      assert.equal("a=1; b=2; b=3; c=4", request.headers.cookie)
    end)
  end)

  describe("headers", function()
    it("are looked up in any case", function()
      local found
      local _, port = net.serve(function(app)
        app:get("/", function(request)
          local headers = request.headers
          found = { headers["x-thing"], headers["X-Thing"], headers["X-THING"], headers.Host, headers.none or "none" }
        end)
      end)
      net.connect(port):get("/", { "X-tHiNg: v" }):take()
      assert.same({ "v", "v", "v", "localhost", "none" }, found)
    end)

    it("have lower-case names when listed", function()
      assert.same({ host = "localhost", ["x-thing"] = "V" }, get({ "/" }, "/", { "X-Thing: V" }).headers)
    end)

    it("that are repeated are joined", function()
      local headers = get({ "/" }, "/", { "X-List: 1", "x-list: 2", "X-List:", "X-LIST: 3" }).headers
      assert.equal("1, 2, , 3", headers["x-list"])
    end)

    it("have no white space around their values, and keep that inside", function()
      local headers = get({ "/" }, "/", { "A: \t b  c \t ", "B:d", "C:", "D:  " }).headers
      assert.same({ "b  c", "d", "", "" }, { headers.a, headers.b, headers.c, headers.d })
    end)

    it("carry raw bytes above 127, as Last-Event-ID does", function()
      local id = "\226\128\166\195\169\255"
      assert.equal(id, get({ "/" }, "/", { "Last-Event-ID: " .. id }).headers["last-event-id"])
    end)
  end)

  describe("body", function()
    local EVERY_BYTE = {}
    for i = 0, 255 do EVERY_BYTE[i + 1] = string.char(i) end
    EVERY_BYTE = table.concat(EVERY_BYTE)

    local function post(rest, options)
      local client = net.connect(listen({ "/" }, options))
      client:send("POST / HTTP/1.1\r\n" .. HOST .. rest)
      local status = client:take()
      return requests[1] and requests[1].body, status
    end

    local function chunked(...)
      local parts = { "Transfer-Encoding: chunked\r\n\r\n" }
      for _, chunk in ipairs { ... } do parts[#parts + 1] = ("%x\r\n"):format(#chunk) .. chunk .. "\r\n" end
      return table.concat(parts) .. "0\r\n\r\n"
    end

    it("with a Content-Length", function()
      assert.equal(EVERY_BYTE, (post("Content-Length: 256\r\n\r\n" .. EVERY_BYTE)))
    end)

    it("in chunks", function()
      assert.equal(EVERY_BYTE .. "xyz" .. EVERY_BYTE, (post(chunked(EVERY_BYTE, "xyz", EVERY_BYTE))))
    end)

    it("in chunks with extensions and a trailer", function()
      assert.equal("ab", (post "Transfer-Encoding: chunked\r\n\r\n1;n=v\r\na\r\n01\r\nb\r\n0\r\nX-Sum: 1\r\n\r\n"))
      assert.is_nil(requests[1].headers["x-sum"])
    end)

    it("in no chunk at all", function()
      assert.equal("", (post(chunked())))
    end)

    it("of a GET request", function()
      net.connect(listen { "/" }):request("GET", "/", nil, "text"):take()
      assert.equal("text", requests[1].body)
    end)

    it("of exactly limits.body_bytes", function()
      local options = { limits = { body_bytes = 10 } }
      assert.equal("0123456789", (post("Content-Length: 10\r\n\r\n0123456789", options)))
      assert.equal("0123456789", (post(chunked("01234", "56789"), options)))
    end)

    it("of a megabyte, in many reads", function()
      local text = EVERY_BYTE:rep(4096)
      assert.equal(text, (post("Content-Length: 1048576\r\n\r\n" .. text)))
      assert.equal(text, (post(chunked(text:sub(1, 5), text:sub(6, 700000), text:sub(700001)))))
    end)
  end)

  describe("in pieces", function()
    local TEXT = "POST /rooms/caf%C3%A9?q=a+b&q=%63 HTTP/1.1\r\nHost: localhost\r\nCookie: a=1\r\nX-List:  one \r\n"
      .. "x-list: two\r\nCookie: b=2\r\nEmpty:\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "5\r\nhello\r\n7;x=y\r\n\r\nworld\r\n0\r\nTrailer: t\r\n\r\n"

    local SEEN = {
      method = "POST", path = "/rooms/caf%C3%A9", target = "/rooms/caf%C3%A9?q=a+b&q=%63", version = "1.1",
      remote = "127.0.0.1", route = "/rooms/:room", params = { room = "caf\195\169" },
      query = { q = "c" }, query_all = { q = { "a b", "c" } }, cookies = { a = "1", b = "2" }, body = "hello\r\nworld",
      headers = {
        host = "localhost", cookie = "a=1; b=2", ["x-list"] = "one, two", empty = "", ["transfer-encoding"] = "chunked",
      },
    }

    it("of one byte is the same request", function()
      local client = net.connect(listen { "/rooms/:room" })
      for byte in TEXT:gmatch "." do
        client:send(byte)
        net.settle()
      end
      assert.equal(204, (client:take()))
      assert.same({ SEEN }, requests)
    end)

    it("cut at every place is the same request", function()
      local client = net.connect(listen { "/rooms/:room" })
      for cut = 1, #TEXT - 1 do
        client:send(TEXT:sub(1, cut))
        net.settle()
        client:send(TEXT:sub(cut + 1))
        assert.equal(204, (client:take()), "cut behind byte " .. cut)
        assert.same(SEEN, requests[cut], "cut behind byte " .. cut)
      end
    end)

    it("cut at every place beside the next request is both requests", function()
      local client = net.connect(listen { "/rooms/:room" })
      local both = TEXT .. TEXT
      for cut = 1, #both - 1 do
        client:send(both:sub(1, cut))
        net.settle()
        client:send(both:sub(cut + 1))
        client:take()
        client:take()
        assert.same({ SEEN, SEEN }, requests, "cut behind byte " .. cut)
        requests[1], requests[2] = nil, nil
      end
    end)
  end)

  describe("fields that a script sets", function()
    it("stay, also where nothing but the stream is held", function()
      local stream, user
      local app, port = net.serve(function(app)
        app:stream("/", function(opened, request)
          stream = opened
          request.user = { name = "Ann" }
          opened:hold()
        end)
      end)
      net.connect(port):get("/"):wait("\r\n\r\n")
      collectgarbage()
      collectgarbage()
      app:after(0, function() user = stream.request.user end)
      net.wait(function() return user end, "the callback")
      assert.same({ name = "Ann" }, user)
    end)

    it("stay where not even the stream is held", function()
      local user
      local _, port = net.serve(function(app)
        app:stream("/", function(stream, request)
          request.user = "Ann"
          stream:after(0.02, function() error "late" end)
        end)
        app:get("/collect", function()
          for _ = 1, 3 do collectgarbage() end
        end)
      end, { on_error = function(_, _, stream) user = stream.request.user end })
      net.connect(port):get("/"):wait("\r\n\r\n")
      net.connect(port):get("/collect"):take()
      net.wait(function() return user end, "the error")
      assert.equal("Ann", user)
    end)

    it("may take the place of the request's own", function()
      local path
      local _, port = net.serve(function(app)
        app:get("/", function(request)
          request.path = "/other"
          eventstream.await(function(resume) resume() end)
          path = request.path
        end)
      end)
      net.connect(port):get("/"):take()
      assert.equal("/other", path)
    end)

    it("are one request's alone", function()
      local seen = {}
      local _, port = net.serve(function(app)
        app:get("/", function(request)
          seen[#seen + 1] = request.user or "none"
          request.user = "Ann"
        end)
      end)
      local client = net.connect(port)
      client:get("/"):take()
      client:get("/"):take()
      assert.same({ "none", "none" }, seen)
    end)
  end)

  it("is read as it was while a later one of the connection is", function()
    local first
    local _, port = net.serve(function(app)
      app:get("/first", function(request) first = request end)
      app:get("/second", function() return "x" end)
    end)
    local client = net.connect(port)
    client:get("/first", { "X-Name: Ann" }):take()
    client:get("/second", { "X-Name: Bob" }):take()
    assert.same({ "/first", "Ann" }, { first.path, first.headers["x-name"] })
  end)
end)

describe("a request that is refused", function()
  after_each(net.finish)

  local app, calls

  local function listen(limits)
    local port
    calls = 0
    local function handler()
      calls = calls + 1
      return "ok"
    end
    app, port = net.serve(function(a)
      a:get("/", handler):post("/", handler):route("PUT", "/", handler)
    end, { limits = limits })
    return port
  end

  local NEXT = "GET / HTTP/1.1\r\n" .. HOST .. "\r\n"

  -- Sends bytes and a good request behind them: the server must answer once, say that it closes, and close.
  local function refusal(bytes, limits)
    local client = net.connect(listen(limits))
    client:send(bytes)
    client:send(NEXT)
    assert.is_not.equal("200", client:wait "^HTTP/1%.1 (%d+)")
    client:wait_end()
    assert.is_nil(client.failure)
    local status, headers, body = client:take()
    assert.equal("", client.received)
    assert.equal("close", headers.connection)
    assert.matches("^text/plain", headers["content-type"])
    assert.matches("^[^\n]+\n$", body)
    assert.equal(0, calls)
    return status, body
  end

  local GET = "GET / HTTP/1.1\r\n" .. HOST
  local POST = "POST / HTTP/1.1\r\n" .. HOST
  local CHUNKED = POST .. "Transfer-Encoding: chunked\r\n\r\n"

  describe("with 400:", function()
    for name, bytes in pairs {
      ["no request at all"] = "hello\r\n\r\n",
      ["TLS"] = "\22\3\1\2\0\1\0\1\252\3\3",
      ["a method in lower case"] = "get / HTTP/1.1\r\n" .. HOST .. "\r\n",
      ["a method that HTTP does not know"] = "FROB / HTTP/1.1\r\n" .. HOST .. "\r\n",
      ["a tab behind the method"] = "GET\t/ HTTP/1.1\r\n" .. HOST .. "\r\n",
      ["no target"] = "GET HTTP/1.1\r\n" .. HOST .. "\r\n",
      ["a target that is no path"] = "GET x HTTP/1.1\r\n" .. HOST .. "\r\n",
      ["NUL in the target"] = "GET /\0 HTTP/1.1\r\n" .. HOST .. "\r\n",
      ["another protocol"] = "GET / FTP/1.1\r\n" .. HOST .. "\r\n",
      ["lines that end at LF"] = "GET / HTTP/1.1\nHost: localhost\nA: b\n\n",
      ["LF in a header"] = GET .. "A: b\nContent-Length: 1\r\n\r\n",
      ["CR in a header"] = GET .. "A: b\rContent-Length: 1\r\n\r\n",
      ["NUL in a header"] = GET .. "A: b\0\r\n\r\n",
      ["ESC in a header"] = GET .. "A: \27[2J\r\n\r\n",
      ["DEL in a header"] = GET .. "A: b\127\r\n\r\n",
      ["NUL in a header's name"] = GET .. "A\0: b\r\n\r\n",
      ["a byte above 127 in a header's name"] = GET .. "A\233: b\r\n\r\n",
      ["a header's name that is no token"] = GET .. "A(b): c\r\n\r\n",
      ["a header without a name"] = GET .. ": b\r\n\r\n",
      ["a header without a colon"] = GET .. "A\r\n\r\n",
      ["a space before the colon"] = GET .. "Content-Length : 0\r\n\r\n",
      ["a space before the first header"] = "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
      ["no Host"] = "GET / HTTP/1.1\r\n\r\n",
      ["two Hosts"] = GET .. HOST .. "\r\n",
      ["a Host that is no host"] = "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
      ["two Content-Lengths"] = POST .. "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
      ["a Content-Length that is a list"] = POST .. "Content-Length: 1, 1\r\n\r\na",
      ["a Content-Length that is no number"] = POST .. "Content-Length: one\r\n\r\n",
      ["a negative Content-Length"] = POST .. "Content-Length: -1\r\n\r\n",
      ["a Content-Length with a sign"] = POST .. "Content-Length: +1\r\n\r\na",
      ["a hexadecimal Content-Length"] = POST .. "Content-Length: 0x1\r\n\r\na",
      ["an empty Content-Length"] = POST .. "Content-Length:\r\n\r\n",
      ["a Content-Length beyond 64 bits"] = POST .. "Content-Length: 18446744073709551617\r\n\r\na",
      ["Content-Length, then Transfer-Encoding"] =
        POST .. "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      ["Transfer-Encoding, then Content-Length"] =
        POST .. "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
      ["a Transfer-Encoding that is not chunked"] = POST .. "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
      ["a Transfer-Encoding that does not end with chunked"] =
        POST .. "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
      ["a Transfer-Encoding that is chunked twice"] =
        POST .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      ["an empty Transfer-Encoding"] = POST .. "Transfer-Encoding:\r\n\r\n",
      ["an empty Transfer-Encoding beside a Content-Length"] =
        POST .. "Transfer-Encoding:\r\nContent-Length: 1\r\n\r\na",
      ["a chunk size that is no number"] = CHUNKED .. "xyz\r\n",
      ["an empty chunk size"] = CHUNKED .. "\r\na\r\n0\r\n\r\n",
      ["a negative chunk size"] = CHUNKED .. "-1\r\na\r\n0\r\n\r\n",
      ["a chunk size with 0x"] = CHUNKED .. "0x1\r\na\r\n0\r\n\r\n",
      ["a chunk size beyond 64 bits"] = CHUNKED .. "10000000000000001\r\na\r\n0\r\n\r\n",
      ["a chunk size that ends at LF"] = CHUNKED .. "1\na\r\n0\r\n\r\n",
      ["a chunk longer than its size"] = CHUNKED .. "1\r\nab\r\n0\r\n\r\n",
      ["a chunk that ends at LF"] = CHUNKED .. "1\r\na\n0\r\n\r\n",
      ["a trailer without a colon"] = CHUNKED .. "0\r\nA\r\n\r\n",
    } do
      it(name, function()
        assert.equal(400, (refusal(bytes)))
      end)
    end
  end)

  it("whatever place it is cut at", function()
    local bytes = CHUNKED .. "1\r\nab\r\n0\r\n\r\n"
    local port = listen()
    for cut = 1, #bytes - 1 do
      local client = net.connect(port)
      client:send(bytes:sub(1, cut))
      net.settle()
      client:send(bytes:sub(cut + 1))
      client:wait_end()
      assert.equal(400, (client:take()), "cut behind byte " .. cut)
      client:close()
    end
    assert.equal(0, calls)
  end)

  describe("with 505:", function()
    for name, bytes in pairs {
      ["HTTP/2.0"] = "GET / HTTP/2.0\r\n" .. HOST .. "\r\n",
      ["HTTP/2's preface"] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      ["HTTP/0.9"] = "GET / HTTP/0.9\r\n" .. HOST .. "\r\n",
      ["HTTP/1.2"] = "GET / HTTP/1.2\r\n" .. HOST .. "\r\n",
      ["no version"] = "GET /\r\n\r\n",
    } do
      it(name, function()
        assert.equal(505, (refusal(bytes)))
      end)
    end
  end)

  it("with 411: HTTP/1.0 does not tell the length of a body", function()
    assert.equal(411, (refusal "POST / HTTP/1.0\r\n\r\n"))
    assert.equal(411, (refusal "PUT / HTTP/1.0\r\n\r\n"))
  end)

  it("with 400 or 501: a body in a coding that nobody here decodes", function()
    local status = refusal(POST .. "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    assert(status == 400 or status == 501, status)
  end)

  describe("by limits.header_bytes", function()
    it("with 414: the target is too long", function()
      local bytes = "GET /" .. ("x"):rep(300) .. " HTTP/1.1\r\n" .. HOST .. "\r\n"
      assert.equal(414, (refusal(bytes, { header_bytes = 256 })))
    end)

    it("with 414: the target has no end", function()
      assert.equal(414, (refusal("GET /" .. ("x"):rep(100000))))
    end)

    it("with 431: a header is too large", function()
      assert.equal(431, (refusal(GET .. "A: " .. ("x"):rep(300) .. "\r\n\r\n", { header_bytes = 256 })))
    end)

    it("with 431: a header's name is too large", function()
      assert.equal(431, (refusal(GET .. ("x"):rep(300) .. ": a\r\n\r\n", { header_bytes = 256 })))
    end)

    it("with 431: all headers together are too large", function()
      assert.equal(431, (refusal(GET .. ("A: 12345678\r\n"):rep(40) .. "\r\n", { header_bytes = 256 })))
    end)

    it("with 431: the headers have no end", function()
      assert.equal(431, (refusal(GET .. ("A: 12345678901234567890\r\n"):rep(3) .. "B: " .. ("x"):rep(200000))))
    end)

    it("with 431: there are too many headers", function()
      local limits = { header_bytes = 1048576 }
      assert.equal(431, (refusal(GET .. ("A: b\r\n"):rep(1000) .. "\r\n", limits)))
    end)

    it("which fits what browsers send", function()
      local client = net.connect(listen())
      client:send(GET .. "Cookie: " .. ("x"):rep(8000) .. "\r\nReferer: " .. ("y"):rep(4000) .. "\r\n\r\n")
      assert.equal(200, (client:take()))
    end)

    -- What passes in one piece must pass in two, and the other way round.
    it("however the head is cut", function()
      local port = listen { header_bytes = 256 }
      local function status_of(...)
        local client = net.connect(port)
        for _, piece in ipairs { ... } do
          client:send(piece)
          net.settle()
        end
        local status = client:take()
        client:close()
        return status
      end
      for size = 180, 280 do
        local head = GET .. ("A: b\r\n"):rep(15) .. "Z: "
        head = head .. ("z"):rep(size - #head - 4) .. "\r\n\r\n"
        assert.equal(size, #head)
        local whole = status_of(head)
        assert.equal(whole, status_of(head:sub(1, -2), head:sub(-1)), ("a head of %d bytes"):format(size))
      end
    end)
  end)

  -- What is dropped as it comes holds no memory, but an unfinished request must end some time (Node: CVE-2024-22019).
  describe("because it does not end:", function()
    for name, bytes in pairs {
      ["line ends before the request"] = ("\r\n"):rep(500000),
      ["a chunk's extension"] = CHUNKED .. "1;" .. ("x"):rep(1000000),
      ["the extensions of many chunks"] = CHUNKED .. ("1;" .. ("x"):rep(200) .. "\r\na\r\n"):rep(5000),
      ["trailers"] = CHUNKED .. "0\r\n" .. ("A: b\r\n"):rep(200000),
      ["a trailer"] = CHUNKED .. "0\r\nA: " .. ("x"):rep(1000000),
    } do
      it(name, function()
        local client = net.connect(listen { header_seconds = 1 })
        client:send(bytes)
        local status = client:wait "^HTTP/1%.1 (%d+)"
        assert.matches("^4%d%d$", status)
        assert.is_not.equal("408", status) -- by what came, and not by time
        client:wait_end()
      end)
    end
  end)

  describe("by limits.body_bytes", function()
    local limits = { body_bytes = 10 }

    it("with 413: Content-Length says too much", function()
      assert.equal(413, (refusal(POST .. "Content-Length: 11\r\n\r\n", limits)))
    end)

    it("with 413: Content-Length says all that 64 bits can", function()
      assert.equal(413, (refusal(POST .. "Content-Length: 18446744073709551615\r\n\r\n")))
    end)

    it("with 413: one chunk is too much", function()
      assert.equal(413, (refusal(CHUNKED .. "b\r\n01234567890\r\n0\r\n\r\n", limits)))
    end)

    it("with 413: the chunks together are too much", function()
      assert.equal(413, (refusal(CHUNKED .. "6\r\n012345\r\n5\r\n67890\r\n0\r\n\r\n", limits)))
    end)

    it("with 413: the chunks have no end", function()
      assert.equal(413, (refusal(CHUNKED .. ("1000\r\n" .. ("x"):rep(4096) .. "\r\n"):rep(600))))
    end)

    it("with 413 and without 100: the client asks before it sends", function()
      assert.equal(413, (refusal(POST .. "Expect: 100-continue\r\nContent-Length: 11\r\n\r\n", limits)))
    end)

    it("with an answer that arrives whole while the client still sends", function()
      assert.equal(413, (refusal(POST .. "Content-Length: 3000000\r\n\r\n" .. ("x"):rep(3000000))))
    end)
  end)

  describe("by limits.header_seconds", function()
    local limits = { header_seconds = 0.2, body_seconds = 0.2 }

    -- Sends bytes one by one, each a while after the one before.
    local function dribble(client, bytes)
      local at = 0
      local interval = app:every(0.02, function()
        at = at % #bytes + 1
        client:send(bytes:sub(at, at))
      end)
      client:wait_end()
      interval:stop()
    end

    it("with 408: the head dribbles", function()
      local client = net.connect(listen(limits))
      client:send(GET)
      dribble(client, "A: b\r\n")
      assert.equal(408, (client:take()))
    end)

    it("with 408: the body dribbles", function()
      local client = net.connect(listen(limits))
      client:send(POST .. "Content-Length: 1000\r\n\r\n")
      dribble(client, "x")
      assert.equal(408, (client:take()))
    end)

    it("with 408: the chunks dribble", function()
      local client = net.connect(listen(limits))
      client:send(CHUNKED)
      dribble(client, "1\r\nx\r\n")
      assert.equal(408, (client:take()))
    end)

    it("with 408: the second request of a connection never ends", function()
      local client = net.connect(listen(limits))
      client:send(NEXT .. "GET / HT")
      assert.equal(200, (client:take()))
      client:wait_end()
      assert.equal(408, (client:take()))
      assert.equal("", client.received)
    end)

    it("without a word: nothing came", function()
      local client = net.connect(listen(limits))
      client:wait_end()
      assert.equal("", client.received)
      assert.is_nil(client.failure)
    end)

    it("without a word: nothing but line ends came", function()
      local client = net.connect(listen(limits))
      dribble(client, "\r\n")
      assert.equal("", client.received)
    end)
  end)

  it("counts in stats", function()
    local port = listen()
    net.connect(port):send("hello\r\n\r\n"):wait_end()
    local stats = app:stats()
    assert.same({ 1, 0 }, { stats.rejected, stats.requests })
  end)
end)

describe("a request that no route takes", function()
  after_each(net.finish)

  local function ask(request)
    local _, port = net.serve(function(app)
      app:get("/", function() return "x" end)
      app:stream("/sse", function() end)
      app:stream("/both", { methods = { "GET", "POST" } }, function() end)
      app:post("/post", function() return "x" end)
    end)
    return net.connect(port):send(request .. "\r\n" .. HOST .. "\r\n"):take()
  end

  it("gets 404", function()
    local status, headers, body = ask "GET /nowhere HTTP/1.1"
    assert.same({ 404, "not found\n" }, { status, body })
    assert.equal("text/plain; charset=utf-8", headers["content-type"])
  end)

  it("gets 405 with Allow", function()
    for target, allow in pairs {
      ["/"] = "GET, HEAD, OPTIONS", ["/sse"] = "GET, HEAD, OPTIONS", ["/both"] = "GET, HEAD, OPTIONS, POST",
      ["/post"] = "OPTIONS, POST",
    } do
      local status, headers = ask("DELETE " .. target .. " HTTP/1.1")
      assert.same({ 405, allow }, { status, headers.allow })
    end
  end)

  it("gets the Allow of its path for OPTIONS", function()
    local status, headers = ask "OPTIONS /both HTTP/1.1"
    assert.same({ 204, "GET, HEAD, OPTIONS, POST" }, { status, headers.allow })
  end)

  it("gets 404 for OPTIONS of a path that is none", function()
    assert.equal(404, (ask "OPTIONS /nowhere HTTP/1.1"))
  end)

  it("gets 204 for OPTIONS *", function()
    assert.equal(204, (ask "OPTIONS * HTTP/1.1"))
  end)

  it("gets 400 for another method of *", function()
    assert.equal(400, (ask "GET * HTTP/1.1"))
  end)

  it("leaves the connection for the next", function()
    local _, port = net.serve(function(app)
      app:get("/", function() return "x" end)
    end)
    local client = net.connect(port)
    assert.equal(404, (client:get("/nowhere"):take()))
    assert.equal(405, (client:request("DELETE", "/"):take()))
    assert.equal(200, (client:get("/"):take()))
  end)
end)
