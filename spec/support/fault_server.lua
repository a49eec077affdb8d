-- For faults_spec: a server whose memory, sockets and polls fail. On the core's own loop: luv's is not made for that.
package.preload.luv = function() error("left out", 0) end
io.stdout:setvbuf "line"
local eventstream = require "eventstream"

local app = eventstream.new {
  heartbeat = 0.05, limits = { backlog_bytes = 4096, callback_seconds = false },
  channels = { ["*"] = { history = 5, history_seconds = 0.05 } },
  on_error = function() end,
}
local here = 0

app:get("/ping", function() return "pong" end)

-- What is there when nothing runs.
app:get("/rest", function()
  for _ = 1, 3 do collectgarbage() end
  local functions, threads = 0, 0
  for _, value in pairs(debug.getregistry()) do
    functions = functions + (type(value) == "function" and 1 or 0)
    threads = threads + (type(value) == "thread" and 1 or 0)
  end
  local stats = app:stats()
  return ("functions=%d threads=%d connections=%d streams=%d subscribers=%d channels=%d backlog=%d here=%d"):format(
    functions, threads, stats.connections, stats.streams, stats.subscribers, stats.channels, stats.backlog, here)
end)

app:before(function(request) request.user = request.query.user end)

app:stream("/news", function(stream)
  local counted = false
  stream:on_close(function() if counted then here = here - 1 end end)
  here, counted = here + 1, true
  stream:subscribe({ "news", "more" }, { newcomer = 3, member = "ann" })
end)

app:on_subscribe(function(channel) channel:publish { id = false, data = "joined" } end)
app:on_unsubscribe(function(channel) return #channel:members() end)

app:post("/publish", function(request)
  for i = 1, 3 do
    if not app:channel("news"):publish { event = "tick", data = request.body .. i } then return 500 end
  end
  if not app:channel("more"):publish(request.body) then return 500 end
  return "published"
end)

app:stream("/own", function(stream, request)
  stream:header("X-User", request.user or "none")
  stream.data = { name = request.cookies.name }
  for i = 1, 3 do stream:send { id = i, data = ("x"):rep(100) } end
  stream:comment "that was all"
  stream:sleep(0.001)
  stream:send "last"
end)

app:stream("/large", function(stream)
  stream:every(0.001, function() while stream:send(("x"):rep(1000)) do end end)
end)

app:stream("/waits", function(stream)
  local value = eventstream.await(function(resume) app:after(0.001, function() resume "came" end) end)
  stream:send(value)
end)

app:stream("/fails", function(stream)
  stream:send "a"
  error "on purpose"
end)

local listener = assert(app:listen { port = 0 })
print("port " .. listener.port)
eventstream.run()
