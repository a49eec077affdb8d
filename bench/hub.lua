-- The fan-out job by the public contract: one channel, or several, and all who subscribe to them.
--
--   lua5.4 bench/hub.lua PORT [FLUSH]     FLUSH: auto, or seconds; inside nginx: by these names in the environment
--
-- GET /events[?channel=I] subscribes; GET /start?rate=R&count=N[&channels=C][&fresh=1] publishes on a fixed schedule
-- (schedule.h says what); GET /cost?count=N times the publishes of so many turns, several in each.
local eventstream = require "eventstream"
local uv = require "luv"

local FIRST = 0.2e9 -- ns after the request, which is answered meanwhile
local PAUSE = 0.02 -- seconds between two turns with publishes that are timed
local SHARE = 20 -- publishes in such a turn: the first finds the caches full of the last pass

local arguments = arg or { os.getenv "PORT", os.getenv "FLUSH" } -- inside nginx there are no others
local port, flush = tonumber(arguments[1]), arguments[2] or "auto"
if not port then
  io.stderr:write("usage: hub.lua PORT [FLUSH]\n")
  os.exit(2)
end

local redis = os.getenv "REDIS" -- a socket's path: then all goes through it

local app = eventstream.new {
  limits = { connections = 20000 },
  channels = { ["bench*"] = { history = 20000, history_bytes = 16 * 1024 * 1024, flush = tonumber(flush) or flush } },
  backplane = redis and require("eventstream.redis").new { path = redis, prefix = "bench" .. port } or nil,
}
local channel = app:channel "bench"

local filler = ("x"):rep(71)

local function data_of(number, due)
  return ("%08d %019d %s"):format(number, due, filler)
end

app:stream("/events", function(stream, request)
  stream:subscribe("bench" .. (request.query.channel or ""))
end)

app:get("/start", function(request)
  local query, channels = request.query, { channel }
  for i = 1, tonumber(query.channels) or 0 do channels[i] = app:channel("bench" .. i - 1) end
  local many = #channels
  local count, step = tonumber(query.count) * many, 1e9 / tonumber(query.rate) / many
  local start, published = uv.hrtime() + FIRST, 0

  local function publish_due()
    local now = uv.hrtime()
    local due = start + published * step
    while published < count and due <= now do
      local number = math.floor(published / many) + 1
      local time = query.fresh and uv.hrtime() or due
      channels[published % many + 1]:publish { data = data_of(number, math.floor(time)) }
      published = published + 1
      due = start + published * step
    end
    if published < count then
      local milliseconds = math.ceil((due - uv.hrtime()) / 1e6)
      app:after(math.max(milliseconds, 1) / 1000, publish_due)
    end
  end
  publish_due()
  return "ok\n"
end)

app:get("/cost", function(request)
  local count = tonumber(request.query.count)
  local took, first = {}, {}
  for turn = 1, count do
    eventstream.await(function(resume) app:after(PAUSE, resume) end)
    for i = 1, SHARE do
      local data = data_of(#took + 1, math.floor(uv.hrtime()))
      local start = uv.hrtime()
      channel:publish { data = data }
      took[#took + 1] = (uv.hrtime() - start) / 1e3
      if i == 1 then first[turn] = took[#took] end
    end
  end
  table.sort(took)
  table.sort(first)
  return ('{"publish_us":%.3f,"publish_first_us":%.3f,"publish_p99_us":%.3f,"publish_max_us":%.3f}\n'):format(
    took[math.ceil(#took / 2)], first[math.ceil(count / 2)], took[math.ceil(#took * 0.99)], took[#took])
end)

io.write(port, " ", uv.os_getpid(), "\n")
io.stdout:flush()

return app:serve { port = port }
