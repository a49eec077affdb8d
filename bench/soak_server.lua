-- What bench/soak runs for hours: an app that uses everything, and measures itself.
--
--   lua5.4 bench/soak_server.lua PORT MEASURE_PORT SECONDS    ends by itself after SECONDS
--
-- GET /columns on MEASURE_PORT tells the names, and GET /measure the values, of what is measured, after a full
-- collection. That port belongs to an app of its own: the counts of the other one are those of the load alone.
local eventstream = require "eventstream"
local uv = require "luv"

local NAMES = 10000 -- of channels that come and go
local HOT = 40      -- channels that are never without a publisher
local OWN = 1000    -- names whose options are remembered: the bound of that is reached at once
local SMALL = { limits = { connections = 50 } } -- of the apps beside the one under load
local PUBLISHES = 4 -- to channels that come and go, every 20 ms

local port, measure_port, seconds = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3])
if not seconds then
  io.stderr:write("usage: soak_server.lua PORT MEASURE_PORT SECONDS\n")
  os.exit(2)
end

local counted = { errors = 0, backlogs = 0, waits = 0, failures = 0 } -- by what happens; ends by their reasons, too
local function count(what) counted[what] = (counted[what] or 0) + 1 end

local app = eventstream.new {
  heartbeat = 1,
  retry = 100,
  channels = {
    ["room:*"] = { history = 20, history_seconds = 2 },
    ["hot:*"] = { history = 200, history_seconds = 5, flush = 0.01 },
    ["own:*"] = { history_seconds = 2 },
    ["flood"] = { history = 20, history_seconds = 5, flush = 0 },
    ["flood:skip"] = { history = 20, history_seconds = 5, slow = "skip" },
  },
  limits = {
    connections = 600, header_seconds = 2, body_seconds = 2, keep_alive_seconds = 3, body_bytes = 200000,
    stream_seconds = 25, pipelined = 20,
  },
  on_error = function(message)
    if tostring(message):find("meant", 1, true) then
      count "errors"
    else
      count "failures"
      io.stderr:write("an error that is not meant: ", tostring(message), "\n")
    end
  end,
}

for i = 1, OWN do app:channel("own:" .. i, { history = i % 20, history_seconds = 2 }) end

local function seconds_of(request, name)
  local value = tonumber(request.query[name])
  return value and math.min(value, 60)
end

-- The lower ones more often.
local function any_name()
  return "room:" .. math.floor(NAMES * math.random() ^ 3)
end

-- ---- streams ----

local function greet(stream)
  stream.data = { since = uv.hrtime() }
  stream:on_close(function(reason)
    count("end_" .. reason)
    if stream.data.bad then error "meant: on_close" end
  end)
  local close, expire = seconds_of(stream.request, "close"), seconds_of(stream.request, "expire")
  if close then stream:after(close, function(own) own:close() end) end
  if expire then stream:expire(expire) end
end

app:stream("/events", function(stream, request)
  greet(stream)
  local names = request.query_all.channel
  stream:subscribe(names, { newcomer = tonumber(request.query.newcomer), member = request.query.member })
  if request.query.more then
    stream:sleep(0.3)
    stream:subscribe(any_name(), { since = "live" })
    stream:sleep(0.3)
    stream:unsubscribe(names[1])
    stream:send { event = "left", data = names[1] }
  end
end)

app:stream("/interval", function(stream, request)
  greet(stream)
  local n, first = 0, nil
  first = stream:every(tonumber(request.query.every), function(own)
    n = n + 1
    if n == 20 then first:stop() end
    own:send { id = n, data = n }
  end)
  stream:every(0.7, function(own) own:comment "still here" end)
end)

app:stream("/loop", function(stream)
  greet(stream)
  local _ <close> = setmetatable({}, { __close = function() count "closed" end })
  for i = 1, math.huge do
    stream:send { id = i, event = "tick", data = ("x"):rep(i % 500) }
    stream:sleep(0.05 + math.random() / 5)
  end
end)

