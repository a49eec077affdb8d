-- One of several processes that publish to one channel through Redis, as fast as Redis takes it.
--
--   lua5.4 bench/backplane.lua PORT SOCKET PREFIX FLUSH WINDOW
--
-- GET /events subscribes; GET /start publishes on and on, where at most WINDOW events are not acknowledged yet;
-- GET /stop ends that. GET /counts tells what this process has had acknowledged, what Redis did not take, what is still
-- under way, and what has come into its own log; and at what time.
local eventstream = require "eventstream"
local uv = require "luv"

local port, socket, prefix, flush, window = tonumber(arg[1]), arg[2], arg[3], tonumber(arg[4]), tonumber(arg[5])
if not window then
  io.stderr:write("usage: backplane.lua PORT SOCKET PREFIX FLUSH WINDOW\n")
  os.exit(2)
end

local app = eventstream.new {
  channels = { bench = { history = 20000, history_bytes = 16 * 1024 * 1024, flush = flush } },
  backplane = require("eventstream.redis").new { path = socket, prefix = prefix },
}
local channel = app:channel "bench"

local data = ("x"):rep(100)
local running = false
local acknowledged, refused, under_way = 0, 0, 0

local publish

local function told(id)
  under_way = under_way - 1
  if id then acknowledged = acknowledged + 1 else refused = refused + 1 end
  publish()
end

function publish()
  while running and under_way < window do
    under_way = under_way + 1
    channel:publish({ data = data }, told)
  end
end

app:stream("/events", function(stream)
  stream:subscribe "bench"
end)

app:get("/start", function()
  running = true
  publish()
  return "ok\n"
end)

app:get("/stop", function()
  running = false
  return "ok\n"
end)

app:get("/counts", function()
  return ("%.0f %.0f %.0f %.0f %.0f\n"):format(acknowledged, refused, under_way, channel.published, uv.hrtime())
end)

return app:serve { port = port }
