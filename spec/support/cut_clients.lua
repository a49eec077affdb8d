--- The clients of cut_spec, a process of their own: cut_clients.lua PORT SEED SECONDS COUNT ROOM...
--
-- COUNT clients in each room are cut at random moments and come back with their last id. Each checks every event that
-- it gets. What is wrong is printed as "failure ...", and at the end for each room "ROOM key=number ...".
local ask = require "spec.support.ask"
local random = require "spec.support.random"
local uv = require "luv"
local wire = require "spec.support.wire"

local PORT, SEED, SECONDS, COUNT = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4])
local AFTER_CUTS = 1 -- seconds for which is published when nobody is cut any more
local PATIENCE = 30 -- seconds until everyone must have everything then
local FAILURES = 10 -- that are told
local draw = random.new(SEED)

local rooms, clients, cutting, failures = {}, {}, true, 0
for i = 5, #arg do
  local room = { name = arg[i], cuts = 0, events = 0, gaps = 0, needed = 0, resets = 0, halves = 0 }
  room.channels = arg[i]:find "^five" and 5 or 1
  room.keeps = arg[i]:find "kept$" ~= nil
  rooms[#rooms + 1] = room
end

local function fail(client, message, ...)
  failures = failures + 1
  if failures <= FAILURES then
    print(("failure %s client %d, connection %d: %s"):format(client.room.name, client.number, client.connections,
      message:format(...)))
  end
end

-- What makes a hole is a frame that its reader was not told of: each is seen at the next event of its channel.
local function check(client, kind, data)
  local room = client.room
  if kind == "gap" then
    local channel = tonumber(data:match "^[^:]+:(%d)$")
    room.gaps = room.gaps + 1
    if data ~= ("%s:%d"):format(room.name, channel or 0) then fail(client, "a gap of %q", data) end
    if room.keeps then fail(client, "a gap where all is kept, of %s", data) end
    client.told[channel or 0] = true
    return
  end
  local number, channel, serial, size, filler = data:match "^(%d+) (%d) (%d+) (%d+) (.*)$"
  if not number then return fail(client, "an event of nobody's: %q", data:sub(1, 100)) end
  number, channel, serial = tonumber(number), tonumber(channel), tonumber(serial)
  room.events = room.events + 1
  if #filler ~= tonumber(size) then fail(client, "%d bytes instead of %s", #filler, size) end
  local seen = client.seen[channel] or 0
  if serial <= seen then
    fail(client, "event %d of channel %d behind %d", serial, channel, seen)
  elseif serial > seen + 1 then
    if client.told[channel] then
      room.needed = room.needed + 1
    else
      fail(client, "events %d to %d of channel %d lost in silence", seen + 1, serial - 1, channel)
    end
  end
  if number <= client.number_seen then
    fail(client, "number %d of the room behind %d", number, client.number_seen)
  end
  client.told[channel], client.seen[channel], client.number_seen = false, serial, number
end

local connect

-- Gone; comes back after a while.
local function leave(client, how)
  if not client.handle then return end
  client.timer:stop()
  if how == "reset" then client.handle:close_reset() else client.handle:close() end
  client.handle = nil
  local away = 0
  if cutting and draw(2) == 1 then away = draw(1000) end
  client.timer:start(away, 0, function() connect(client) end)
end

local CUTS = {
  function(client) leave(client) end,
  function(client)
    client.room.resets = client.room.resets + 1
    leave(client, "reset")
  end,
  function(client) client.handle:shutdown() end, -- and reads on, to the end that the server makes
  function(client) client.halve = true end,
}

local function cut(client)
  if not cutting then return end
  client.room.cuts = client.room.cuts + 1
  CUTS[draw(#CUTS)](client)
end

-- Some read nothing for a while before, so that bytes pile up on the way.
local function plan(client)
  if not cutting then return end
  local life = draw(5) == 1 and draw(30) or draw(4000)
  client.timer:start(life, 0, function()
    if not cutting then return end
    if draw(3) > 1 then return cut(client) end
    client.handle:read_stop()
    client.timer:start(draw(300), 0, function()
      if draw(2) == 1 then client.handle:read_start(client.on_read) end
      cut(client)
      -- where the cut waits for bytes or for the server's end, they must be read
      if client.handle then client.handle:read_start(client.on_read) end
    end)
  end)
end

local function take(client, bytes)
  local last = client.wire.last_event_id
  local ok, failure = pcall(client.wire.feed, client.wire, bytes)
  if not ok then fail(client, "%s", failure) end
  client.last_event_id = client.wire.last_event_id
  return client.last_event_id ~= last
end

local waiting = 0 -- clients that have no id yet

local begin

local function on_read(client, handle, failure, bytes)
  if handle ~= client.handle then return end
  if failure or not bytes then -- the server's end, or its reset
    if client.wire.rest ~= "" and not client.wire.headed then fail(client, "half a head: %q", client.wire.rest) end
    return leave(client)
  end
  if client.halve then -- the rest was lost on the way
    client.halve = false
    local kept = draw(#bytes) - 1
    client.room.halves = client.room.halves + 1
    take(client, bytes:sub(1, kept))
    return leave(client, draw(2) == 1 and "reset" or nil)
  end
  take(client, bytes)
  if not client.counted and client.last_event_id then
    client.counted = true
    waiting = waiting - 1
    if waiting == 0 then begin() end
  end
end

function connect(client)
  local handle, target, id = uv.new_tcp(), "/" .. client.room.name, client.last_event_id
  client.handle, client.halve = handle, false
  client.connections = client.connections + 1
  client.wire = wire.new(client.on_event, id)
  client.on_read = function(failure, bytes) on_read(client, handle, failure, bytes) end
  if client.room.channels > 1 and draw(2) == 1 then target = target .. "?one_by_one=1" end
  local header = id and ("Last-Event-ID: %s\r\n"):format(id) or ""
  if id and draw(10) == 1 then -- as a client does that cannot set headers
    target, header = ("%s%slast_event_id=%s"):format(target, target:find("?", 1, true) and "&" or "?", id), ""
  end
  handle:nodelay(true)
  handle:connect("127.0.0.1", PORT, function(failure)
    if handle ~= client.handle then return end -- it was cut before
    if failure then return leave(client) end
    handle:write(("GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"):format(target, header))
    handle:read_start(client.on_read)
  end)
  if client.counted then plan(client) end
end

local function missing(finals)
  local without, example = 0, nil
  for _, client in ipairs(clients) do
    for channel, serial in pairs(finals[client.room.name]) do
      if (client.seen[channel] or 0) < serial then
        without = without + 1
        example = ("%s client %d has %d of %d of channel %d"):format(client.room.name, client.number,
          client.seen[channel] or 0, serial, channel)
        break
      end
    end
  end
  return without, example
end

local function report()
  for _, room in ipairs(rooms) do
    print(("%s cuts=%d events=%d gaps=%d needed=%d resets=%d halves=%d"):format(room.name, room.cuts, room.events,
      room.gaps, room.needed, room.resets, room.halves))
  end
  ask(PORT, "/stats", function(body)
    print(("server %s"):format(body:gsub("\n", "")))
    print("failures " .. failures)
    io.stdout:flush()
    os.exit(0)
  end)
end

-- The last numbers of all channels, by room.
local finish
function finish(body)
  if body:find "^another" then return ask(PORT, "/stop", finish) end
  local finals, tries, timer = {}, 0, uv.new_timer()
  for name, channel, serial in body:gmatch "(%S+) (%d+) (%d+)" do
    finals[name] = finals[name] or {}
    finals[name][tonumber(channel)] = tonumber(serial)
  end
  timer:start(0, 50, function()
    local without, example = missing(finals)
    tries = tries + 1
    if without > 0 and tries < PATIENCE * 20 then return end
    timer:close()
    if without > 0 then fail(clients[1], "%d clients have not everything in the end: %s", without, example) end
    report()
  end)
end

function begin()
  ask(PORT, "/start?seed=" .. SEED, function()
    for _, client in ipairs(clients) do plan(client) end
  end)
  local timer = uv.new_timer()
  timer:start(SECONDS * 1000, 0, function()
    cutting = false
    for _, client in ipairs(clients) do -- who reads no more, goes on
      if client.handle and not client.handle:is_closing() and client.on_read then
        client.timer:stop()
        client.halve = false
        leave(client)
      end
    end
    timer:start(AFTER_CUTS * 1000, 0, function()
      timer:close()
      ask(PORT, "/stop", finish)
    end)
  end)
end

io.stdout:setvbuf "line"
for _, room in ipairs(rooms) do
  for number = 1, COUNT do
    local client = { room = room, number = number, connections = 0, seen = {}, told = {}, number_seen = 0 }
    client.timer = uv.new_timer()
    client.on_event = function(kind, data) check(client, kind, data) end
    clients[#clients + 1] = client
    waiting = waiting + 1
  end
end
for _, client in ipairs(clients) do connect(client) end
uv.run()