-- For those who do not read: the handler waits in send, and the interval is told of the backlog.
app:stream("/backlog", function(stream)
  greet(stream)
  stream:every(0.2, function(own)
    local ok, why = own:send(("i"):rep(5000))
    if not ok and why == "backlog" then count "backlogs" end
  end)
  while stream:send(("s"):rep(30000)) do count "waits" end
end)

app:stream("/reject", function(stream, request)
  if request.query.wait then
    eventstream.await(function(resume) app:after(math.random() / 2, resume) end)
  end
  return stream:reject(tonumber(request.query.status), "not you", { ["X-Why"] = "meant" })
end)

app:stream("/tokens", { methods = { "POST" } }, function(stream, request)
  greet(stream)
  for token in request.body:gmatch "%w+" do
    if not stream:send { data = token } then return end
    stream:sleep(0.01)
  end
  stream:send { event = "done", data = "" }
end)

-- ---- waiting ----

app:stream("/await/never", function(stream)
  greet(stream)
  local _, why = eventstream.await(function() end)
  if why == "closed" then count "abandoned" end
end)

app:stream("/await/late", function(stream)
  greet(stream)
  eventstream.await(function(resume)
    local timer = uv.new_timer()
    timer:start(math.random(5000), 0, function()
      timer:close()
      resume("late", {}, {})
      resume "twice"
    end)
  end)
  stream:send "late"
end)

app:stream("/await/again", function(stream)
  greet(stream)
  for i = 1, 50 do
    local value = eventstream.await(function(resume)
      if i % 2 == 0 then resume({ i }) else app:after(0.02, function() resume({ i }) end) end
    end)
    if not value then return end
    stream:send(value[1])
  end
end)

app:get("/await", function()
  eventstream.await(function(resume) app:after(math.random() * 2, resume) end)
  return "waited"
end)

-- ---- errors ----

app:stream("/fail/before", function(stream)
  greet(stream)
  error "meant: before the head"
end)

app:stream("/fail/after", function(stream)
  greet(stream)
  stream:send "one"
  if math.random() < 0.5 then stream:sleep(0.05) end
  error(setmetatable({}, { __tostring = function() return "meant: after the head" end }))
end)

app:stream("/fail/interval", function(stream)
  greet(stream)
  stream:every(0.1, function() error "meant: in an interval" end)
end)

app:stream("/fail/close", function(stream)
  greet(stream)
  stream.data.bad = true
  stream:send "one"
end)

app:stream("/fail/subscribe", function(stream)
  greet(stream)
  stream.data.worse = true
  stream:subscribe { "hot:1", any_name() }
end)

app:stream("/fail/await", function(stream)
  greet(stream)
  pcall(eventstream.await, function() error "not seen" end)
  stream:send "one"
  eventstream.await(function() error "meant: in await" end)
end)

app:get("/fail", function() error "meant: in a handler" end)

app:on_subscribe(function(channel, stream)
  if stream.data.worse then error "meant: on_subscribe" end
  if channel.name == "hot:2" then channel:publish { id = false, event = "here", data = channel.subscribers } end
end)

app:on_unsubscribe(function(channel, stream)
  if channel.name == "hot:2" and stream.data then
    channel:publish { id = false, event = "gone", data = table.concat(channel:members(), "\n") }
  end
end)

-- ---- ordinary requests ----

app:before(function(request)
  request.seen = {}
  if request.query.refuse then return 401, "who are you?" end
end)

app:get("/plain/:what", function(request) return 200, request.params.what, { ["X-Plain"] = "1" } end)
app:post("/echo", function(request) return request.body end)
app:post("/publish/:name", function(request)
  app:channel(request.params.name):publish { event = "posted", data = request.body }
end)

-- ---- what happens by itself ----

local quiet = 0 -- turns without anyone

