--- The clients of redis_chaos_spec, a process of their own: redis_chaos_clients.lua SEED COUNT CHANNELS PORT...
--
-- COUNT clients, each of 1 to 3 channels, are cut at random moments and come back with their last id to another of the
-- ports. Each checks every event that it gets. On SIGUSR1 nobody is cut any more; the publishers are stopped, and when
-- everyone has everything it ends. What is wrong is printed as "failure ...", each gap as "gap ..."; at the end
-- "event NUMBER DATA" for each event that anybody got, and the sums.
local ask = require "spec.support.ask"
local random = require "spec.support.random"
local uv = require "luv"
local wire = require "spec.support.wire"

local SEED, COUNT, CHANNELS = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3])
local PORTS = {}
for i = 4, #arg do PORTS[#PORTS + 1] = tonumber(arg[i]) end
local PATIENCE = 30 -- seconds until everyone must have everything at the end
local LATE = 15 -- seconds behind others after which a stream has been forgotten
local TOLD = 20 -- failures, and gaps, that are told one by one; of one connection, the first failure
local draw = random.new(SEED)

local clients, cutting, started = {}, true, uv.hrtime()
local sums = { cuts = 0, events = 0, gaps = 0, resets = 0, halves = 0, moves = 0, refused = 0, failures = 0 }
local known, newest = {}, {} -- by channel: data by number, and the largest number, of what anybody got
local newest_before = {} -- the same, each second before
local last = {} -- by "INCARNATION CHANNEL": the last N that anybody got, or that its publisher told
for i = 1, CHANNELS do known["c" .. i], newest["c" .. i] = {}, 0 end

local function seconds() return (uv.hrtime() - started) / 1e9 end

local function tell(what, client, message, ...)
  sums[what] = sums[what] + 1
  if sums[what] > TOLD then return end
  print(("%s at %.3f s, client %d of %s, connection %d to process %d, made at %.3f s with %s: %s"):format(
    what == "gaps" and "gap" or "failure", seconds(), client.number, client.to, client.connections, client.at or 0,
    client.since or 0, client.id_sent or "no id", message:format(...)))
end

local function fail(client, message, ...)
  if client.failed == client.connections then return end
  client.failed = client.connections
  tell("failures", client, message, ...)
end

local function check(client, kind, data, id)
  if kind == "gap" then
    if not client.gaps[data] then return fail(client, "a gap of %q", data) end
    client.gaps[data] = client.gaps[data] + 1
    return tell("gaps", client, "a gap of %s behind %.0f", data, client.position)
  end
  local publisher, channel, n = data:match "^(%S+) (%S+) (%d+)$"
  local number = tonumber((id or ""):match "^%x+%-(%d+)$")
  if not publisher or not client.gaps[channel] then return fail(client, "an event of nobody's: %q", data) end
  if not number then return fail(client, "no id of Redis': %s", tostring(id)) end
  sums.events = sums.events + 1
  n = tonumber(n)

  -- One order for all.
  if number <= client.position then fail(client, "%s: number %.0f behind %.0f", data, number, client.position) end
  client.position = number
  if known[channel][number] and known[channel][number] ~= data then
    fail(client, "number %.0f is %s, and was %s", number, data, known[channel][number])
  end
  known[channel][number] = data
  newest[channel] = math.max(newest[channel], number)

  -- Each once, and without a hole. Everyone begins before the first event of all, so each publisher's begin with 1.
  local key = publisher .. " " .. channel
  local seen = client.seen[key]
  if not seen then
    seen = { n = 0, gaps = 0 }
    client.seen[key] = seen
  end
  if n <= seen.n then
    fail(client, "%s behind %d: again", data, seen.n)
  elseif n > seen.n + 1 and client.gaps[channel] == seen.gaps then
    fail(client, "%s behind %d: lost in silence", data, seen.n)
  end
  seen.n, seen.gaps = math.max(n, seen.n), client.gaps[channel]
  last[key] = math.max(last[key] or 0, n)
end

