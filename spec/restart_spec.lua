-- A server is replaced under its clients: its socket is passed on, and nobody who comes meanwhile is refused or reset.
local eventstream = require "eventstream"
local net = require "spec.support.net"
local process = require "spec.support.process"
local uv = require "luv"

local SERVER = "spec/support/restart_server.lua"
local COUNT, SPREAD = 5000, 10 -- seconds: the default of app:close

-- A listening socket that this process keeps, and accepts nothing from: as a service manager does. libuv takes one
-- connection, and as that is left unaccepted, no more.
local function open_socket()
  local socket, taken = uv.new_tcp(), false
  socket:bind("127.0.0.1", 0)
  socket:listen(4096, function() taken = true end)
  local port = socket:getsockname().port
  net.connect(port)
  net.wait(function() return taken end, "the first connection")
  return socket, port
end

local function numbers(text)
  local list = {}
  for number in text:gmatch "%d+" do list[#list + 1] = tonumber(number) end
  return list
end

-- How many came back in each second after the first left, and how many later.
local function check_spread(line)
  local counts = numbers(line)
  local later = table.remove(counts)
  local total, most = 0, 0
  for second, count in ipairs(counts) do
    total, most = total + count, math.max(most, count)
    if second < SPREAD then assert(count > COUNT / SPREAD / 2, line) end
  end
  assert.equal(COUNT, total, line)
  assert.equal(0, later, line)
  assert(most < COUNT / SPREAD * 1.5, line)
end

describe("a restart", function()
  local socket

  after_each(function()
    process.kill_all()
    if socket and not socket:is_closing() then socket:close() end
    net.finish()
  end)

  it("under 5,000 clients refuses and resets none, and they come back spread #long", function()
    local port
    socket, port = open_socket()
    local function start()
      return process.spawn(process.interpreter(), { SERVER }, { LISTEN_FDS = "1", LUA = process.interpreter() },
        { socket:fileno() })
    end
    local first = start()
    local clients = process.lua { "spec/support/restart_clients.lua", tostring(port), tostring(COUNT) }
    clients:wait_line "^all 1:"

    -- one stops, and another is started by who has the socket
    first:kill "sigterm"
    assert.equal(0, (first:wait_exit()))
    local second = start()
    check_spread(clients:wait_line("^all 2: (.*)", 60))

    -- it starts its successor itself
    second:kill "sighup"
    local successor = tonumber((second:wait_line("^serving (%d+)", 60)))
    if successor == second.pid then successor = tonumber((second:wait_line "^serving (%d+)")) end
    assert.equal(0, (process.wait(function() return second.code end, 30, "the exit")))
    check_spread(clients:wait_line("^all 3: (.*)", 60))

    clients:kill "sigterm"
    assert.equal(0, (clients:wait_exit()))
    uv.kill(successor, "sigterm")
    second:wait_exit() -- its output is its successor's
    local told = table.concat(clients.lines, "\n")
    local events, posts, _, gaps, needed, failures =
      told:match "events (%d+), posts (%d+) and (%d+) later, gaps (%d+), needed (%d+), failures (%d+)"
    assert.equal("0", failures, told)
    assert(tonumber(events) > COUNT * 100, told)
    assert(tonumber(posts) > 100, told)
    assert.equal(2 * COUNT, tonumber(gaps), told) -- a new process has a history of its own
    assert.equal("0", needed, told) -- which had all that was published meanwhile: the publisher waited in the queue
  end)

  -- A server, as a program of one file, that is stopped while clients come, told to end, and let go on.
  local function crowd_before(server, port, goes)
    process.wait(function() return #server.lines > 0 or server:exited() end, 10, "its line")
    server:kill "sigstop"
    local crowd = {}
    for i = 1, 300 do -- more than it accepts in one turn
      crowd[i] = net.connect(port)
      crowd[i]:send "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
    end
    server:kill "sigterm"
    server:kill "sigcont"
    if goes then goes() end
    for i, client in ipairs(crowd) do
      net.wait(function() return client.ended end, function() return "answer " .. i .. client.received end)
      assert.equal(nil, client.failure, i)
    end
    return crowd
  end

  local function script(listen)
    return ([[
      local eventstream = require "eventstream"
      local app = eventstream.new()
      app:stream("/", function(stream) stream:send "hello" end)
      local listener, message = app:listen(%s)
      io.stdout:setvbuf "line"
      if not listener then return print(message) end
      app:after(0, function() print(listener.port) end) -- signals are caught by then
      eventstream.run()]]):format(listen)
  end

  for name, listen in pairs {
    ["a socket of its own"] = "{ port = 0 }",
    ["a port that others may have, too,"] = "{ port = 0, reuse_port = true }",
  } do
    it("of a server with " .. name .. " answers who waits in its queue", function()
      local server = process.lua { "-e", script(listen) }
      local port = tonumber((server:wait_line "^(%d+)$"))
      for _, client in ipairs(crowd_before(server, port)) do
        assert.matches("^HTTP/1%.1 200 .*\r\n\r\n.*retry: %d+\n", client.received)
      end
      assert.equal(0, (server:wait_exit()))
    end)
  end

  it("leaves the queue to others that have the socket", function()
    local port, second
    socket, port = open_socket()
    local function start()
      return process.spawn(process.interpreter(), { "-e", script "{ activated = true }" }, { LISTEN_FDS = "1" },
        { socket:fileno() })
    end
    local first = start()
    local served = 0
    local crowd = crowd_before(first, port, function()
      assert.equal(0, (first:wait_exit()))
      second = start()
    end)
    for _, client in ipairs(crowd) do
      assert.matches("^HTTP/1%.1 200 ", client.received)
      if client.received:find("data: hello\n", 1, true) then served = served + 1 end
    end
    assert(served > 100, served)
    second:kill "sigterm"
    assert.equal(0, (second:wait_exit()))
  end)

  it("picks a socket by its name, and says why it has none", function()
    local port
    socket, port = open_socket()
    local fd = socket:fileno()
    local function told(listen, environment)
      local server = process.spawn(process.interpreter(), { "-e", script(listen) }, environment, { fd, fd })
      local line = server:wait_line "^(.+)$"
      server:kill "sigterm"
      server:wait_exit()
      return line
    end
    local here = tostring(port)
    assert.equal(here, told('{ activated = "web" }', { LISTEN_FDS = "2", LISTEN_FDNAMES = "other:web" }))
    assert.equal(here, told("{ activated = true }", { LISTEN_FDS = "2", LISTEN_FDNAMES = "other:web" }))
    assert.equal(here, told("{ fd = 4 }", {}))
    for message, case in pairs {
      ["no socket named 'web' was passed on (LISTEN_FDNAMES)"] = { '{ activated = "web" }', { LISTEN_FDS = "2" } },
      ["no socket was passed on (LISTEN_FDS is not set)"] = { "{ activated = true }", { LISTEN_FDS = false } },
      ["the sockets were passed on to another process (LISTEN_PID)"] =
        { "{ activated = true }", { LISTEN_FDS = "2", LISTEN_PID = "1" } },
    } do
      local line = told(case[1], case[2])
      assert(line:find(message, 1, true), line)
    end
  end)
end)

describe("listener:share", function()
  after_each(net.finish)

  it("is its descriptor, and leaves a Unix socket's file to who has it now", function()
    local path = os.tmpname()
    os.remove(path)
    local app = eventstream.new()
    local listener = assert(app:listen { path = path })
    assert.equal("number", type(listener:share()))
    listener:close()
    assert.equal(nil, (listener:share()))
    assert(uv.fs_stat(path), "its file is gone")
    listener = assert(app:listen { path = path }) -- nobody listens there any more: taken over
    listener:close()
    assert.equal(nil, (uv.fs_stat(path)))
    app:close()
    net.settle()
  end)
end)

describe("listen { reuse_port = true }", function()
  after_each(net.finish)

  it("shares a port with others that say so, and with nobody else", function()
    local app = net.serve(function() end)
    local one = assert(app:listen { port = 0, reuse_port = true })
    local other = assert(app:listen { port = one.port, reuse_port = true })
    assert.equal(one.port, other.port)
    local none, message = app:listen { port = one.port }
    assert.equal(nil, none)
    assert.matches("in use", message)
  end)
end)
