-- The clients of bench/soak: a mixed load for SECONDS, then all leave.
--
--   lua5.4 bench/soak_clients.lua PORT SECONDS COUNT [SEED]
--
-- Each of COUNT clients does one thing after another, drawn by weight. Prints at the end how often each was done.
-- Ends with 1 when the server is not there, or when there was something that was never done.
local uv = require "luv"

local port, seconds, count = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3])
if not count then
  io.stderr:write("usage: soak_clients.lua PORT SECONDS COUNT [SEED]\n")
  os.exit(2)
end
math.randomseed(tonumber(arg[4]) or 1)

local NAMES, HOT = 10000, 40 -- as soak_server.lua has them
local RECEIVE_BYTES = 8192   -- of those that stop reading
local REFUSED = 200          -- connections in a row: the server has gone
local random = math.random

local done, open = {}, {} -- how often; open connections
local refused, stopping = 0, false

local function note(what) done[what] = (done[what] or 0) + 1 end
local function maybe(share) return random() < share end
local function any(list) return list[random(#list)] end

local function after(delay, fn)
  local timer = uv.new_timer()
  timer:start(math.floor(delay * 1000), 0, function()
    timer:close()
    fn()
  end)
  return timer
end

-- 0.1 to 20 s, mostly short.
local function lifetime() return 0.1 * 200 ^ random() end

-- ---- one connection ----

local function finish(connection)
  if connection.over then return end
  connection.over = true
  open[connection] = nil
  for timer in pairs(connection.timers) do
    if not timer:is_closing() then timer:close() end
  end
  if not connection.socket:is_closing() then connection.socket:close() end
  if not stopping then after(0.02 + random() / 4, connection.next) end
end

local function later(connection, delay, fn)
  local timer
  timer = after(delay, function()
    connection.timers[timer] = nil
    if not connection.over then fn() end
  end)
  connection.timers[timer] = true
end

local function send(connection, bytes)
  if not connection.over then connection.socket:write(bytes) end
end

local function reset(connection)
  if connection.over then return end
  note "reset"
  connection.socket:close_reset()
  finish(connection)
end

-- Its own side first: the server's end comes as the end of what is read.
local function half_close(connection)
  note "half_close"
  connection.socket:shutdown()
  later(connection, 5, function() finish(connection) end)
end

local function stop_reading(connection)
  connection.socket:read_stop()
end

-- Opens one, writes the bytes, and calls on_data(connection, text) until its end.
local function connect(next_one, bytes, on_data, on_open, receive_bytes)
  local socket = uv.new_tcp "inet"
  local connection = { socket = socket, next = next_one, timers = {} }
  open[connection] = true
  if receive_bytes then uv.recv_buffer_size(socket, receive_bytes) end
  socket:bind("127.0.0." .. random(8), 0) -- more ports than one address has
  local function on_read(failure, text)
    if connection.over then return end
    if failure or not text then return finish(connection) end
    if on_data then on_data(connection, text) end
  end
  connection.read = function() socket:read_start(on_read) end
  local ok = socket:connect("127.0.0.1", port, function(failure)
    if connection.over then return end
    if failure then
      refused = refused + 1
      if refused > REFUSED then
        io.stderr:write("soak_clients: nobody listens: ", failure, "\n")
        os.exit(1)
      end
      return finish(connection)
    end
    refused = 0
    connection.read()
    if bytes and #bytes > 0 then send(connection, bytes) end
    if on_open then on_open(connection) end
  end)
  if not ok then finish(connection) end
  later(connection, 40, function()
    note "overdue"
    finish(connection)
  end)
  return connection
end

local function get(target, headers)
  return ("GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"):format(target, headers or "")
end

local function post(target, body)
  return ("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"):format(target, #body, body)
end

-- How a client leaves after a while; or the server is asked to end it: then this comes much later.
local function leave(connection, delay)
  local way = random(4)
  later(connection, delay, function()
    if way == 1 then return reset(connection) end
    if way == 2 then return half_close(connection) end
    if way == 3 then -- half read
      note "half_read"
      stop_reading(connection)
      return later(connection, random(), function() reset(connection) end)
    end
    note "closed"
    finish(connection)
  end)
end

-- ---- what they do ----

local function room() return "room:" .. math.floor(NAMES * random() ^ 3) end
local function hot() return "hot:" .. random(HOT) end

local function any_channel()
  if maybe(0.5) then return room() end
  return maybe(0.2) and "own:" .. random(2000) or hot()
end

local function subscribe(slot, next_one)
  local memory = slot.memory
  if not memory or maybe(0.3) then
    memory = { names = {} }
    for i = 1, random(4) do memory.names[i] = any_channel() end
    slot.memory = memory
  end
  local target = "/events?channel=" .. table.concat(memory.names, "&channel=")
  if maybe(0.2) then target = target .. "&newcomer=" .. random(0, 20) end
  if maybe(0.3) then target = target .. "&member=m" .. random(1000) end
  if maybe(0.2) then target = target .. "&more=1" end
  local stays = lifetime()
  local by_server = random(10)
  if by_server == 1 then target = ("%s&close=%.2f"):format(target, stays) end
  if by_server == 2 then target = ("%s&expire=%.2f"):format(target, stays) end
  local headers = "Accept: text/event-stream\r\n"
  local id = memory.id
  if id then
    if maybe(0.05) then id = "nonsense" end
    headers = headers .. "Last-Event-ID: " .. id .. "\r\n"
    note "came_back"
  end
  connect(next_one, get(target, headers), function(_, text)
    memory.id = text:match ".*\nid: ([^\r\n]+)\n" or memory.id
  end, function(connection)
    leave(connection, by_server <= 2 and stays + 2 or stays)
  end)
end

-- Reads for a second, then no more: gets cut, and looks for that after a while.
local function be_slow(_, next_one)
  local target = maybe(0.7) and "/events?channel=flood" or "/events?channel=flood:skip"
  connect(next_one, get(target), nil, function(connection)
    later(connection, random(), function()
      stop_reading(connection)
      later(connection, 6 + 4 * random(), function()
        connection.read()
        later(connection, 1, function() finish(connection) end)
      end)
    end)
  end, RECEIVE_BYTES)
end

local function read_flood(_, next_one)
  connect(next_one, get "/events?channel=flood&channel=flood:skip", nil, function(connection)
    leave(connection, lifetime())
  end)
end

local function block(_, next_one)
  connect(next_one, get "/backlog", nil, function(connection)
    stop_reading(connection)
    later(connection, 1 + 3 * random(), function()
      if maybe(0.5) then return reset(connection) end
      connection.read()
      later(connection, random() / 20, function() finish(connection) end) -- it gets all that the server can send
    end)
  end, RECEIVE_BYTES)
end

local function stream(targets)
  return function(_, next_one)
    local target = any(targets):gsub("%%r", function() return ("%.3f"):format(0.02 + random()) end)
    connect(next_one, get(target), nil, function(connection) leave(connection, lifetime()) end)
  end
end

local function plain_one()
  return any {
    get("/plain/" .. random(1000)), get("/plain/x?y=" .. ("%20"):rep(random(50))), get "/nowhere",
    get "/plain/x?refuse=1", post("/echo", ("b"):rep(random(20000))), post("/publish/" .. room(), "posted"),
    get "/await", get "/fail",
    "HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "DELETE /plain/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" ..
      "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
  }
end

local function keep_alive(_, next_one)
  local left = random(10)
  connect(next_one, plain_one(), nil, function(connection)
    local function again()
      left = left - 1
      if left == 0 then return leave(connection, 2 * random()) end -- some wait for the server to close
      send(connection, plain_one())
      later(connection, 0.3 * random(), again)
    end
    again()
  end)
end

local function pipeline(_, next_one)
  local requests = {}
  for i = 1, random(30) do requests[i] = plain_one() end -- more than it takes
  connect(next_one, table.concat(requests), nil, function(connection) leave(connection, 5 * random()) end)
end

-- A body in pieces; some never end.
local function upload(_, next_one)
  local size = any { 10, 5000, 150000 }
  connect(next_one, ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"):format(size), nil,
    function(connection)
      local pieces = random(8)
      local function piece(i)
        if i > pieces then return leave(connection, 3 * random()) end
        send(connection, ("p"):rep(size // pieces))
        later(connection, 0.05, function() piece(i + 1) end)
      end
      piece(1)
    end)
end

local function tokens(_, next_one)
  connect(next_one, post("/tokens", ("token "):rep(random(100))), nil, function(connection)
    leave(connection, 2 * random())
  end)
end

local MALFORMED = {
  "NONSENSE\r\n\r\n", "GET / HTTP/1.1\r\nBad Header\r\n\r\n", "\0\1\2\3\r\n\r\n", "\22\3\1\0\200\1\0\0\196\3\3",
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: " .. ("x"):rep(20000),
  "GET /" .. ("u"):rep(20000) .. " HTTP/1.1\r\n\r\n",
  "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n",
  "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
  "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: y",
  "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nshort", "GET /plain/1 HTTP/1.1\r\n\r\n",
  "GET /events?channel=" .. ("%00"):rep(50) .. " HTTP/1.1\r\nHost: a\r\nLast-Event-ID: " .. ("9"):rep(300) ..
    "\r\n\r\n",
}

local function malformed(_, next_one)
  connect(next_one, any(MALFORMED), nil, function(connection) leave(connection, 4 * random()) end)
end

-- Comes, and says nothing, or half of it.
local function touch(_, next_one)
  connect(next_one, get("/events?channel=" .. hot()):sub(1, maybe(0.5) and 0 or random(60)), nil, function(connection)
    later(connection, random() / 5, function()
      if maybe(0.5) then reset(connection) else finish(connection) end
    end)
  end)
end

local ACTIONS = {
  { 30, "subscribe", subscribe },
  { 3, "be_slow", be_slow },
  { 2, "read_flood", read_flood },
  { 3, "block", block },
  { 6, "interval", stream { "/interval?every=%r", "/interval?every=%r&close=%r", "/loop", "/loop?expire=%r" } },
  { 6, "await", stream { "/await/never", "/await/late", "/await/again", "/await/never?close=%r" } },
  { 4, "fail", stream { "/fail/before", "/fail/after", "/fail/interval", "/fail/close", "/fail/subscribe",
    "/fail/await" } },
  { 3, "reject", stream { "/reject?status=204", "/reject?status=403&wait=1" } },
  { 5, "keep_alive", keep_alive },
  { 4, "pipeline", pipeline },
  { 4, "upload", upload },
  { 3, "tokens", tokens },
  { 6, "malformed", malformed },
  { 5, "touch", touch },
}

local total = 0
for _, action in ipairs(ACTIONS) do total = total + action[1] end

local function act(slot)
  if stopping then return end
  local place = random() * total
  for _, action in ipairs(ACTIONS) do
    place = place - action[1]
    if place < 0 then
      note(action[2])
      return action[3](slot, function() act(slot) end)
    end
  end
end

for i = 1, count do
  local slot = {}
  after(2 * i / count, function() act(slot) end)
end

-- Every 3 s a crowd comes at once, which is more than the server's limit, and leaves.
local crowd = uv.new_timer()
crowd:start(3000, 3000, function()
  note "crowd"
  for _ = 1, 150 do
    connect(function() end, get("/events?channel=" .. hot(), "Accept: text/event-stream\r\n"), nil, function(connection)
      later(connection, 0.3 * random(), function() finish(connection) end)
    end)
  end
end)

after(seconds, function()
  stopping = true
  crowd:close()
  local all = {}
  for connection in pairs(open) do all[#all + 1] = connection end
  for i, connection in ipairs(all) do
    if i % 2 == 0 then reset(connection) else finish(connection) end
  end
  after(1, function() uv.stop() end)
end)

uv.run()

local never = {}
for _, action in ipairs(ACTIONS) do
  if not done[action[2]] then never[#never + 1] = action[2] end
end
local lines = {}
for what, times in pairs(done) do lines[#lines + 1] = ("%s %d"):format(what, times) end
table.sort(lines)
print(table.concat(lines, ", "))
if #never > 0 then
  print("never done: " .. table.concat(never, ", "))
  os.exit(1)
end
