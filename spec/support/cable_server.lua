--- The server of dead_peer_spec: cable_server.lua ADDRESS... prints "port ADDRESS PORT PORT" for each, without and with
-- heartbeats, and "closed CASE REASON NANOSECONDS" when a stream is over, by luv's clock. GET /cut says that the cables
-- are cut; GET /left tells how many streams are open.
local eventstream = require "eventstream"
local uv = require "luv"

local HEARTBEAT = 1

io.stdout:setvbuf "line"
local mute = eventstream.new { heartbeat = false }
local app = eventstream.new { heartbeat = HEARTBEAT }
local calm = app:channel("calm", { history_seconds = 120 }) -- the kernel waits for 70 s
local busy = app:channel("busy", { history_seconds = 300 })
local full = {}

local function watch(stream)
  local name = stream.request.target:sub(2)
  stream:on_close(function(reason) print(("closed %s %s %d"):format(name, reason, uv.hrtime())) end)
end

mute:stream("/mute/:cable", function(stream)
  watch(stream)
  stream:hold()
end)

app:stream("/quiet/:cable", function(stream)
  watch(stream)
  stream:hold()
end)

app:stream("/calm/:cable", function(stream)
  watch(stream)
  stream:subscribe(calm)
end)

app:stream("/busy/:cable", function(stream)
  watch(stream)
  stream:subscribe(busy)
end)

-- Full once nobody takes any more of it.
app:stream("/full/:cable", function(stream)
  watch(stream)
  full[#full + 1] = stream
  stream:hold()
end)

-- Waits in its handler for room.
app:stream("/waits/:cable", function(stream)
  watch(stream)
  stream:comment "" -- the head goes out, and the handler is ready for the cut before the client can know of it
  eventstream.await(function(resume) full[#full + 1] = resume end)
  local sent, why = true, nil
  while sent do sent, why = stream:send(("x"):rep(4000)) end
  print(("told %s %s"):format(stream.request.target:sub(2), why))
end)

app:get("/cut", function()
  app:every(0.5, function() calm:publish "x" end)
  app:every(0.01, function() busy:publish(("x"):rep(2000)) end)
  for _, each in ipairs(full) do
    if type(each) == "function" then
      each()
    else
      local stream = each
      stream:every(0.001, function() stream:send(("x"):rep(1000)) end)
    end
  end
  return "cut\n"
end)

app:get("/left", function() return ("%d %d\n"):format(app:stats().streams, mute:stats().streams) end)

for _, address in ipairs(arg) do
  local loud, quiet = assert(app:listen { host = address, port = 0 }), assert(mute:listen { host = address, port = 0 })
  print(("port %s %d %d"):format(address, loud.port, quiet.port))
end
eventstream.run()
