--- What a handler's results become on the wire, and what a stream's handler may say before its stream begins.

local eventstream = require "eventstream"
local net = require "spec.support.net"

local HERE = debug.getinfo(1, "S").short_src

describe("a plain handler that returns", function()
  after_each(net.finish)

  -- The answer to GET / of a handler that returns these values.
  local function answer(...)
    local count, values = select("#", ...), { ... }
    local _, port = net.serve(function(app)
      app:get("/", function() return (table.unpack or unpack)(values, 1, count) end) -- luacheck: ignore
    end)
    local client = net.connect(port):get "/"
    return client:take()
  end

  describe("a string", function()
    it("answers 200 with it as plain text", function()
      local status, headers, body = answer "text"
      assert.same({ 200, "text" }, { status, body })
      assert.equal("text/plain; charset=utf-8", headers["content-type"])
      assert.equal("4", headers["content-length"])
    end)

    it("that is empty answers 200 without a type", function()
      local status, headers, body = answer ""
      assert.same({ 200, "", "0" }, { status, body, headers["content-length"] })
      assert.is_nil(headers["content-type"])
    end)

    it("answers with its bytes as they are", function()
      local bytes = {}
      for i = 0, 255 do bytes[i + 1] = string.char(i) end
      bytes = table.concat(bytes)
      assert.equal(bytes, (select(3, answer(bytes))))
    end)
  end)

  it("nothing answers 204", function()
    local status, headers, body = answer()
    assert.same({ 204, "" }, { status, body })
    assert.is_nil(headers["content-type"])
    assert.equal(204, (answer(nil)))
  end)

  it("a status answers with it and no body", function()
    local status, headers, body = answer(404)
    assert.same({ 404, "", "0" }, { status, body, headers["content-length"] })
  end)

  it("a status and a body answers with both", function()
    local status, headers, body = answer(201, "made")
    assert.same({ 201, "made", "text/plain; charset=utf-8" }, { status, body, headers["content-type"] })
  end)

  it("a status as an integral float answers with it", function()
    assert.equal(202, (answer(202.0, "x")))
  end)

  it("a number as the body answers with its text", function()
    assert.equal("42", (select(3, answer(200, 42))))
  end)

  it("any status from 200 to 599 answers with it, also one without a name", function()
    for _, status in ipairs { 200, 206, 299, 302, 418, 499, 500, 599 } do
      assert.equal(status, (answer(status, "x")))
    end
  end)

  it("204 with a body answers without it", function()
    local status, headers, body = answer(204, "x")
    assert.same({ 204, "" }, { status, body })
    assert.is_nil(headers["content-length"])
  end)

  describe("headers", function()
    it("answers with them", function()
      local _, headers = answer(200, "{}", { ["X-One"] = "1", ["X-Two"] = 2 })
      assert.same({ "1", "2" }, { headers["x-one"], headers["x-two"] })
    end)

    it("answers with its Content-Type, in any case, and no other", function()
      local _, port = net.serve(function(app)
        app:get("/", function() return 200, "{}", { ["CONTENT-type"] = "application/json" } end)
      end)
      local client = net.connect(port):get "/"
      local lines = select(2, client:wait "^HTTP/1%.1 (%d+)(.-\r\n)\r\n")
      assert.equal(1, select(2, lines:lower():gsub("\ncontent%-type: ", "")))
      assert.matches("\ncontent%-type: application/json\r\n", lines:lower())
    end)

    it("with a list answers with a line for each", function()
      local _, port = net.serve(function(app)
        app:get("/", function() return 200, "x", { ["Set-Cookie"] = { "a=1", "b=2; Path=/", 3 } } end)
      end)
      local lines = select(2, net.connect(port):get("/"):wait "^HTTP/1%.1 (%d+)(.-\r\n)\r\n")
      assert.matches("\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\nSet-Cookie: 3\r\n", lines, 1, true)
    end)

    it("with an empty list answers with no line", function()
      local _, headers = answer(200, "x", { ["X-None"] = {} })
      assert.is_nil(headers["x-none"])
    end)

    it("with an empty value answers with it", function()
      local _, port = net.serve(function(app)
        app:get("/", function() return 200, "x", { ["X-Empty"] = "" } end)
      end)
      net.connect(port):get("/"):wait "\r\nX%-Empty: \r\n"
    end)

    it("with bytes above 127 and a tab inside answers with them", function()
      local _, headers = answer(200, "x", { ["X-Name"] = "\195\169\9\255" })
      assert.equal("\195\169\9\255", headers["x-name"])
    end)

    it("answers with one Date, in the standard's form", function()
      local _, headers = answer "x"
      assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", headers.date)
    end)
  end)

  it("after it waited answers the same", function()
    local app, port
    app, port = net.serve(function(a)
      a:get("/", function()
        local word = eventstream.await(function(resume)
          app:after(0, function() resume "late" end)
        end)
        return 201, word
      end)
    end)
    local status, _, body = net.connect(port):get("/"):take()
    assert.same({ 201, "late" }, { status, body })
  end)

  local FROM = "handler of GET /: "

  -- The answer must be 500, the error told once, and the next request answered.
  local function fails(message, ...)
    local count, values = select("#", ...), { ... }
    local app, port = net.serve(function(a)
      a:get("/", function() return (table.unpack or unpack)(values, 1, count) end) -- luacheck: ignore
      a:get("/next", function() return "next" end)
    end)
    local client = net.connect(port):get "/"
    local status, headers, body = client:take()
    assert.same({ 500, "internal server error\n" }, { status, body })
    assert.equal("text/plain; charset=utf-8", headers["content-type"])
    assert.equal(1, #app.errors)
    assert.matches(message, app.errors[1].message, 1, true)
    assert.equal("string", type(app.errors[1].traceback))
    assert.is_nil(app.errors[1].stream)
    assert.equal("next", (select(3, net.connect(port):get("/next"):take())))
    return client
  end

  describe("what is no answer is reported, and answers 500:", function()
    local STATUS = FROM .. "status must be a whole number from 200 to 599, not "

    for name, result in pairs {
      ["a table"] = { "a table", {}, "x" }, ["a boolean"] = { "true", true }, ["a status below 200"] = { "100", 100 },
      ["a status above 599"] = { "600", 600 }, ["a fraction"] = { "200.5", 200.5 }, ["NaN"] = { "", 0 / 0 },
      ["infinity"] = { "", math.huge }, ["a status as text"] = { "'200'", "200", "x" },
      ["a body without a status"] = { "nil", nil, "x" },
    } do
      it(name, function() fails(STATUS .. result[1], result[2], result[3]) end)
    end

    it("a table that is no JSON as the body", function()
      fails(FROM .. "body cannot be written as JSON: ", 200, { print })
    end)
    it("a function as the body", function()
      fails(FROM .. "body must be a string or a table, not function", 200, print)
    end)
    it("text as headers", function() fails(FROM .. "headers must be a table, not string", 200, "x", "A: b") end)
    it("a list as headers", function()
      fails(FROM .. "header name must be a token, not a number", 200, "x", { "A: b" })
    end)

    it("a header that is a boolean", function()
      fails(FROM .. "header 'X-A' must be a string, a number or a list of them, not boolean", 200, "x",
        { ["X-A"] = true })
    end)

    it("a list in a list", function()
      fails(FROM .. "header 'X-A' must be a string, a number or a list of them, not table", 200, "x",
        { ["X-A"] = { { "b" } } })
    end)

    for _, name in ipairs { "Content-Length", "transfer-encoding", "Connection", "DATE" } do
      it("the header " .. name .. ", which the server writes", function()
        fails((FROM .. "header '%s' is written by the server"):format(name), 200, "x", { [name] = "1" })
      end)
    end
  end)

  it("an error is reported with its line and traceback, and answers 500", function()
    local line
    local app, port = net.serve(function(a)
      a:get("/", function()
        line = debug.getinfo(1, "l").currentline + 1
        error "mine"
      end)
    end)
    assert.equal(500, (net.connect(port):get("/"):take()))
    assert.equal(("%s:%d: mine"):format(HERE, line), app.errors[1].message)
    assert.matches(("%s:%d:"):format(HERE, line), app.errors[1].traceback, 1, true)
  end)

  describe("what would split the answer is reported, and answers 500:", function()
    local BREAKS = { CR = "\r", LF = "\n", CRLF = "\r\n", NUL = "\0" }

    local function is_whole(client)
      assert.is_nil(client.received:find("Injected", 1, true))
    end

    for name, bytes in pairs(BREAKS) do
      it(name .. " in a header's value", function()
        is_whole(fails(FROM .. "header 'X-A' must not contain control characters", 200, "x",
          { ["X-A"] = "b" .. bytes .. "Injected: 1" }))
      end)

      it(name .. " at the end of a header's value", function()
        is_whole(fails(FROM .. "header 'X-A' must not contain control characters", 200, "x",
          { ["X-A"] = "b" .. bytes }))
      end)

      it(name .. " in a list of values", function()
        is_whole(fails(FROM .. "header 'X-A' must not contain control characters", 200, "x",
          { ["X-A"] = { "a", bytes .. "Injected: 1" } }))
      end)

      it(name .. " in a header's name", function()
        is_whole(fails("header name must be a token", 200, "x", { ["X-A: b" .. bytes .. "Injected"] = "1" }))
      end)
    end

    for name, bad in pairs { nothing = "", ["a space"] = "X A", ["a colon"] = "X-A:", ["a byte above 127"] = "\233" } do
      it(name .. " as a header's name", function()
        fails("header name must be a token", 200, "x", { [bad] = "1" })
      end)
    end

    it("any other control character in a value", function()
      for i = 0, 31 do
        local char = string.char(i)
        if i ~= 9 then fails("must not contain control characters", 200, "x", { ["X-A"] = "a" .. char .. "b" }) end
      end
      fails("must not contain control characters", 200, "x", { ["X-A"] = "\127" })
    end)
  end)
end)

describe("stream:header", function()
  after_each(net.finish)

  local app, client

  -- Opens a stream with this handler; returns its head's lines.
  local function open(handler)
    local port
    app, port = net.serve(function(a)
      a:stream("/", function(stream)
        handler(stream)
        stream:hold() -- a stream that ends with nothing sent is hinted at
      end)
    end)
    client = net.connect(port):get "/"
    return "\r\n" .. (client:wait "^HTTP/1%.1 200 OK\r\n(.-\r\n)\r\n")
  end

  -- How often a text (not a pattern) occurs.
  local function count(text, lines)
    local found, at = 0, 1
    while true do
      at = lines:find(text, at, true)
      if not at then return found end
      found, at = found + 1, at + 1
    end
  end

  it("adds a header to the head, and returns the stream", function()
    local returned
    local head = open(function(stream)
      returned = stream:header("X-One", "1"):header("X-Two", 2) == stream
    end)
    assert.is_true(returned)
    assert.equal(1, count("\r\nX-One: 1\r\n", head))
    assert.equal(1, count("\r\nX-Two: 2\r\n", head))
  end)

  it("replaces what was set before, in any case", function()
    local head = open(function(stream)
      stream:header("X-One", "1"):header("X-Other", "o"):header("x-ONE", "2")
    end)
    assert.equal(0, count("X-One: 1", head))
    assert.equal(1, count("\r\nx-ONE: 2\r\n", head))
    assert.equal(1, count("\r\nX-Other: o\r\n", head))
  end)

  it("with a list adds a line for each", function()
    local head = open(function(stream)
      stream:header("Set-Cookie", { "a=1", "b=2" })
    end)
    assert.equal(1, count("\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n", head))
  end)

  for name, value in pairs { ["Cache-Control"] = "no-store", ["x-accel-buffering"] = "yes" } do
    it("takes the place of our own " .. name, function()
      local head = open(function(stream)
        stream:header(name, value)
      end)
      assert.equal(1, count("\r\n" .. name .. ": " .. value .. "\r\n", head))
      assert.equal(1, count("\n" .. name:lower() .. ":", head:lower()))
    end)
  end

  it("may come after an await, which sends no head", function()
    local head = open(function(stream)
      eventstream.await(function(resume) app:after(0, resume) end)
      stream:header("X-User", "Ann")
    end)
    assert.equal(1, count("\r\nX-User: Ann\r\n", head))
  end)

  it("is absent: then the head is what proxies and browsers need", function()
    local head = open(function() end)
    assert.equal(1, count("\r\nContent-Type: text/event-stream\r\n", head))
    assert.equal(1, count("\r\nCache-Control: no-cache", head))
    assert.equal(1, count("\r\nX-Accel-Buffering: no\r\n", head))
    assert.equal(1, count("\r\nDate: ", head))
    assert.equal(0, count("Content-Length", head))
  end)

  -- What a handler's call raised; before may wait, which Lua 5.1 cannot inside pcall.
  local function raised(call, before)
    local ok, message
    open(function(stream)
      if before then before(stream) end
      ok, message = pcall(call, stream)
    end)
    net.wait(function() return ok ~= nil end, "the call")
    assert.is_false(ok)
    return message
  end

  describe("raises at the script's line", function()
    local function says(message, call)
      local where = ("%s:%d: "):format(HERE, debug.getinfo(call, "S").linedefined)
      assert.equal(where .. message, raised(call))
    end

    it("once the head is sent", function()
      local function header(stream)
        stream:header("X-A", "b")
      end
      for method, argument in pairs { send = "x", comment = "x", flush = "none", sleep = 0 } do
        local message = raised(header, function(stream) stream[method](stream, argument) end)
        assert.matches("header: the head is sent already; set headers before the first send, subscribe or sleep",
          message, 1, true)
      end
    end)

    it("once the stream is over", function()
      local message
      open(function(stream)
        stream:close()
        message = select(2, pcall(stream.header, stream, "X-A", "b"))
      end)
      assert.matches("header: the stream is over", message, 1, true)
    end)

    for _, name in ipairs { "Content-Type", "content-length", "TRANSFER-ENCODING", "Date" } do
      it("for " .. name .. ", which the server writes", function()
        says(("header: header '%s' is written by the server"):format(name), function(s) s:header(name, "x") end)
      end)
    end

    it("for a name that is no token", function()
      says("header: header name must be a token, not 'X A'", function(s) s:header("X A", "x") end)
      says("header: header name must be a token, not ''", function(s) s:header("", "x") end)
      says("header: header name must be a token, not a nil", function(s) s:header(nil, "x") end)
    end)

    it("for a value that is none", function()
      says("header: header 'X-A' must be a string, a number or a list of them, not nil",
        function(s) s:header("X-A", nil) end)
      says("header: header 'X-A' must be a string, a number or a list of them, not boolean",
        function(s) s:header("X-A", true) end)
    end)

    it("for what would split the head", function()
      for _, bytes in ipairs { "\r", "\n", "\r\n", "\0" } do
        local value, name = "a" .. bytes .. "Injected: 1", "X-A" .. bytes .. "Injected"
        says("header: header 'X-A' must not contain control characters", function(s) s:header("X-A", value) end)
        assert.matches("header name must be a token", raised(function(s) s:header(name, "1") end))
        assert.is_nil(client.received:find("Injected", 1, true))
      end
    end)
  end)

  it("that failed leaves the head as it was", function()
    local head = open(function(stream)
      stream:header("X-A", "1")
      pcall(stream.header, stream, "X-A", "2\n")
      pcall(stream.header, stream, "X-B", { "1", "2\n" })
    end)
    assert.equal(1, count("\r\nX-A: 1\r\n", head))
    assert.equal(0, count("X-B", head))
  end)
end)

describe("stream:reject", function()
  after_each(net.finish)

  local app, port, stream, reason, result

  local function serve(handler)
    stream, reason, result = nil, nil, nil
    app, port = net.serve(function(a)
      a:stream("/", { methods = { "GET", "POST" } }, function(opened, request)
        stream = opened
        opened:on_close(function(why) reason = why end)
        return handler(opened, request)
      end)
    end)
  end

  local function answer(...)
    local arguments, count = { ... }, select("#", ...)
    serve(function(opened)
      result = { opened:reject((table.unpack or unpack)(arguments, 1, count)) } -- luacheck: ignore
    end)
    return net.connect(port):get("/"):take()
  end

  it("answers with status and body instead of a stream", function()
    local status, headers, body = answer(403, "not you")
    assert.same({ 403, "not you", "7" }, { status, body, headers["content-length"] })
    assert.equal("text/plain; charset=utf-8", headers["content-type"])
    assert.is_nil(headers["cache-control"])
    assert.same({ true }, result)
  end)

  it("answers with headers", function()
    local status, headers, body =
      answer(401, "{}", { ["WWW-Authenticate"] = "Bearer", ["Content-Type"] = "application/json" })
    assert.same({ 401, "{}", "Bearer", "application/json" },
      { status, body, headers["www-authenticate"], headers["content-type"] })
  end)

  it("answers with the headers that stream:header has set, too", function()
    serve(function(opened)
      opened:header("X-One", "1"):header("Set-Cookie", "a=1")
      opened:reject(403, "x", { ["X-Two"] = "2" })
    end)
    local _, headers = net.connect(port):get("/"):take()
    assert.same({ "1", "a=1", "2" }, { headers["x-one"], headers["set-cookie"], headers["x-two"] })
  end)

  it("of 204 tells a finished stream's browser to stop", function()
    local status, headers, body = answer(204)
    assert.same({ 204, "" }, { status, body })
    assert.is_nil(headers["content-length"])
    assert.is_nil(headers["content-type"])
  end)

  it("of a redirect has its Location", function()
    local status, headers = answer(307, nil, { Location = "/other" })
    assert.same({ 307, "/other", "0" }, { status, headers.location, headers["content-length"] })
  end)

  it("works for a POST stream", function()
    serve(function(opened) opened:reject(422, "what?") end)
    local status, _, body = net.connect(port):request("POST", "/", nil, "x"):take()
    assert.same({ 422, "what?" }, { status, body })
  end)

  it("works after an await", function()
    serve(function(opened)
      eventstream.await(function(resume) app:after(0, resume) end)
      opened:reject(403, "late")
    end)
    local status, _, body = net.connect(port):get("/"):take()
    assert.same({ 403, "late" }, { status, body })
  end)

  it("works from a callback while the handler awaits", function()
    serve(function(opened)
      app:after(0, function() opened:reject(403, "no") end)
      result = { eventstream.await(function() end) }
    end)
    assert.equal(403, (net.connect(port):get("/"):take()))
    net.wait(function() return result end, "the end of await")
    assert.same({ nil, "closed" }, result)
  end)

  it("ends the stream: it is closed, on_close is called, sends find it closed", function()
    local sent
    serve(function(opened)
      opened:reject(403, "x")
      sent = { opened.closed, opened:send "y" }
    end)
    local client = net.connect(port):get "/"
    local _, _, body = client:take()
    net.wait(function() return reason end, "on_close")
    assert.same({ true, nil, "closed" }, sent)
    assert.same({ "server", "x", "" }, { reason, body, client.received })
    assert.is_true(stream.closed)
    assert.equal(0, app:stats().streams)
    assert.equal(0, #app.errors)
  end)

  it("a second time has no effect", function()
    serve(function(opened)
      opened:reject(403, "x")
      result = { opened:reject(404, "y") }
    end)
    assert.equal(403, (net.connect(port):get("/"):take()))
    assert.same({ nil, "closed" }, result)
  end)

  local function raised(call, before)
    local ok, message
    serve(function(opened)
      if before then before(opened) end
      ok, message = pcall(call, opened)
      opened:hold()
    end)
    net.connect(port):get("/"):wait "\r\n\r\n"
    net.wait(function() return message end, "the error")
    assert.is_false(ok)
    return message
  end

  it("raises once the stream has begun, and the stream goes on", function()
    local function reject(opened)
      opened:reject(403)
    end
    for method, argument in pairs { send = "x", sleep = 0 } do
      local message = raised(reject, function(opened) opened[method](opened, argument) end)
      assert.matches("reject: the stream has begun; it can only be closed", message, 1, true)
      assert.is_false(stream.closed)
    end
  end)

  it("raises for what is no answer", function()
    local begins = "^" .. HERE:gsub("%p", "%%%0") .. ":%d+: reject: "
    for message, call in pairs {
      ["status must be a whole number from 200 to 599, not 99"] = function(s) s:reject(99) end,
      ["status must be a whole number from 200 to 599, not nil"] = function(s) s:reject(nil, "x") end,
      ["body must be a string or a table, not function"] = function(s) s:reject(403, print) end,
      ["status must be a whole number from 200 to 599, not '404'"] = function(s) s:reject "404" end,
      ["headers must be a table, not string"] = function(s) s:reject(403, "x", "y") end,
      ["header name must be a token, not 'A b'"] = function(s) s:reject(403, "x", { ["A b"] = "c" }) end,
      ["header 'A' must not contain control characters"] = function(s) s:reject(403, "x", { A = "b\r\nC: d" }) end,
      ["header 'Content-Length' is written by the server"] =
        function(s) s:reject(403, "x", { ["Content-Length"] = "3" }) end,
    } do
      local text = raised(call)
      assert.matches(begins, text)
      assert.matches(message, text, 1, true)
    end
  end)

  it("ends the connection as every stream does, and says so", function()
    serve(function(opened) opened:reject(403, "x") end)
    local client = net.connect(port):get "/"
    client:wait_end()
    assert.is_nil(client.failure)
    assert.equal("close", (select(2, client:take())).connection)
  end)
end)
