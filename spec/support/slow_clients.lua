--- The clients of slow_crowd_spec: slow_clients.lua PORT CHANNEL COUNT STOPPED SECONDS RATE STOP_AT BACK_AT BACK_FOR
--
-- COUNT clients subscribe, STOPPED of them stop reading STOP_AT seconds after the first publish. From BACK_AT on (0:
-- never), they read again one after the other, for BACK_FOR seconds; who was disconnected then comes back with its
-- last id. Prints "key value" lines.
local ask = require "spec.support.ask"
local crowd = require "spec.support.crowd"
local uv = require "luv"

local PORT, CHANNEL, COUNT, STOPPED = tonumber(arg[1]), arg[2], tonumber(arg[3]), tonumber(arg[4])
local SECONDS, RATE, STOP_AT = tonumber(arg[5]), tonumber(arg[6]), tonumber(arg[7])
local BACK_AT, BACK_FOR = tonumber(arg[8]), tonumber(arg[9])
local RECEIVE_BYTES = 8192 -- of those that stop: what the kernel holds for them does not hide that they have
local PATIENCE = 40 -- seconds after the last publish
local TARGET = "/events?channel=" .. CHANNEL

local total = math.floor(SECONDS * RATE)
local clients, waiting, latencies = {}, COUNT, {}
local cut, again, gaps, holes, wrong = 0, 0, 0, 0, 0

local function complain(what, ...)
  wrong = wrong + 1
  if wrong <= 10 then print("wrong " .. what:format(...)) end
end

local fillers = {} -- by length: compared as a whole, because a pattern would walk over each byte

local function is_filled(data, from)
  local size = #data - from + 1
  fillers[size] = fillers[size] or ("x"):rep(size)
  return data:find(fillers[size], from, true) == from
end

-- Each who checks knows the number that comes next. Only a gap may take some away.
local function on_event(client, kind, data)
  local member = clients[client.number]
  if kind == "gap" then
    gaps, member.told = gaps + 1, true
    return
  end
  local number, time, from = data:match "^(%d+) (%d+) ()"
  number = tonumber(number)
  if not number or #data ~= 1024 or not is_filled(data, from) then
    return complain("client %d: %q", client.number, data:sub(1, 60))
  end
  if number ~= member.seen + 1 then
    if number > member.seen and member.told then
      holes = holes + 1
    else
      complain("client %d: %d behind %d", client.number, number, member.seen)
    end
  end
  member.told, member.seen = false, number
  if not member.stops then latencies[#latencies + 1] = (uv.hrtime() - tonumber(time)) / 1e6 end
end

local function on_end(client)
  local member = clients[client.number]
  if not member.stops then
    return complain("client %d was disconnected: %s", client.number, tostring(client.failure))
  end
  -- one that is caught up to half of the history only, and is held up there, is slow a second time
  if member.cut then again = again + 1 else cut = cut + 1 end
  member.cut = true
  member.client = crowd.client({ port = PORT, target = TARGET, number = client.number, checks = true, in_turns = true,
    last_event_id = client.wire.last_event_id, on_event = on_event, on_end = on_end }, function() end)
end

local function after(seconds, callback)
  local timer = uv.new_timer()
  timer:start(math.floor(seconds * 1000), 0, function()
    timer:close()
    callback()
  end)
end

local function report(body)
  for line in body:gmatch "[^\n]+" do print("server " .. line) end
  table.sort(latencies)
  for _, each in ipairs { 0.5, 0.9, 0.99, 0.999, 1 } do
    print(("latency %g %.3f"):format(each, crowd.percentile(latencies, each) or 0))
  end
  print(("counts cut=%d again=%d gaps=%d holes=%d wrong=%d"):format(cut, again, gaps, holes, wrong))
  io.stdout:flush()
  os.exit(0)
end

-- Who has not all, and one of them.
local function missing()
  local reference, number, example = nil, 0, nil
  for _, member in ipairs(clients) do
    if not member.stops and member.client.wire and member.seen == total then reference = member.client.bytes end
  end
  for i, member in ipairs(clients) do
    local has = member.client.wire and member.seen == total or not member.client.wire and
      member.client.bytes == reference
    if not has and (not member.stops or BACK_AT > 0) then
      number = number + 1
      example = ("client %d has %d events, %d of %s bytes"):format(i, member.seen, member.client.bytes,
        tostring(reference))
    end
  end
  return number, example
end

local function finish()
  local timer, tries = uv.new_timer(), 0
  timer:start(0, 20, function()
    tries = tries + 1
    local number, example = missing()
    if number > 0 and tries < PATIENCE * 50 then return end
    timer:close()
    if number > 0 then complain("%d have not all: %s", number, example) end
    ask(PORT, "/stats", report)
  end)
end

local function stop_some()
  for _, member in ipairs(clients) do
    if member.stops then member.client:pause() end
  end
end

local function come_back()
  local at = 0
  for _, member in ipairs(clients) do
    if member.stops then
      at = at + 1
      after(BACK_FOR * at / STOPPED, function() member.client:resume() end)
    end
  end
end

local function begin()
  ask(PORT, ("/start?channel=%s&rate=%g&count=%d"):format(CHANNEL, RATE, total), function()
    after(STOP_AT, stop_some)
    if BACK_AT > 0 then after(BACK_AT, come_back) end
    after(SECONDS, finish)
  end)
end

io.stdout:setvbuf "line"
-- The clients that stop stand among the others.
local every = STOPPED > 0 and COUNT / STOPPED or 0
local stopping = 0
for number = 1, COUNT do
  -- those that check, and whose latency counts, are the same with and without slow ones
  local checks = number % crowd.SHARE == 1
  local stops = not checks and STOPPED > 0 and stopping < STOPPED and number >= stopping * every
  if stops then stopping = stopping + 1 end
  clients[number] = { seen = 0, stops = stops }
  clients[number].client = crowd.client({ port = PORT, target = TARGET, number = number, checks = checks or stops,
    receive_bytes = stops and RECEIVE_BYTES or nil, on_event = on_event, on_end = on_end }, function()
    waiting = waiting - 1
    if waiting == 0 then begin() end
  end)
end
uv.run()
