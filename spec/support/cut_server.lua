--- The server of cut_spec; inside nginx, of openresty_spec. GET /ROOM streams all channels of a room; GET
-- /start?seed=N starts the publisher of every room, GET /stop ends it and tells each channel's last number.
--
-- An event's data is "NUMBER CHANNEL SERIAL SIZE FILLER": its number in the room, its channel's, its number in that
-- channel, and how long FILLER is.
local eventstream = require "eventstream"
local random = require "spec.support.random"

local TICK = 0.01 -- seconds
local LARGE = { history = 100000, history_bytes = 512 * 1024 * 1024 }
-- Small ones must lose what clients miss in a part of a second; the large event in the middle makes readers slow.
local ROOMS = {
  ["one-kept"] = { channels = 1, options = LARGE },
  ["five-kept"] = { channels = 5, options = LARGE },
  ["one-lost"] = { channels = 1, options = { history = 30 } },
  ["five-lost"] = { channels = 5, options = { history = 8, flush = 0.02 } },
}

local app = eventstream.new { heartbeat = 0.5 }

for name, room in pairs(ROOMS) do
  room.number, room.serials, room.open = 0, {}, {}
  for i = 1, room.channels do
    room.serials[i], room.open[i] = 0, app:channel(("%s:%d"):format(name, i), room.options)
  end
end

app:stream("/:room", function(stream, request)
  local room = ROOMS[request.params.room]
  if #room.open == 1 then return stream:subscribe(room.open[1]) end
  if request.query.one_by_one then
    for _, channel in ipairs(room.open) do stream:subscribe(channel) end
  else
    stream:subscribe(room.open)
  end
end)

local filler = ("0123456789abcdef"):rep(4096)

local function publish(room, draw)
  local chosen = draw(room.channels)
  local size = draw(100) == 1 and 20000 + draw(40000) or draw(300)
  room.number, room.serials[chosen] = room.number + 1, room.serials[chosen] + 1
  assert(room.open[chosen]:publish(("%d %d %d %d %s"):format(room.number, chosen, room.serials[chosen], size,
    filler:sub(1, size))))
end

local publisher

app:get("/start", function(request)
  local draw = random.new(tonumber(request.query.seed))
  publisher = app:every(TICK, function()
    for _, name in ipairs { "one-kept", "five-kept", "one-lost", "five-lost" } do
      for _ = 1, draw(3) - 1 do publish(ROOMS[name], draw) end
    end
  end)
  return "started\n"
end)

app:get("/stop", function()
  if not publisher then return "another worker's\n" end
  publisher:stop()
  local lines = {}
  for name, room in pairs(ROOMS) do
    for i, serial in ipairs(room.serials) do lines[#lines + 1] = ("%s %d %d\n"):format(name, i, serial) end
  end
  return table.concat(lines)
end)

app:get("/stats", function()
  local stats = app:stats()
  return ("slow %d resumes %d gaps %d\n"):format(stats.slow, stats.resumes, stats.gaps)
end)

if rawget(_G, "ngx") then return app end

local listener = assert(app:listen { port = 0 })
print("port " .. listener.port)
io.stdout:flush()
eventstream.run()
