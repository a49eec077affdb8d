--- One of the server processes of redis_chaos_spec: redis_chaos_server.lua PORT REDIS_PORT INCARNATION CHANNELS.
--
-- GET /?to=c1,c2 streams channels. It publishes to all of them in turn, from its start to GET /stop; that answers, when
-- Redis has answered all of it, with each channel's last number. An event's data is "INCARNATION CHANNEL N", with an N
-- that counts what this incarnation published to this channel. What Redis has answered is printed as
-- "told CHANNEL N ID", and what becomes of the connection to Redis as "state STATE WHY".
local eventstream = require "eventstream"
local redis = require "eventstream.redis"

local PORT, REDIS_PORT, INCARNATION, CHANNELS = tonumber(arg[1]), tonumber(arg[2]), arg[3], tonumber(arg[4])
local TICK = 0.05 -- seconds

local app = eventstream.new {
  backplane = redis.new {
    port = REDIS_PORT,
    on_state = function(state, why) print(("state %s %s"):format(state, why or "")) end, -- that it is away is no error
  },
  channels = { ["c*"] = { history = 20000, history_bytes = 64 * 1024 * 1024, history_seconds = false } },
  heartbeat = 0.5, retry = false,
}

local function complain(message, ...)
  io.stderr:write(INCARNATION, ": ", message:format(...), "\n")
end

app:stream("/", function(stream, request)
  local names = {}
  for name in request.query.to:gmatch "[^,]+" do names[#names + 1] = name end
  local result, why = stream:subscribe(names, { newcomer = "all" })
  if not result and why ~= "closed" then complain("subscribe: %s", why) end
end)

local published, told, turn, stopped = {}, 0, 0, nil
local sum = 0
for i = 1, CHANNELS do published["c" .. i] = 0 end

local function finish()
  if not stopped or told < sum then return end
  local lines = {}
  for name, n in pairs(published) do lines[#lines + 1] = ("%s %s %d\n"):format(INCARNATION, name, n) end
  stopped(table.concat(lines))
end

local publisher = app:every(TICK, function()
  turn = turn % CHANNELS + 1
  local name = "c" .. turn
  local n = published[name] + 1
  local event = { data = ("%s %s %d"):format(INCARNATION, name, n) }
  local taken, why = app:channel(name):publish(event, function(id, message)
    told = told + 1
    if id then print(("told %s %d %s"):format(name, n, id)) else complain("event %d of %s: %s", n, name, message) end
    finish()
  end)
  if not taken then return complain("publish: %s", why) end
  published[name], sum = n, sum + 1
end)

app:get("/stop", function()
  publisher:stop()
  return (eventstream.await(function(resume)
    stopped = resume
    finish()
  end))
end)

io.stdout:setvbuf "line" -- what was printed outlives kill -9
local listener, message = app:listen { port = PORT }
if not listener then
  complain("%s", message)
  os.exit(1)
end
print "listening"
eventstream.run()
