--- The server of fair_spec: fair_server.lua FLUSH
--
-- GET /events subscribes to the one channel. GET /start?rate= publishes to it until GET /stop, which publishes a last
-- event "end"; GET /watch watches the loop from now on, and GET /seen tells what was seen of it.
local eventstream = require "eventstream"
local uv = require "luv"

local TICK = 0.001 -- seconds: when published is what is due
local INTERVAL = 0.1 -- the one whose ticks are timed
local WORK_NS = 500000 -- of other work in a turn

local flush = tonumber(arg[1]) or arg[1]
local app = eventstream.new { heartbeat = false, limits = { callback_seconds = false } } -- it is the one who watches
local channel = app:channel("crowd", { history = 100000, history_bytes = 32 * 1024 * 1024, flush = flush })

app:stream("/events", function(stream) stream:subscribe(channel) end)
app:stream("/quiet", function(stream) stream:hold() end)

local publishing, published, start = nil, 0, nil

app:get("/start", function(request)
  local rate = tonumber(request.query.rate)
  start, published = uv.hrtime(), 0
  publishing = app:every(TICK, function()
    local due = math.floor((uv.hrtime() - start) / 1e9 * rate)
    while published < due do
      published = published + 1
      channel:publish { data = published .. " of a thousand readers' events" }
    end
  end)
  return "started\n"
end)

app:get("/stop", function()
  publishing:stop()
  local rate = published / (uv.hrtime() - start) * 1e9
  channel:publish { event = "end", data = "" }
  return ("%.0f\n"):format(rate)
end)

-- Ticks against their times: ten intervals, whose phases differ.
local late, watched = {}, {}

app:get("/watch", function()
  for phase = 1, 10 do
    app:after(INTERVAL * phase / 10, function()
      local first, ticks = uv.hrtime(), 0
      watched[#watched + 1] = app:every(INTERVAL, function()
        ticks = ticks + 1
        local behind = (uv.hrtime() - first) / 1e9 - ticks * INTERVAL
        if behind >= INTERVAL then -- it skips what it missed
          local missed = math.floor(behind / INTERVAL)
          for i = 1, missed do late[#late + 1] = behind - (missed - i) * INTERVAL end
          ticks, behind = ticks + missed, behind - missed * INTERVAL
        end
        late[#late + 1] = behind
      end)
    end)
  end
  return "watching\n"
end)

app:get("/seen", function()
  for _, interval in ipairs(watched) do interval:stop() end
  table.sort(late)
  local middle, tail = late[math.ceil(#late / 2)], late[math.ceil(#late * 0.99)]
  return ("%d ticks %.1f %.1f %.1f\n"):format(#late, middle * 1000, tail * 1000, late[#late] * 1000)
end)

-- A script that always has something to do, a little in each turn: how much of the time does it get?
app:get("/work", function(request)
  local begun, worked, till = uv.hrtime(), 0, tonumber(request.query.seconds) * 1e9
  local idle = uv.new_idle()
  eventstream.await(function(resume)
    idle:start(function()
      local now = uv.hrtime()
      local over = now + WORK_NS
      while uv.hrtime() < over do end -- luacheck: ignore
      worked = worked + uv.hrtime() - now
      if now - begun >= till then
        idle:close()
        resume()
      end
    end)
  end)
  return ("%.3f\n"):format(worked / (uv.hrtime() - begun))
end)

local listener = assert(app:listen { port = 0 })
print("port " .. listener.port)
io.stdout:flush()
eventstream.run()
