--- app:on_answer, and the access log that is made of it.

local uv = require "luv"
local net = require "spec.support.net"
local eventstream = require "eventstream"

describe("app:on_answer", function()
  after_each(net.finish)

  local app, port, answers

  local function serve(define, options)
    answers = {}
    app, port = net.serve(function(a)
      a:get("/text", function() return "hello" end)
      a:get("/fails", function() error "on purpose" end)
      a:stream("/news", function(stream)
        stream:send "a"
        stream:hold()
      end)
      a:static("/files", "spec/vectors")
      if define then define(a) end
      a:on_answer(function(answer) answers[#answers + 1] = answer end)
    end, options)
  end

  local function wait_answer(n)
    net.wait(function() return answers[n] end, "answer " .. n)
    local answer = answers[n]
    return { answer.request.path, answer.status, answer.bytes, answer.reason }
  end

  it("tells of each answer when it is over", function()
    serve()
    net.connect(port):get("/text"):take()
    assert.same({ "/text", 200, 5, "done" }, wait_answer(1))
    assert(answers[1].seconds >= 0 and answers[1].seconds < 60)
    net.connect(port):request("HEAD", "/text"):take(true)
    assert.same({ "/text", 200, 0, "done" }, wait_answer(2))
    net.connect(port):get("/none"):take()
    assert.same({ "/none", 404, 10, "done" }, wait_answer(3))
    net.connect(port):get("/fails"):take()
    assert.same({ "/fails", 500, 22, "error" }, wait_answer(4))
    local _, _, body = net.connect(port):get("/files/encode.jsonl"):take()
    assert.same({ "/files/encode.jsonl", 200, #body, "done" }, wait_answer(5))
  end)

  it("tells of a stream at its end, with the bytes that went to its socket", function()
    serve()
    local client = net.connect(port):get "/news"
    client:wait "data: a\n\n\r\n"
    assert.equal(0, #answers)
    client:close()
    assert.same({ "/news", 200, #client.received, "client" }, wait_answer(1))
    client = net.connect(port):get "/news"
    client:wait "data: a\n\n\r\n"
    app:streams()[1]:close()
    client:wait_end()
    assert.equal("server", wait_answer(2)[4])
  end)

  describe("of what a client takes slowly, or not to its end,", function()
    local SIZE = 32 * 1024 * 1024 -- more than a kernel keeps
    local folder, path

    before_each(function()
      folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/eventstream-XXXXXX"))
      path = folder .. "/large"
      local file = assert(io.open(path, "wb"))
      file:seek("set", SIZE - 1)
      file:write "x"
      file:close()
      serve(function(a) a:static("/large", folder) end)
    end)

    after_each(function()
      os.remove(path)
      uv.fs_rmdir(folder)
    end)

    -- A client that has a part of the file, and reads no more yet.
    local function begin()
      local client = net.connect(port):get "/large/large"
      client:wait "\r\n\r\n"
      client:pause()
      net.connect(port):get("/text"):take()
      assert.same({ "/text", 200, 5, "done" }, wait_answer(1))
      net.settle()
      assert.equal(1, #answers)
      return client
    end

    it("tells when it has all", function()
      local client = begin()
      client:resume()
      local _, _, body = client:take()
      assert.equal(SIZE, #body)
      assert.same({ "/large/large", 200, SIZE, "done" }, wait_answer(2))
    end)

    it("tells how much a client had that left", function()
      local client = begin()
      client:reset()
      local answer = wait_answer(2)
      assert.same({ "/large/large", 200, "client" }, { answer[1], answer[2], answer[4] })
      assert(answer[3] > 0 and answer[3] < SIZE, answer[3])
    end)

    it("tells that it was too slow, also on a connection that would be kept", function()
      app:close { grace = 0 }
      serve(function(a) a:static("/large", folder) end, { limits = { keep_alive_seconds = 0.1 } })
      local client = net.connect(port):get "/large/large"
      client:wait "\r\n\r\n"
      client:pause()
      assert.equal("slow", wait_answer(1)[4])
    end)

    it("counts what its request's body takes, for as long as that is held", function()
      local client = net.connect(port):request("GET", "/large/large", nil, ("x"):rep(1048576))
      client:wait "\r\n\r\n"
      client:pause()
      net.settle()
      assert(app:stats().backlog > 1048576, app:stats().backlog)
      client:reset()
      wait_answer(1)
      assert.equal(0, app:stats().backlog)
    end)

    it("tells how much there was of a file that became shorter", function()
      local client = begin()
      assert(uv.fs_truncate and uv.fs_truncate(path, 100) or os.execute("truncate -s 100 " .. path))
      client:resume()
      client:wait_end()
      local answer = wait_answer(2)
      assert.same({ "/large/large", 200, "error" }, { answer[1], answer[2], answer[4] })
      assert(answer[3] > 0 and answer[3] < SIZE, answer[3])
    end)
  end)

  it("tells of a client that left before it had an answer", function()
    local held
    serve(function(a)
      a:get("/waits", function() return (eventstream.await(function(resume) held = resume end)) end)
    end)
    local client = net.connect(port):get "/waits"
    net.wait(function() return held end)
    client:reset()
    assert.same({ "/waits", 0, 0, "client" }, wait_answer(1))
  end)

  it("calls several, and an error of one is reported", function()
    local called = 0
    serve(function(a)
      a:on_answer(function() error "on purpose" end)
      a:on_answer(function() called = called + 1 end)
    end)
    net.connect(port):get("/text"):take()
    wait_answer(1)
    assert.same({ 1, 1 }, { called, #app.errors })
    assert.is_false((pcall(app.on_answer, app, "x")))
  end)

  describe("with eventstream.access_log", function()
    it("writes the combined format, in which no client can write a line of its own", function()
      local path = os.tmpname()
      local file = assert(io.open(path, "w+b"))
      file:setvbuf "no"
      serve(function(a)
        a:before(function(request) request.user = request.query.user end)
        a:on_answer(eventstream.access_log(file))
      end)
      local lines = { "Referer: https://a.example/", "User-Agent: A\"\\\tB\195\188" }
      net.connect(port):get('/text?user=a%20b"c', lines):take()
      net.connect(port):get("/none"):take()
      wait_answer(2)
      file:seek "set"
      local first, second, rest = file:read("*l"), file:read("*l"), file:read("*l")
      file:close()
      os.remove(path)
      assert.equal(nil, rest)
      local date = "%[%d%d/%a%a%a/%d%d%d%d:%d%d:%d%d:%d%d %+0000%]"
      assert.matches("^127%.0%.0%.1 %- a\\x20b\\x22c " .. date .. ' "GET /text%?user=a%%20b\\x22c HTTP/1%.1" 200 5 '
        .. '"https://a%.example/" "A\\x22\\x5C\\x09B\\xC3\\xBC"$', first)
      assert.matches("^127%.0%.0%.1 %- %- " .. date .. ' "GET /none HTTP/1%.1" 404 10 "%-" "%-"$', second)
    end)

    it("writes each line at once, and who it is by his name", function()
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      file:setvbuf "full"
      serve(function(a)
        a:before(function(request) request.user = { name = "ada", session = 5 } end)
        a:on_answer(eventstream.access_log(file))
      end)
      net.connect(port):get("/text"):take()
      wait_answer(1)
      local read = assert(io.open(path))
      local text = read:read "*a"
      read:close()
      file:close()
      os.remove(path)
      assert.matches('^127%.0%.0%.1 %- ada .* 200 5 "%-" "%-"\n$', text)
    end)

    it("gives lines to a function, and takes nothing else", function()
      local lines = {}
      serve(function(a) a:on_answer(eventstream.access_log(function(line) lines[#lines + 1] = line end)) end)
      net.connect(port):get("/text"):take()
      wait_answer(1)
      assert.matches('"GET /text HTTP/1.1" 200 5 ', lines[1], 1, true)
      local ok, message = pcall(eventstream.access_log, "access.log")
      assert.is_false(ok)
      assert.matches("access_log: file must be an open file or a function, not 'access.log'", message, 1, true)
    end)
  end)
end)
