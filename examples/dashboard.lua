--- A running server, live in a browser, through its own stream: what an operator looks at.
-- Run it:  lua examples/dashboard.lua    (another port: PORT=9000 lua examples/dashboard.lua)
-- See it:  open http://127.0.0.1:8080/   or: curl -N http://127.0.0.1:8080/dashboard
-- End it:  Ctrl-C
-- So that there is something to see, it has a few rooms, and clients of its own that come and go.

local uv = require "luv"
local eventstream = require "eventstream"

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "dashboard.html", "rb"))
local page = file:read "*a"
file:close()

local app = eventstream.new { retry = 1000, limits = { address_connections = false } }
local samples = app:channel("dashboard", { history = 120 }) -- two minutes, for those who come later
local began = uv.hrtime()

-- What the page draws: a line "name number" for each counter, and one for each of the busiest channels.
app:every(1, function()
  local lines, channels = {}, app:channels()
  for name, value in pairs(app:stats()) do lines[#lines + 1] = ("%s %.6f"):format(name, value) end
  lines[#lines + 1] = ("time %.3f"):format((uv.hrtime() - began) / 1e9)
  lines[#lines + 1] = ("cpu %.3f"):format(os.clock())
  lines[#lines + 1] = ("memory %.0f"):format(uv.resident_set_memory())
  table.sort(channels, function(a, b) return a.published > b.published end)
  for i = 1, math.min(#channels, 50) do
    local channel = channels[i]
    lines[#lines + 1] = ("channel %d %d %s"):format(channel.published, channel.subscribers, channel.name)
  end
  samples:publish { event = "sample", data = table.concat(lines, "\n") }
end)

app:get("/", function() return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" } end)
app:stream("/dashboard", function(stream) stream:subscribe(samples, { newcomer = "all" }) end)

-- --- Something to see ---

app:stream("/rooms/:room", function(stream, request) stream:subscribe("room " .. request.params.room) end)

local listener = assert(app:listen { port = tonumber(os.getenv "PORT" or 8080) })

app:every(0.05, function()
  for room = 1, 8 do
    if math.random() < 1 / room then app:channel("room " .. room):publish(("word "):rep(math.random(20))) end
  end
end)

app:every(0.2, function()
  local url = ("http://127.0.0.1:%d/rooms/%d"):format(listener.port, math.random(8))
  local client = eventstream.connect(url, { on_event = function() end })
  app:after(math.random(5, 30), function() client:close() end)
end)

io.stdout:setvbuf "line"
print("listening on http://127.0.0.1:" .. listener.port .. "/")
eventstream.run()