-- A stream that nobody serves any more looks like a quiet one: others must not have had more of its channels long ago.
local function check_late(client)
  local then_ = newest_before[#newest_before - LATE]
  if not client.since or not then_ or seconds() - client.since <= LATE + 1 then return end
  for channel in pairs(client.gaps) do
    if client.position < then_[channel] then
      return fail(client, "for %d s nothing of %s, at %.0f of %.0f", LATE, channel, client.position, then_[channel])
    end
  end
end

local connect

-- Gone; comes back after a while.
local function leave(client, how)
  if not client.handle then return end
  check_late(client)
  client.timer:stop()
  if how == "reset" then client.handle:close_reset() else client.handle:close() end
  client.handle, client.since = nil, nil
  local away = 0
  if cutting and draw(2) == 1 then away = draw(1000) end
  client.timer:start(away, 0, function() connect(client) end)
end

local CUTS = {
  function(client) leave(client) end,
  function(client)
    sums.resets = sums.resets + 1
    leave(client, "reset")
  end,
  function(client) client.handle:shutdown() end, -- and reads on, to the end that the server makes
  function(client) client.halve = true end, -- in the midst of what comes next
}

local function plan(client)
  local life = draw(10) == 1 and draw(30) or draw(10) == 1 and draw(30000) or draw(6000)
  client.timer:start(life, 0, function()
    if not cutting or not client.handle then return end
    sums.cuts = sums.cuts + 1
    CUTS[draw(#CUTS)](client)
    if client.handle then -- where nothing comes, it is cut all the same
      client.timer:start(2000, 0, function() leave(client) end)
    end
  end)
end

local function take(client, bytes)
  local ok, failure = pcall(client.wire.feed, client.wire, bytes)
  if not ok then fail(client, "%s", failure) end
  client.last_event_id = client.wire.last_event_id
  if ok then return true end
  leave(client)
end

local function on_read(client, handle, failure, bytes)
  if handle ~= client.handle then return end
  if failure or not bytes then return leave(client) end -- the server's end, or its death
  if client.halve and cutting then -- the rest was lost on the way
    client.halve = false
    sums.halves = sums.halves + 1
    if take(client, bytes:sub(1, draw(#bytes) - 1)) then leave(client, draw(2) == 1 and "reset" or nil) end
    return
  end
  take(client, bytes)
end

function connect(client)
  local handle, id, before = uv.new_tcp(), client.last_event_id, client.at
  repeat client.at = draw(#PORTS) until client.at ~= before
  client.handle, client.halve, client.id_sent, client.since = handle, false, id, nil
  client.connections = client.connections + 1
  client.wire = wire.new(client.on_event, id)
  handle:nodelay(true)
  handle:connect("127.0.0.1", PORTS[client.at], function(failure)
    if handle ~= client.handle then return end
    if failure then -- it is dead: another one
      sums.refused = sums.refused + 1
      handle:close()
      client.handle = nil
      client.timer:start(draw(50), 0, function() connect(client) end)
      return
    end
    client.since = seconds()
    if id then sums.moves = sums.moves + 1 end
    handle:write(("GET /?to=%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"):format(client.to,
      id and ("Last-Event-ID: %s\r\n"):format(id) or ""))
    handle:read_start(function(...) on_read(client, handle, ...) end)
    if cutting then plan(client) end
  end)
end

local function report()
  for channel, events in pairs(known) do
    local numbers = {}
    for number in pairs(events) do numbers[#numbers + 1] = number end
    table.sort(numbers)
    for _, number in ipairs(numbers) do print(("event %.0f %s"):format(number, events[number])) end
    print(("%s events=%d"):format(channel, #numbers))
  end
  local list = {}
  for name, value in pairs(sums) do list[#list + 1] = ("%s=%d"):format(name, value) end
  table.sort(list)
  print(("sums clients=%d seconds=%.0f %s"):format(COUNT, seconds(), table.concat(list, " ")))
  io.stdout:flush()
  os.exit(0)
end

-- Who has not all of each publisher's events yet.
local function missing()
  local without = {}
  for _, client in ipairs(clients) do
    for key, n in pairs(last) do
      local seen = client.seen[key] and client.seen[key].n or 0
      if client.gaps[key:match "%S+$"] and seen < n then
        without[#without + 1] = { client, ("it has %d of %d of %s in the end"):format(seen, n, key) }
        break
      end
    end
  end
  return without
end

local function finish()
  local tries, timer = 0, uv.new_timer()
  timer:start(0, 50, function()
    local without = missing()
    tries = tries + 1
    if #without > 0 and tries < PATIENCE * 20 then return end
    timer:close()
    for _, each in ipairs(without) do tell("failures", each[1], "%s", each[2]) end
    report()
  end)
end

local signal = uv.new_signal()
signal:start("sigusr1", function()
  cutting = false
  local left = #PORTS
  for _, port in ipairs(PORTS) do
    ask(port, "/stop", function(body)
      for key, n in body:gmatch "(%S+ %S+) (%d+)\n" do last[key] = tonumber(n) end
      left = left - 1
      if left == 0 then finish() end
    end)
  end
end)

local second = uv.new_timer()
second:start(1000, 1000, function()
  local copy = {}
  for channel, number in pairs(newest) do copy[channel] = number end
  newest_before[#newest_before + 1] = copy
end)

io.stdout:setvbuf "line"
for number = 1, COUNT do
  local client = { number = number, connections = 0, seen = {}, gaps = {}, position = 0, timer = uv.new_timer() }
  local names = {}
  for _ = 1, draw(3) do
    local name = "c" .. draw(CHANNELS)
    if not client.gaps[name] then names[#names + 1] = name end
    client.gaps[name] = 0
  end
  client.to = table.concat(names, ",")
  client.on_event = function(...) check(client, ...) end
  clients[number] = client
end
for _, client in ipairs(clients) do connect(client) end
print "ready"
uv.run()
