--- One of the server processes of redis_chaos_spec: redis_chaos_server.lua PORT REDIS_PORT INCARNATION CHANNELS. Or a
-- worker of nginx, which has the socket of Redis in its folder, and its process id for an incarnation.
--
-- GET /?to=c1,c2 streams channels. It publishes to all of them in turn, from its start to GET /stop; that answers, when
-- Redis has answered all of it, with each channel's last number. An event's data is "INCARNATION CHANNEL N", with an N
-- that counts what this incarnation published to this channel. What Redis has answered is printed as
-- "told INCARNATION CHANNEL N ID", and what becomes of the connection to Redis as "state INCARNATION STATE WHY".
local eventstream = require "eventstream"
local redis = require "eventstream.redis"

local ngx = rawget(_G, "ngx")
local PORT, REDIS_PORT, INCARNATION, CHANNELS = 0, nil, "n", 10
if not ngx then
  PORT, REDIS_PORT, INCARNATION, CHANNELS = tonumber(arg[1]), tonumber(arg[2]), arg[3], tonumber(arg[4])
end
local TICK = 0.05 -- seconds

local function incarnation() return ngx and INCARNATION .. ngx.worker.pid() or INCARNATION end

local function say(message, ...)
  io.stdout:write(message:format(...), "\n")
  io.stdout:flush() -- what was printed outlives kill -9
end

local app = eventstream.new {
  backplane = redis.new {
    port = REDIS_PORT, path = ngx and ngx.config.prefix() .. "redis" or nil,
    on_state = function(state, why) -- that it is away is no error
      say("state %s %s %s", incarnation(), state, why or "")
    end,
  },
  channels = { ["c*"] = { history = 20000, history_bytes = 64 * 1024 * 1024, history_seconds = false } },
  heartbeat = 0.5, retry = false,
}

local function complain(message, ...)
  io.stderr:write(incarnation(), ": ", message:format(...), "\n")
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
  for name, n in pairs(published) do lines[#lines + 1] = ("%s %s %d\n"):format(incarnation(), name, n) end
  stopped(table.concat(lines))
end

local publisher = app:every(TICK, function()
  turn = turn % CHANNELS + 1
  local name = "c" .. turn
  local n = published[name] + 1
  local event = { data = ("%s %s %d"):format(incarnation(), name, n) }
  local taken, why = app:channel(name):publish(event, function(id, message)
    told = told + 1
    if not id then
      complain("event %d of %s: %s", n, name, message)
    else
      say("told %s %s %d %s", incarnation(), name, n, id)
    end
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

if ngx then return app:serve { port = PORT } end

local listener, message = app:listen { port = PORT }
if not listener then
  complain("%s", message)
  os.exit(1)
end
say "listening"
eventstream.run()
