--- What curl makes of our HTTP: versions 1.1 and 1.0, HEAD, POST, a kept connection, a client that leaves.

local eventstream = require "eventstream"
local process = require "spec.support.process"

local EVENT = { id = 7, event = "note", data = "two\nlines" }
local FRAME = "id: 7\nevent: note\ndata: two\ndata: lines\n\n"

describe("curl", function()
  local app, url

  before_each(function()
    app = eventstream.new()
    local listener = assert(app:listen { port = 0 })
    url = ("http://127.0.0.1:%d"):format(listener.port)
  end)

  after_each(function()
    process.kill_all()
    app:close()
  end)

  local function curl(...)
    return process.spawn("curl", { "-sSN", "--noproxy", "*", "--max-time", "60", ... })
  end

  -- Runs it to its end, which must be a good one; returns the head with its names in lower case, and the body.
  local function fetch(...)
    local client = curl("-i", ...)
    assert.equal(0, client:wait_exit(), client.stderr)
    local head, body = client.stdout:match "^(.-\r\n)\r\n(.*)$"
    return head:gsub("\n[^:\n]+:", string.lower), body
  end

  local function value(head, name)
    return head:match("\n" .. name:gsub("%-", "%%-") .. ": *([^\r\n]*)")
  end

  -- The chunks of a raw HTTP/1.1 body, which must be whole.
  local function chunks(body)
    local list, at = {}, 1
    repeat
      local size, from = body:match("^(%x+)\r\n()", at)
      assert(size, "no chunk at byte " .. at)
      size = tonumber(size, 16)
      assert.equal("\r\n", body:sub(from + size, from + size + 1))
      list[#list + 1] = body:sub(from, from + size - 1)
      at = from + size + 2
    until size == 0
    assert.equal(#body + 1, at, "nothing follows the last chunk")
    assert.equal("", table.remove(list))
    return list
  end

  local function send_two(stream)
    stream:send(EVENT)
    stream:send "second"
  end

  it("gets the headers of an event stream", function()
    app:stream("/sse", function(stream)
      stream:header("Access-Control-Allow-Origin", "*")
      send_two(stream)
    end)
    local head = fetch(url .. "/sse")
    assert.matches("^HTTP/1%.1 200 OK\r\n", head)
    assert.equal("text/event-stream", value(head, "content-type"))
    assert.matches("^no%-cache", value(head, "cache-control"))
    assert.equal("keep-alive", value(head, "connection"):lower())
    assert.equal("*", value(head, "access-control-allow-origin"))
    assert.is_nil(value(head, "content-length"))
  end)

  it("gets a chunk a frame over HTTP/1.1, and a last chunk", function()
    app:stream("/sse", send_two)
    local head, body = fetch("--raw", url .. "/sse")
    assert.equal("chunked", value(head, "transfer-encoding"))
    local list = chunks(body)
    assert.matches("^retry: %d+\n\n$", list[1])
    assert.same({ FRAME, "data: second\n\n" }, { list[2], list[3] })
    assert.equal(3, #list)
  end)

  it("gets an HTTP/1.0 body without chunks, up to the connection's end", function()
    app:stream("/sse", send_two)
    local head, body = fetch("--http1.0", "--raw", url .. "/sse")
    assert.is_nil(value(head, "transfer-encoding"))
    assert.is_nil(value(head, "content-length"))
    assert.not_equal("keep-alive", (value(head, "connection") or ""):lower())
    assert.equal("text/event-stream", value(head, "content-type"))
    assert.equal(FRAME .. "data: second\n\n", (body:gsub("^retry: %d+\n\n", "")))
  end)

  for _, version in ipairs { "--http1.1", "--http1.0" } do
    it("gets the head alone for HEAD, and no handler runs (" .. version .. ")", function()
      local ran = false
      app:stream("/sse", function() ran = true end)
      local head, body = fetch(version, "--head", url .. "/sse")
      assert.matches("^HTTP/1%.1 200 OK\r\n", head)
      assert.equal("text/event-stream", value(head, "content-type"))
      assert.equal("", body)
      assert.is_false(ran)
    end)

    it("gets each event when it is sent (" .. version .. ")", function()
      local stream
      app:stream("/sse", function(newcomer)
        stream = newcomer
        stream:hold()
      end)
      local client = curl(version, url .. "/sse")
      client:wait_line "^retry: %d+$"
      for i = 1, 3 do
        assert.is_true(stream:send("event " .. i))
        client:wait_line("^data: event " .. i .. "$")
      end
      stream:close()
      assert.equal(0, client:wait_exit())
    end)
  end

  it("that leaves is told to on_close, once", function()
    local reasons, stream = {}, nil
    app:stream("/sse", function(newcomer)
      stream = newcomer
      stream:on_close(function(reason) reasons[#reasons + 1] = reason end)
      stream:hold()
    end)
    local client = curl(url .. "/sse")
    client:wait_line "^retry"
    client:kill()
    client:wait_exit()
    process.wait(function() return reasons[1] end)
    assert.is_true(stream.closed)
    assert.same({ "client" }, reasons)
  end)

  it("posts a body and reads the events that answer it", function()
    app:stream("/echo", { methods = { "POST" } }, function(stream, request)
      for word in request.body:gmatch "%S+" do
        stream:send(word)
        stream:sleep(0.01)
      end
    end)
    local _, body = fetch("--data", "one two three", url .. "/echo")
    assert.matches("data: one\n\ndata: two\n\ndata: three\n\n$", body)
  end)

  it("keeps its connection from one plain answer to the next", function()
    app:get("/plain", function(request)
      return 200, "hello " .. request.query.name, { ["Content-Type"] = "text/plain" }
    end)
    local client = curl("-w", " %{http_code} %{content_type} %{num_connects}\n", url .. "/plain?name=a",
      url .. "/plain?name=b")
    assert.equal(0, client:wait_exit())
    assert.same({ "hello a 200 text/plain 1", "hello b 200 text/plain 0" }, client.lines)
  end)
end)
