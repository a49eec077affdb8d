--- Sockets: what is kept, what is closed and when, who is waited for, and where the server listens.

local uv = require "luv"
local eventstream = require "eventstream"
local net = require "spec.support.net"
local process = require "spec.support.process"
local reader = require "spec.support.reader"

local MEGABYTES = 8 * 1048576

-- Text in which no piece resembles another, so that a lost or doubled one shows.
local function numbered(size)
  local lines = {}
  for i = 1, size / 16 do lines[i] = ("%015d\n"):format(i) end
  return table.concat(lines)
end

local big = numbered(MEGABYTES)

describe("a plain answer", function()
  after_each(net.finish)

  local app, port, order

  -- /wait answers when it is told to, by go(); /big with 8 MB; every other path with itself.
  local go
  before_each(function()
    order, go = {}, nil
    app, port = net.serve(function(a)
      a:get("/wait", function()
        order[#order + 1] = "/wait"
        eventstream.await(function(resume) go = resume end)
        return "/wait"
      end)
      a:get("/big", function()
        order[#order + 1] = "/big"
        return big
      end)
      a:get("/empty", function() end)
      a:get("/same", function() return 304, "not written", { ETag = '"1"' } end)
      a:post("/post", function(request) return request.body end)
      a:get("/*", function(request)
        order[#order + 1] = request.path
        return request.path
      end)
    end)
  end)

  local function waiting()
    net.wait(function() return go end, "the handler")
  end

  local function text(path, more)
    return ("GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"):format(path, more or "")
  end

  -- A whole exchange of another client: the server has seen everything that was sent before.
  local function barrier()
    local client = net.connect(port)
    assert.equal(200, (client:get("/barrier"):take()))
    client:close()
  end

  describe("on a kept connection", function()
    it("leaves it open for the next request", function()
      local client = net.connect(port)
      for i = 1, 3 do
        local status, headers, body = client:get("/" .. i):take()
        assert.same({ 200, "keep-alive", "/" .. i }, { status, headers.connection, body })
      end
      assert.is_false(client.ended)
      assert.equal(1, app:stats().accepted)
    end)

    it("comes in the order of pipelined requests", function()
      local texts = {}
      for i = 1, 100 do texts[i] = text("/" .. i) end
      local client = net.connect(port):send(table.concat(texts))
      for i = 1, 100 do assert.equal("/" .. i, (select(3, client:take()))) end
    end)

    it("comes in the order of pipelined requests when the first one waits", function()
      local client = net.connect(port):send(text("/wait") .. text("/2") .. text("/3"))
      waiting()
      barrier()
      assert.equal("", client.received)
      go()
      for _, path in ipairs { "/wait", "/2", "/3" } do assert.equal(path, (select(3, client:take()))) end
    end)

    it("is given before the next request's handler starts", function()
      local client = net.connect(port):send(text("/wait") .. text("/2"))
      waiting()
      barrier()
      assert.same({ "/wait", "/barrier" }, order)
      go()
      client:wait("/2", true)
      assert.same({ "/wait", "/barrier", "/2" }, order)
    end)

    it("comes also to a request that was sent while the one before waited", function()
      local client = net.connect(port):get("/wait")
      waiting()
      client:get("/2")
      barrier()
      go()
      assert.equal("/wait", (select(3, client:take())))
      assert.equal("/2", (select(3, client:take())))
    end)

    it("is taken by the client before the next one is made", function()
      local client = net.connect(port)
      client:pause()
      for _ = 1, 4 do
        client:get("/big")
        barrier()
      end
      local made = 0
      for _, path in ipairs(order) do made = made + (path == "/big" and 1 or 0) end
      assert.equal(1, made)
      client:resume()
      for _ = 1, 4 do assert.is_true(select(3, client:take()) == big) end
    end)
  end)

  describe("closes the connection", function()
    local function is_last(client)
      local status, headers, body = client:take()
      assert.same({ 200, "close", "/x" }, { status, headers.connection, body })
      client:wait_end()
      assert.is_nil(client.failure)
    end

    it("for Connection: close", function()
      is_last(net.connect(port):get("/x", { "Connection: close" }))
    end)

    it("for a Connection header that lists close, in any case", function()
      is_last(net.connect(port):get("/x", { "Connection: Foo, CLOSE" }))
    end)

    it("for HTTP/1.0", function()
      is_last(net.connect(port):send "GET /x HTTP/1.0\r\n\r\n")
    end)

    it("for HTTP/1.0 with chunks, whose framing is not to be trusted (RFC 9112, 6.1)", function()
      local client = net.connect(port)
      client:send "POST /post HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
      client:take()
      client:wait_end()
    end)

    it("and what was pipelined behind is not answered", function()
      local client = net.connect(port):send(text("/x", "Connection: close\r\n") .. text("/2"))
      is_last(client)
      assert.same({ "/x" }, order)
    end)

    it("but not for HTTP/1.0 with keep-alive", function()
      local client = net.connect(port)
      for _ = 1, 2 do
        local _, headers = client:send("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):take()
        assert.equal("keep-alive", headers.connection)
      end
    end)
  end)

  it("to HEAD has the Content-Length and no body", function()
    local client = net.connect(port)
    local status, headers = client:request("HEAD", "/x"):take(true)
    assert.same({ 200, "2" }, { status, headers["content-length"] })
    assert.equal("/y", (select(3, client:get("/y"):take())))
  end)

  it("of 204 has neither body nor Content-Length", function()
    local client = net.connect(port)
    local status, headers = client:get("/empty"):take()
    assert.same({ 204 }, { status, headers["content-length"] })
    assert.equal("/y", (select(3, client:get("/y"):take())))
  end)

  it("of 304 has no body", function()
    local client = net.connect(port)
    local status, headers = client:get("/same"):take(true)
    assert.same({ 304, '"1"' }, { status, headers.etag })
    assert.equal("/y", (select(3, client:get("/y"):take())))
  end)

  describe("to a client that expects 100", function()
    local HEAD = { "Expect: 100-continue", "Content-Length: 4" }

    it("comes after the body that it asked for", function()
      local client = net.connect(port):request("POST", "/post", HEAD)
      assert.equal(100, (client:take()))
      assert.equal("text", (select(3, client:send("text"):take())))
    end)

    it("comes alone if the body was sent unasked", function()
      local client = net.connect(port):request("POST", "/post", { HEAD[1] }, "text")
      local status, _, body = client:take()
      assert.same({ 200, "text" }, { status, body })
    end)

    it("comes alone if there is no body", function()
      local client = net.connect(port):request("POST", "/post", { HEAD[1], "Content-Length: 0" })
      assert.equal(200, (client:take()))
    end)

    it("comes for each request of a connection", function()
      local client = net.connect(port)
      for _ = 1, 2 do
        assert.equal(100, (client:request("POST", "/post", HEAD):take()))
        assert.equal(200, (client:send("text"):take()))
      end
    end)
  end)

  describe("to a client that sends no more", function()
    it("still comes", function()
      local client = net.connect(port):get("/x")
      client:shutdown()
      assert.equal("/x", (select(3, client:take())))
      client:wait_end()
    end)

    it("still comes when the handler waited meanwhile", function()
      local client = net.connect(port):get("/wait")
      client:shutdown()
      waiting()
      barrier()
      go()
      assert.equal("/wait", (select(3, client:take())))
      client:wait_end()
    end)

    it("still comes whole when it is large", function()
      local client = net.connect(port):get("/big")
      client:shutdown()
      assert.is_true(select(3, client:take()) == big)
      client:wait_end()
    end)

    it("still comes whole when it is large and the handler waited meanwhile", function()
      local client = net.connect(port):send(text("/wait") .. text("/big"))
      client:shutdown()
      waiting()
      barrier()
      go()
      client:take()
      assert.is_true(select(3, client:take()) == big)
    end)

    it("still comes to the request that it sent last, while the one before waited", function()
      local client = net.connect(port):get("/wait")
      waiting()
      client:get("/2")
      client:shutdown()
      barrier()
      go()
      for _, path in ipairs { "/wait", "/2" } do assert.equal(path, (select(3, client:take()))) end
      client:wait_end()
    end)

    it("still comes to every pipelined request", function()
      local client = net.connect(port):send(text("/1") .. text("/2") .. text("/3"))
      client:shutdown()
      for _, path in ipairs { "/1", "/2", "/3" } do assert.equal(path, (select(3, client:take()))) end
      client:wait_end()
    end)
  end)

  it("is told to a handler that waits as closed when the client resets", function()
    local result
    app:get("/told", function()
      result = { eventstream.await(function() order[1] = "waits" end) }
    end)
    local client = net.connect(port):get("/told")
    net.wait(function() return order[1] end, "the handler")
    client:reset()
    net.wait(function() return result end, "the end of await")
    assert.same({ nil, "closed" }, result)
  end)

  it("is told to a handler that waits as closed when the client sends no more and then resets", function()
    local results, waits = {}, 0
    app:get("/told", function()
      waits = waits + 1
      local result = { eventstream.await(function() end) }
      results[#results + 1] = result
    end)
    local told = {}
    for i = 1, 10 do
      told[i] = net.connect(port):get "/told"
      if i > 5 then told[i]:send(("x"):rep(50000)) end -- which nobody reads
    end
    net.wait(function() return waits == 10 end, "the handlers")
    local shut = 0
    for i = 1, 10 do told[i].handle:shutdown(function() shut = shut + 1 end) end
    net.wait(function() return shut == 10 end, "what was sent last")
    barrier()
    assert.same({}, results)
    for i = 1, 10 do told[i]:reset() end
    net.wait(function() return #results == 10 end, "the end of each await")
    for i = 1, 10 do assert.same({ nil, "closed" }, results[i]) end
  end)

  it("does not let the loop spin meanwhile", function()
    local go_on, uses = nil, nil
    app:get("/told", function() return (eventstream.await(function(resume) go_on = resume end)) end)
    local client = net.connect(port):get("/told")
    client:shutdown()
    net.wait(function() return go_on end, "the handler")
    barrier()
    local before = os.clock()
    app:after(0.5, function() uses = os.clock() - before end)
    net.wait(function() return uses end, "half a second")
    assert(uses < 0.2, uses)
    go_on "told"
    assert.equal("told", (select(3, client:take())))
  end)

  describe("of 8 MB", function()
    it("arrives whole", function()
      local client = net.connect(port)
      assert.is_true(select(3, client:get("/big"):take()) == big)
      assert.equal("/x", (select(3, client:get("/x"):take())))
    end)

    it("arrives whole over HTTP/1.0", function()
      local client = net.connect(port):send "GET /big HTTP/1.0\r\n\r\n"
      assert.is_true(select(3, client:take()) == big)
      client:wait_end()
    end)

    it("arrives whole at a client that pauses", function()
      local client = net.connect(port)
      client:pause()
      client:get("/big")
      net.wait(function() return order[1] end, "the handler")
      barrier()
      assert(app:stats().bytes_out < MEGABYTES, "the kernel took it all: this shows nothing")
      client:resume()
      assert.is_true(select(3, client:take()) == big)
    end)

    it("costs the others nothing meanwhile", function()
      local client = net.connect(port)
      client:pause()
      client:get("/big")
      for _ = 1, 10 do barrier() end
      client:reset()
    end)

    -- 5 seconds are what a closed stream has to deliver what was sent; an answer has as long as it moves.
    it("arrives whole at a client that reads it slowly but steadily", function()
      local client = net.connect(port)
      client:pause()
      client:get("/big", { "Connection: close" })
      local late = false
      app:after(5.5, function() late = true end)
      app:every(0.1, function() client:resume() end)
      local read = client.resume
      function client:resume() -- one read a tick, until it is late
        if late then
          self.resume = nil
          return read(self)
        end
        self.handle:read_start(function(_, bytes)
          self.received = self.received .. (bytes or "")
          self.ended = not bytes
          if not late then self.handle:read_stop() end
        end)
      end
      net.wait(function() return late or client.ended end, "the time")
      assert.is_true(select(3, client:take()) == big)
    end)
  end)
end)

describe("a stream's connection", function()
  after_each(net.finish)

  local app, port, stream, reason, slept

  local function listen(handler, options)
    stream, reason, slept = nil, nil, nil
    options = options or {}
    if options.heartbeat == nil then options.heartbeat = false end
    app, port = net.serve(function(a)
      a:get("/barrier", function() return "x" end)
      a:stream("/sse", { methods = { "GET", "POST" } }, function(opened, request)
        stream = opened
        opened:on_close(function(why) reason = why end)
        return handler(opened, request)
      end)
    end, options)
  end

  local function hold(opened)
    opened:hold()
  end

  local function open(lines)
    return net.connect(port):get("/sse", lines)
  end

  local function ended(why)
    net.wait(function() return reason end, "on_close")
    assert.equal(why, reason)
    assert.is_true(stream.closed)
  end

  local function seconds_since(start)
    return (uv.hrtime() - start) / 1e9
  end

  describe("tells at once", function()
    local client, start

    local function leave(how)
      listen(hold)
      client = open()
      client:wait "retry: %d+\n\n"
      start = uv.hrtime()
      how()
      ended "client"
      assert(seconds_since(start) < 2)
    end

    it("that the client sent FIN", function()
      leave(function() client:shutdown() end)
    end)

    it("that the client sent RST", function()
      leave(function() client:reset() end)
    end)

    it("that the client sent FIN behind a megabyte that nobody reads", function()
      leave(function()
        client:send(("GET / HTTP/1.1\r\n\r\n"):rep(60000))
        client:shutdown()
      end)
    end)

    it("that the client sent RST behind bytes that nobody reads", function()
      leave(function()
        client:send(("x"):rep(60000))
        net.settle()
        client:reset()
      end)
    end)

    it("a handler that sleeps", function()
      listen(function(opened)
        slept = { opened:sleep(60) }
      end)
      client = open()
      client:wait "retry: %d+\n\n"
      client:shutdown()
      ended "client"
      assert.same({ nil, "closed" }, slept)
    end)
  end)

  it("that brought requests behind the stream's in one piece does not answer them", function()
    listen(function(opened)
      opened:send "only"
    end)
    local request = "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n"
    local client = net.connect(port):send(request .. request)
    client:wait_end()
    assert.same({ 1, 1 }, { app:stats().requests, select(2, client.received:gsub("data: only", "")) })
  end)

  it("whose FIN came in one piece with the request ends, and its handler's waits do", function()
    listen(function(opened)
      slept = { opened:sleep(60) }
    end)
    local client = net.connect(port):send("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n" .. ("x"):rep(100000))
    client:shutdown()
    ended "client"
    net.wait(function() return slept end, "the handler")
    assert.same({ nil, "closed" }, slept)
  end)

  it("ends with the last chunk when the handler returns", function()
    listen(function(opened)
      opened:send "x"
    end)
    local client = open()
    client:wait_end()
    assert.is_nil(client.failure)
    local _, headers, body, complete = client:answer()
    assert.same({ "chunked", true }, { headers["transfer-encoding"], complete })
    assert.matches("^retry: %d+\n\ndata: x\n\n$", body)
    ended "server"
  end)

  it("over HTTP/1.0 has no chunks and ends by closing", function()
    listen(function(opened)
      opened:send "x"
    end)
    local client = net.connect(port):send "GET /sse HTTP/1.0\r\n\r\n"
    client:wait_end()
    local _, headers, body = client:answer()
    assert.same({ "close" }, { headers.connection, headers["transfer-encoding"] })
    assert.matches("^retry: %d+\n\ndata: x\n\n$", body)
  end)

  it("for HEAD gets the head alone, runs no handler and is kept", function()
    listen(hold)
    local client = net.connect(port)
    local status, headers = client:request("HEAD", "/sse"):take(true)
    assert.same({ 200, "text/event-stream", "chunked" },
      { status, headers["content-type"], headers["transfer-encoding"] })
    assert.is_nil(stream)
    assert.equal("x", (select(3, client:get("/barrier"):take())))
  end)

  it("streams the answer of a POST with a body", function()
    listen(function(opened, request)
      for word in request.body:gmatch "%a+" do opened:send(word) end
    end)
    local client = net.connect(port):request("POST", "/sse", nil, "two words")
    client:wait_end()
    assert.matches("\n\ndata: two\n\ndata: words\n\n$", (select(3, client:answer())))
  end)

  -- Events with a number each; returns what a reader sees of them.
  local function numbers(body)
    local list = {}
    for i, message in ipairs((reader.read(body, true))) do list[i] = tonumber((message.data:match "^%d+")) end
    return list
  end

  local function up_to(count)
    local list = {}
    for i = 1, count do list[i] = i end
    return list
  end

  describe("with a client that pauses", function()
    local padding = (" x"):rep(500)

    -- Calls the function when the stream takes no more.
    local function when_full(opened, call)
      local interval
      interval = opened:every(0.001, function()
        if select(2, opened:comment "is there room?") ~= "backlog" then return end
        interval:stop()
        call()
      end)
    end

    it("brings every event in order once it reads on, and the handler waits meanwhile", function()
      local sent, full = 0, nil
      local COUNT = 12000
      listen(function(opened)
        when_full(opened, function() full = true end)
        for i = 1, COUNT do
          assert.is_true(opened:send(i .. padding))
          sent = i
        end
      end)
      local client = open()
      client:pause()
      net.wait(function() return full end, "a full backlog")
      assert(sent < COUNT)
      client:resume()
      client:wait_end()
      local _, _, body, complete = client:answer()
      assert.is_true(complete)
      assert.same(up_to(COUNT), numbers(body))
      ended "server"
    end)

    it("tells a callback \"backlog\", and brings exactly what was taken", function()
      local taken, refusal, after = 0, nil, nil
      listen(function(opened)
        local interval
        interval = opened:every(0.001, function()
          for _ = 1, 10 do
            local ok, message = opened:send((taken + 1) .. padding)
            if not ok then
              refusal = message
              return interval:stop()
            end
            taken = taken + 1
          end
        end)
        opened:hold()
      end, { limits = { backlog_bytes = 32768 } })
      local client = open()
      client:pause()
      net.wait(function() return refusal end, "a full backlog")
      assert.equal("backlog", refusal)
      client:resume()
      client:wait(taken .. padding .. "\n\n", true)
      app:after(0, function() after = { stream:send((taken + 1) .. padding) } end)
      client:wait((taken + 1) .. padding .. "\n\n", true)
      assert.same({ true }, after)
      assert.same(up_to(taken + 1), numbers((select(3, client:answer()))))
    end)

    it("tells a callback \"backlog\" also while the handler waits for room", function()
      local sent, answers, done = 0, nil, nil
      listen(function(opened)
        opened:every(0.005, function()
          local before = sent
          local answer = { opened:send "callback" }
          if answer[2] == "backlog" then answers = { answer, before } end
        end)
        while sent < 12000 do
          opened:send(("x"):rep(1000))
          sent = sent + 1
        end
        done = true
      end)
      local client = open()
      client:pause()
      net.wait(function() return answers end, "a full backlog")
      assert.same({ nil, "backlog" }, answers[1])
      assert.is_nil(done)
      client:reset()
      net.wait(function() return reason end, "on_close")
    end)

    it("ends a handler that waits in send when the client leaves", function()
      local result, full
      listen(function(opened)
        when_full(opened, function() full = true end)
        repeat result = { opened:send(("x"):rep(10000)) } until not result[1]
      end)
      local client = open()
      client:pause()
      net.wait(function() return full end, "a full backlog")
      assert.same({ true }, result)
      client:reset()
      ended "client"
      net.wait(function() return not result[1] end, "the handler's end")
      assert.same({ nil, "closed" }, result)
    end)

    it("gets the rest of what was sent before close", function()
      local line = big:gsub("\n", " ")
      listen(function(opened)
        opened:send(line)
        opened:close()
      end)
      local client = open()
      client:pause()
      net.wait(function() return reason end, "on_close")
      client:resume()
      client:wait_end()
      local _, _, body, complete = client:answer()
      assert.is_true(complete)
      assert.is_true(reader.read(body, true)[1].data == line)
    end)
  end)

  describe("takes an event larger than the backlog", function()
    local large = ("x"):rep(1000000)

    it("when nothing waits, and none behind it", function()
      local answers = {}
      listen(function(opened)
        opened:after(0.001, function()
          answers[1] = { opened:send(large) }
          answers[2] = { opened:send "second" }
        end)
        opened:hold()
      end, { limits = { backlog_bytes = 1000 } })
      open():wait("data: " .. large .. "\n\n", true)
      assert.same({ { true }, { nil, "backlog" } }, answers)
    end)

    it("from its handler, which waits until nothing waits", function()
      listen(function(opened)
        for i = 1, 3 do assert.is_true(opened:send(i .. large)) end
      end, { limits = { backlog_bytes = 1000 } })
      local client = open()
      client:wait_end()
      assert.same({ 1, 2, 3 }, numbers((select(3, client:answer()))))
    end)
  end)

  describe("is told a retry", function()
    local function retries(option, count)
      listen(hold, { retry = option })
      local list, different = {}, {}
      for i = 1, count do
        list[i] = tonumber((open():wait "\r\n\r\n%x+\r\nretry: (%d+)\n\n\r\n$"))
        different[list[i]] = true
      end
      return list, different
    end

    it("of its own, within [retry, 1.5 retry]", function()
      local list, different = retries(3000, 50)
      for _, retry in ipairs(list) do assert(retry >= 3000 and retry <= 4500, retry) end
      local count, low, high = 0, math.min((table.unpack or unpack)(list)), math.max((table.unpack or unpack)(list))
      for _ in pairs(different) do count = count + 1 end
      assert(count > 25, "too few differ: " .. count)
      assert(low < 3500 and high > 4000, ("from %d to %d only"):format(low, high))
    end)

    it("of 100 at least", function()
      for _, retry in ipairs(retries(0, 5)) do assert.equal(100, retry) end
      for _, retry in ipairs(retries(90, 20)) do assert(retry >= 100 and retry <= 135, retry) end
    end)

    it("of 3000 by default", function()
      for _, retry in ipairs(retries(nil, 5)) do assert(retry >= 3000 and retry <= 4500, retry) end
    end)

    it("only by a comment for retry = false", function()
      listen(hold, { retry = false })
      open():wait "\r\n\r\n4\r\n: \n\n\r\n$"
    end)

    it("as an event gives it", function()
      listen(function(opened)
        opened:send { retry = 0 }
      end)
      open():wait "retry: 0\n\n"
    end)
  end)

  describe("with heartbeat", function()
    local BEAT = "4\r\n: \n\n\r\n"

    it("gets one again and again while it is quiet", function()
      listen(hold, { heartbeat = 0.1 })
      local start = uv.hrtime()
      open():wait(BEAT .. BEAT .. BEAT, true)
      assert(seconds_since(start) >= 3 * 0.075 - 0.01)
    end)

    it("gets none while events come", function()
      local longest, last, ticks = 0, nil, 0
      listen(function(opened)
        opened:every(0.01, function()
          local now = uv.hrtime()
          if last then longest = math.max(longest, now - last) end
          last, ticks = now, ticks + 1
          opened:send "x"
        end)
      end, { heartbeat = 0.2 })
      local client = open()
      net.wait(function() return ticks > 60 end, "0.6 seconds")
      if longest < 0.14e9 then -- else the machine was so busy that the stream was quiet
        assert.is_nil(client.received:find(BEAT, 1, true))
      end
    end)

    it("gets one between events, never inside one", function()
      listen(function(opened)
        opened:every(0.15, function() opened:send "a\nb" end)
      end, { heartbeat = 0.1 })
      local client = open()
      client:wait("data: a\ndata: b\n\n.*" .. BEAT .. ".*data: a\ndata: b\n\n")
      local messages, rest = reader.read((select(3, client:answer())))
      for _, message in ipairs(messages) do assert.equal("a\nb", message.data) end
      for _, comment in ipairs(rest.comments) do assert.equal(" ", comment) end
    end)

    it("= false gets none", function()
      listen(hold, { heartbeat = false })
      local client, over = open(), false
      app:after(0.3, function() over = true end)
      net.wait(function() return over end, "0.3 seconds")
      assert.is_nil(client.received:find(BEAT, 1, true))
    end)
  end)

  describe("with limits.stream_seconds", function()
    it("ends whole as \"expired\" when it is that old", function()
      listen(hold, { limits = { stream_seconds = 0.1 } })
      local start = uv.hrtime()
      local client = open()
      client:wait_end()
      assert(seconds_since(start) >= 0.079)
      assert.is_nil(client.failure)
      assert.is_true(select(4, client:answer()))
      ended "expired"
    end)

    it("ends also when it is busy, and when heartbeats come", function()
      listen(function(opened)
        opened:every(0.005, function() opened:send "x" end)
      end, { heartbeat = 0.02, limits = { stream_seconds = 0.1 } })
      open():wait_end()
      ended "expired"
    end)

    it("ends each at an age of its own, so that they do not come back together", function()
      local ages = {}
      listen(function(opened)
        local start = uv.hrtime()
        opened:on_close(function() ages[#ages + 1] = seconds_since(start) end)
        opened:hold()
      end, { limits = { stream_seconds = 0.5 } })
      for _ = 1, 40 do open() end
      net.wait(function() return #ages == 40 end, "the end of all")
      table.sort(ages)
      assert(ages[1] >= 0.399, ages[1])
      assert(ages[40] - ages[1] > 0.03, ages[40] - ages[1])
    end)

    it("tells a handler that sleeps", function()
      listen(function(opened)
        slept = { opened:sleep(60) }
      end, { limits = { stream_seconds = 0.1 } })
      open():wait_end()
      ended "expired"
      assert.same({ nil, "closed" }, slept)
    end)
  end)
end)

describe("limits.connections", function()
  after_each(net.finish)

  local app, port, held

  before_each(function()
    app, port = net.serve(function(a)
      a:stream("/sse", function(stream) stream:hold() end)
      a:get("/", function() return "x" end)
    end, { limits = { connections = 2 } })
    held = { net.connect(port):get("/sse"), net.connect(port):get("/sse") }
    for _, client in ipairs(held) do client:wait "retry: " end
  end)

  it("lets an EventSource above it come back later", function()
    local client = net.connect(port):get("/sse", { "Accept: text/event-stream" })
    client:wait_end()
    local status, headers, body = client:take()
    assert.same({ 200, "text/event-stream", "close" }, { status, headers["content-type"], headers.connection })
    local retry = tonumber(body:match "^retry: (%d+)\n\n$")
    assert(retry >= 3000 and retry <= 4500, body)
  end)

  it("lets an EventSource come back that lists more types", function()
    local client = net.connect(port):get("/sse", { "Accept: application/json, text/event-stream" })
    assert.equal(200, (client:take()))
  end)

  it("answers any other client 503 with Retry-After", function()
    local client = net.connect(port):get("/")
    client:wait_end()
    local status, headers = client:take()
    assert.equal(503, status)
    assert.matches("^%d+$", headers["retry-after"])
  end)

  it("runs no handler above it, and counts", function()
    net.connect(port):get("/"):wait_end()
    local stats = app:stats()
    assert.same({ 2, 1, 2 }, { stats.requests, stats.rejected, stats.streams })
  end)

  it("takes a client again when one has left", function()
    held[1]:close()
    net.wait(function() return app:stats().connections == 1 end, "the end of the first")
    assert.equal("x", (select(3, net.connect(port):get("/"):take())))
  end)
end)

describe("listen", function()
  local path

  before_each(function()
    path = os.tmpname()
    os.remove(path)
  end)

  after_each(function()
    process.kill_all()
    net.finish()
    os.remove(path)
  end)

  local app, listener, remote

  local function listen(options)
    app = net.serve(function(a)
      a:get("/", function(request)
        remote = request.remote or "none"
        return "x"
      end)
      a:stream("/sse", function(stream)
        app.stream_seen = stream
        stream:hold()
      end)
    end)
    local message
    listener, message = app:listen(options)
    return listener, message
  end

  local function answers(...)
    return net.connect(...):get("/", { "Connection: close" }):take() == 200
  end

  local function refuses(...)
    return net.connect(...).failure
  end

  describe("on TCP", function()
    it("takes loopback by default, and any free port for 0", function()
      listen { port = 0 }
      assert.equal("127.0.0.1", listener.host)
      assert(listener.port > 0)
      assert.is_nil(listener.path)
      assert.is_true(answers(listener.port))
    end)

    it("takes a host by name", function()
      listen { host = "localhost", port = 0 }
      assert.is_true(answers(listener.port, listener.host))
    end)

    it("takes IPv6", function()
      if not listen { host = "::1", port = 0 } then return pending "no IPv6 on this machine" end
      assert.equal("::1", listener.host)
      assert.is_true(answers(listener.port, "::1"))
      assert.equal("::1", remote)
    end)

    it("tells of a port in use", function()
      listen { port = 0 }
      local none, message = app:listen { port = listener.port }
      assert.is_nil(none)
      assert.matches(("^listen: EADDRINUSE: .*: 127%%.0%%.0%%.1:%d %%("):format(listener.port), message)
    end)

    it("takes a port again at once after a restart", function()
      listen { port = 0 }
      local port = listener.port
      net.connect(port):get("/"):take()
      app:close { grace = 0 }
      net.finish()
      assert(listen { port = port })
    end)
  end)

  describe("on a Unix socket", function()
    it("serves, and tells its path", function()
      listen { path = path }
      assert.same({ path }, { listener.path, listener.host, listener.port })
      assert.is_true(answers(path))
      assert.equal("none", remote)
    end)

    it("streams", function()
      listen { path = path }
      local client = net.connect(path):get("/sse")
      client:wait "retry: "
      app.stream_seen:send "x"
      client:wait "data: x\n\n"
    end)

    it("removes its file when it is closed", function()
      listen { path = path }
      assert.equal("socket", uv.fs_stat(path).type)
      listener:close()
      assert.is_nil((uv.fs_stat(path)))
    end)

    it("leaves the file alone that another server has made there meanwhile", function()
      listen { path = path }
      local first = listener
      os.remove(path)
      listen { path = path }
      first:close()
      assert.equal("socket", uv.fs_stat(path).type)
      assert.is_true(answers(path))
    end)

    it("removes its file when the app is closed", function()
      listen { path = path }
      app:close()
      assert.is_nil((uv.fs_stat(path)))
    end)

    it("replaces a file that a killed server left", function()
      local pipe = uv.new_pipe(false) -- whose file is renamed, so that closing leaves it
      assert(pipe:bind(path .. ".0"))
      assert(os.rename(path .. ".0", path))
      pipe:close()
      net.settle()
      assert.equal("ECONNREFUSED", refuses(path))
      assert(listen { path = path })
      assert.is_true(answers(path))
    end)

    it("is refused where another server is alive", function()
      listen { path = path }
      local none, message = app:listen { path = path }
      assert.is_nil(none)
      assert.matches("^listen: EADDRINUSE: ", message)
      assert.matches(path, message, 1, true)
      assert.is_true(answers(path))
    end)

    it("leaves a file that is no socket alone", function()
      local file = assert(io.open(path, "w"))
      file:write "mine"
      file:close()
      assert.is_nil((listen { path = path }))
      assert.equal("mine", io.open(path):read "*a")
    end)

    it("is refused where the path is too long", function()
      local _, message = listen { path = "/tmp/" .. ("x"):rep(200) }
      assert.matches("^listen: ENAMETOOLONG: ", message)
    end)

    it("is refused where the folder is missing", function()
      local _, message = listen { path = path .. "/none/x.sock" }
      assert.matches("^listen: ENOENT: ", message)
    end)
  end)

  describe("on an inherited descriptor", function()
    -- As systemd does it: the parent listens, the child gets the socket as descriptor 3.
    local SCRIPT = [[
      io.stdout:setvbuf "line"
      local eventstream = require "eventstream"
      local app = eventstream.new()
      app:get("/", function(request) return request.remote or "none" end)
      local listener = assert(app:listen { fd = 3 })
      print("ready", listener.host, listener.port, listener.path)
      app:get("/close", function() listener:close() return "closed" end)
      eventstream.run()
    ]]

    local function inherit(handle)
      assert(handle:listen(16, function() end))
      local child = process.spawn(process.interpreter(), { "-e", SCRIPT }, nil, { handle:fileno() })
      handle:close()
      return child, child:wait_line "^ready\t(%S+)\t(%S+)\t(%S+)$"
    end

    it("serves TCP", function()
      local tcp = uv.new_tcp()
      assert(tcp:bind("127.0.0.1", 0))
      local port = tcp:getsockname().port
      local _, host, told, where = inherit(tcp)
      assert.same({ "127.0.0.1", tostring(port), "nil" }, { host, told, where })
      assert.equal("127.0.0.1", (select(3, net.connect(port):get("/"):take())))
    end)

    it("serves a Unix socket, whose file stays the parent's", function()
      local pipe = uv.new_pipe(false)
      assert(pipe:bind(path .. ".0"))
      assert(os.rename(path .. ".0", path)) -- else luv would remove it
      local child, host, port = inherit(pipe)
      assert.same({ "nil", "nil" }, { host, port })
      assert.equal("none", (select(3, net.connect(path):get("/"):take())))
      net.connect(path):get("/close"):take()
      child:kill()
      child:wait_exit()
      assert(uv.fs_stat(path))
    end)

    it("is refused where it is not open", function()
      local _, message = listen { fd = 1000 }
      assert.matches("^listen: EBADF: .*: fd 1000 %(the descriptor is not open%)$", message)
    end)

    it("is refused where it is no socket", function()
      local file = assert(uv.fs_open("/dev/null", "r", 0))
      local _, message = listen { fd = file }
      assert.matches("^listen: ENOTSOCK: ", message)
      assert(uv.fs_close(file))
    end)

    it("is refused where the socket does not listen, and left open", function()
      local tcp = uv.new_tcp()
      assert(tcp:bind("127.0.0.1", 0))
      local _, message = listen { fd = tcp:fileno() }
      assert.matches("^listen: EINVAL: ", message)
      assert(tcp:getsockname())
      tcp:close()
    end)
  end)

  describe("listener:close", function()
    it("stops accepting while streams live on", function()
      listen { port = 0 }
      local client = net.connect(listener.port):get("/sse")
      client:wait "retry: "
      listener:close()
      assert.equal("ECONNREFUSED", refuses(listener.port))
      app.stream_seen:send "still there"
      client:wait "data: still there\n\n"
    end)

    it("lets a kept connection go on", function()
      listen { port = 0 }
      local client = net.connect(listener.port)
      client:get("/"):take()
      listener:close()
      assert.equal(200, (client:get("/"):take()))
    end)

    it("leaves the app's other listeners", function()
      listen { port = 0 }
      local other = assert(app:listen { path = path })
      listener:close()
      assert.is_true(answers(path))
      other:close()
    end)

    it("may be called twice, and after the app's end", function()
      listen { port = 0 }
      listener:close()
      listener:close()
      app:close()
      listener:close()
      assert.is_true(listener.closed)
    end)
  end)

  it("keeps listening when the listener is dropped", function()
    listen { port = 0 }
    local port = listener.port
    listener = nil
    collectgarbage()
    collectgarbage()
    assert.is_true(answers(port))
  end)

  it("raises when nothing, or more than one thing, says where", function()
    listen { port = 0 }
    local message = "listen: give one of port, path, fd and activated"
    assert.has_error(function() app:listen {} end, message)
    assert.has_error(function() app:listen { port = 0, path = path } end, message)
    assert.has_error(function() app:listen() end, "listen: options must be a table, not nil: { port = 8080 }")
  end)
end)
