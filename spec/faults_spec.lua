-- A server whose memory runs out, at each allocation of a whole session in turn, and whose system calls fail. It
-- neither crashes nor leaks, whoever is not served is cut, and the next client is served.
local net = require "spec.support.net"
local process = require "spec.support.process"

local LIBRARY = os.getenv "EVENTSTREAM_FAULTS_LIBRARY"
local KINDS = { memory = 1, accept = 2, send = 3, receive = 4, watch = 5, wait = 6, option = 7 }
local ERRNO = { EINTR = 4, EAGAIN = 11, ENOMEM = 12, ENFILE = 23, EMFILE = 24, ENOSPC = 28, EPIPE = 32, ENETDOWN = 100,
  ECONNABORTED = 103, ECONNRESET = 104, ENOBUFS = 105, ETIMEDOUT = 110 }

describe("under faults", function()
  -- Under a sanitizer memory is the sanitizer's.
  if not LIBRARY or os.getenv "ASAN_OPTIONS" then return end

  local server, port, control, name

  local function number(value)
    value = value % 2 ^ 32
    return string.char(value % 256, math.floor(value / 256) % 256, math.floor(value / 65536) % 256,
      math.floor(value / 16777216))
  end

  local function arm(kind, after, count, failure)
    control:seek("set", 4)
    control:write(number(after), number(count), number(ERRNO[failure]), number(0))
    control:flush()
    control:seek("set", 0)
    control:write(number(KINDS[kind]))
    control:flush()
  end

  local function disarm()
    control:seek("set", 0)
    control:write(number(0))
    control:flush()
  end

  local function read(at)
    control:flush()
    control:seek("set", at)
    local a, b, c, d = control:read(4):byte(1, 4)
    return a + b * 256 + c * 65536 + d * 16777216
  end

  before_each(function()
    name = os.tmpname()
    control = assert(io.open(name, "r+b"))
    control:setvbuf "no"
    control:write(number(0):rep(6))
    server = process.lua({ "spec/support/fault_server.lua" }, { LD_PRELOAD = LIBRARY, EVENTSTREAM_FAULTS = name })
    port = tonumber((server:wait_line "^port (%d+)$"))
  end)

  after_each(function()
    process.kill_all()
    control:close()
    os.remove(name)
    net.finish()
  end)

  local clients

  local function connect()
    local client = net.connect(port)
    clients[#clients + 1] = client
    return client
  end

  local function story(what, client)
    return function()
      return ("%s; server exited: %s; so far %q\n%s"):format(what, tostring(server:exited()), client.received:sub(-600),
        server.stderr:sub(-2000))
    end
  end

  -- Until it has come, or something else that says that it will not: a refusal, or the end of the connection.
  local function wait(client, text)
    net.wait(function()
      return client.ended or text and client.received:find(text, 1, true) or client.received:find "HTTP/1.1 [45]%d%d"
    end, story(text or "the end", client))
  end

  -- Everything that a client can do.
  local function session()
    clients = {}
    local news = connect():get("/news?user=ann", { "Cookie: name=ann" })
    wait(news, "id: ")
    local publisher = connect():request("POST", "/publish", nil, "headline")
    wait(publisher, "\r\n\r\n")
    if publisher.received:find("published", 1, true) and not news.ended then wait(news, "data: headline\n") end
    local id = news.received:match ".*\nid: ([^\n]+)"
    news:close()
    if id then
      local again = connect():get("/news", { "Last-Event-ID: " .. id })
      wait(again, "\n\n")
    end
    wait(connect():get("/own?user=bob", { "Cookie: name=bob" }))
    local large = connect():get "/large"
    large:pause()
    wait(connect():get "/waits")
    wait(connect():get "/fails")
    local plain = connect():send("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n" .. "HEAD /own HTTP/1.1\r\nHost: a\r\n\r\n")
    wait(plain, "text/event-stream")
    wait(connect():get "/none", "not found")
    wait(connect():send "nonsense\r\n\r\n", "400 Bad")
    for _, client in ipairs(clients) do client:close() end
  end

  local function served()
    disarm()
    local client = net.connect(port):get "/ping"
    net.wait(function() return client.ended or client.received:find("pong", 1, true) end, story("pong", client))
    assert(client.received:find("pong", 1, true), client.received)
    client:close()
  end

  local WANTED = "connections=1 streams=0 subscribers=0 channels=0 backlog=0 here=0"

  -- When all have left: what is there then, and how many allocations.
  local function rest()
    local told
    net.wait(function()
      local client = net.connect(port):get "/rest"
      client:wait "here=%-?%d+$"
      told = client.received:match "functions=.*"
      client:close()
      return told:find(WANTED, 1, true)
    end, function() return "rest: " .. told end)
    return tonumber(told:match "functions=(%d+)"), tonumber(told:match "threads=(%d+)"), read(20)
  end

  local function calls_of(kind)
    arm(kind, 2 ^ 30, 0, "EINTR")
    session()
    local calls = read(16)
    served()
    return calls
  end

  local function run(kind, failure, count, step)
    for _ = 1, 3 do session() end
    local functions, threads, live = rest()
    local calls = calls_of(kind)
    assert(calls > 0)
    for after = 0, calls, step or 1 do
      arm(kind, after, count, failure)
      session()
      assert(not server:exited(), story(kind .. " " .. after, clients[#clients]))
      served()
    end
    local functions_now, threads_now, live_now = rest()
    assert(functions_now <= functions, ("functions: %d, now %d"):format(functions, functions_now))
    assert(threads_now <= threads, ("threads: %d, now %d"):format(threads, threads_now))
    assert(live_now - live < 50, ("allocations: %d, now %d, after %d sessions"):format(live, live_now, calls))
    server:kill "sigterm"
    assert.equal(0, (server:wait_exit()))
    return calls
  end

  -- Lua 5.1 and 5.2 give up early, so that there the script's own functions fail, and what they left undone is theirs.
  local is_early = _VERSION < "Lua 5.3" and not rawget(_G, "jit")
  for _, count in ipairs(is_early and {} or { 1, 3, 20 }) do
    it(count .. " allocations that fail, wherever, cost at most who needed them #long", function()
      run("memory", "ENOMEM", count, count == 20 and 7 or 1)
    end)
  end

  for _, case in ipairs {
    { "accept", "EMFILE" }, { "accept", "ENFILE" }, { "accept", "ENOMEM" }, { "accept", "ECONNABORTED" },
    { "accept", "EINTR" }, { "accept", "ENETDOWN" },
    { "send", "EPIPE" }, { "send", "ECONNRESET" }, { "send", "EAGAIN" },
    { "send", "ENOBUFS" }, { "send", "EINTR" }, { "send", "ETIMEDOUT" }, { "receive", "ECONNRESET" },
    { "receive", "EAGAIN" }, { "receive", "EINTR" }, { "wait", "EINTR" }, { "option", "ENOMEM" },
  } do
    it(("%s that fails with %s, at every call"):format(case[1], case[2]), function()
      run(case[1], case[2], 1, case[1] == "option" and 5 or 1)
    end)
  end
end)