app:every(0.02, function()
  quiet = app:stats().connections == 0 and quiet + 1 or 0
  if quiet > 100 then return end
  for _ = 1, PUBLISHES do
    app:channel(any_name()):publish { event = "room", data = ("r"):rep(math.random(400)) }
  end
  app:channel("own:" .. math.random(2 * OWN)):publish "own"
end)

app:every(0.05, function()
  if quiet > 100 then return end
  local flood = ("f"):rep(16000)
  for _, name in ipairs { "flood", "flood:skip" } do
    local channel = app:channel(name)
    if channel.subscribers > 0 then channel:publish(flood) end
  end
  for _ = 1, 3 do app:channel("hot:" .. math.random(HOT)):publish { data = ("h"):rep(math.random(300)) } end
end)

-- A channel is closed under its subscribers, options change, a listener and an app come and go.
app:every(0.5, function()
  if quiet > 100 then return end
  app:channel("hot:" .. math.random(3, HOT)):close()
  app:channel("own:" .. math.random(2 * OWN), { history = 5, history_seconds = 1 }):publish "with options"
  for _, stream in ipairs(app:channel("hot:" .. math.random(3, HOT)):streams()) do
    if math.random() < 0.1 then stream:close() end
  end
  local listener = assert(app:listen { port = 0 })
  app:after(0.2, function() listener:close() end)
  local other = eventstream.new(SMALL)
  other:channel("x"):publish "nobody"
  assert(other:listen { port = 0 })
  other:every(0.05, function() end)
  other:after(0.3, function() other:close { grace = 1 } end)
end)

-- ---- measuring ----

local function memory()
  local found = {}
  for line in io.lines "/proc/self/smaps_rollup" do
    local key, value = line:match "^(%a+):%s+(%d+) kB"
    if key then found[key] = value end
  end
  return found.Rss, found.Pss
end

-- Not by luv's fs_scandir, which (1.44) leaves a reference in the registry each time.
local function descriptors()
  local n, size = 0, nil
  for line in io.lines "/proc/self/status" do size = size or tonumber(line:match "^FDSize:%s+(%d+)") end
  for descriptor = 0, size - 1 do
    local info = io.open("/proc/self/fdinfo/" .. descriptor)
    if info then
      n = n + 1
      info:close()
    end
  end
  return n
end

-- A free place of the registry's has a number: that of the next one.
local function references()
  local n, threads = 0, 0
  for key, value in pairs(debug.getregistry()) do
    if math.type(key) == "integer" and key > 2 and type(value) ~= "number" then
      n = n + 1
      if type(value) == "thread" then threads = threads + 1 end
    end
  end
  return n, threads
end

local STATS = {
  "connections", "streams", "channels", "subscribers", "accepted", "rejected", "slow", "skipped", "gaps", "resumes",
  "requests", "published", "events", "bytes_out", "backlog",
}
local COUNTED = {
  "errors", "failures", "backlogs", "waits", "abandoned", "closed", "end_client", "end_server", "end_timeout",
  "end_slow", "end_expired", "end_error",
}

local measuring = eventstream.new(SMALL)

measuring:get("/columns", function()
  return table.concat({ "rss", "pss", "descriptors", "lua", "references", "coroutines", table.concat(STATS, "\t"),
    table.concat(COUNTED, "\t") }, "\t") .. "\n"
end)

measuring:get("/measure", function()
  collectgarbage()
  collectgarbage() -- what had finalizers
  local row, stats = {}, app:stats()
  row[1], row[2] = memory()
  row[3] = descriptors()
  row[4] = ("%.1f"):format(collectgarbage "count")
  row[5], row[6] = references()
  for _, name in ipairs(STATS) do row[#row + 1] = ("%d"):format(stats[name]) end
  for _, name in ipairs(COUNTED) do row[#row + 1] = counted[name] or 0 end
  return table.concat(row, "\t") .. "\n"
end)

measuring:after(seconds, function()
  io.stderr:write("soak_server: nobody has ended me\n")
  os.exit(1)
end)

assert(measuring:listen { port = measure_port })
assert(app:listen { port = port })
eventstream.run()
