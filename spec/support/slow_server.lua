--- The server of slow_crowd_spec.
--
-- GET /channel?name=&history=&history_bytes=&slow= makes a channel, GET /events?channel=NAME subscribes to it, GET
-- /start?channel=&rate=&count= publishes so many events of 1 KB to it, each with its number and the time of its
-- publish, GET /stats tells what became of the subscribers and what the process holds.
local eventstream = require "eventstream"
local uv = require "luv"

local SIZE = 1024 -- of an event's data
local TICK = 0.001 -- seconds: when published is what is due

local app = eventstream.new { heartbeat = false }
local reasons, channels = {}, {}

-- Bytes of this process that are in memory.
local function resident()
  local file = assert(io.open "/proc/self/status")
  local kilobytes = file:read "*a":match "\nVmRSS:%s+(%d+) kB"
  file:close()
  return tonumber(kilobytes) * 1024
end

local peak, before = 0, 0

app:every(0.05, function() peak = math.max(peak, resident()) end)

app:get("/channel", function(request)
  local query = request.query
  channels[query.name] = app:channel(query.name, {
    history = tonumber(query.history), history_bytes = tonumber(query.history_bytes), slow = query.slow or "disconnect",
  })
  return "made\n"
end)

app:stream("/events", function(stream, request)
  local name = request.query.channel
  stream:on_close(function(reason)
    local key = name .. " " .. reason
    reasons[key] = (reasons[key] or 0) + 1
  end)
  stream:subscribe(channels[name])
end)

app:get("/start", function(request)
  local channel = channels[request.query.channel]
  local rate, count = tonumber(request.query.rate), tonumber(request.query.count)
  local start, published, interval = uv.hrtime(), 0, nil
  collectgarbage()
  before = resident()
  peak = before
  local filler = ("x"):rep(SIZE)
  interval = app:every(TICK, function()
    local due = math.min(count, math.floor((uv.hrtime() - start) / 1e9 * rate))
    while published < due do
      published = published + 1
      channel:publish { data = ("%d %d %s"):format(published, uv.hrtime(), filler):sub(1, SIZE) }
    end
    if published == count then interval:stop() end
  end)
  return "started\n"
end)

app:get("/stats", function()
  local lines = {}
  for key, number in pairs(reasons) do lines[#lines + 1] = ("%s %d\n"):format(key, number) end
  lines[#lines + 1] = ("memory %d %d\n"):format(before, peak)
  for key, number in pairs(app:stats()) do lines[#lines + 1] = ("stats %s %.0f\n"):format(key, number) end
  return table.concat(lines)
end)

local listener = assert(app:listen { port = 0 })
print("port " .. listener.port)
io.stdout:flush()
eventstream.run()
