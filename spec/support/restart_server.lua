-- The server of restart_spec: on a socket that was passed on. SIGHUP lets it start its successor, pass the socket on to
-- it, and go.
local eventstream = require "eventstream"
local uv = require "luv"

uv.os_unsetenv "LD_PRELOAD" -- a sanitizer is for Lua, not for what starts it

local app = eventstream.new { limits = { connections = 8000 }, channels = { news = { history = 1000 } } }

app:stream("/", function(stream) stream:subscribe "news" end)

app:post("/", function(request)
  app:channel("news"):publish(request.body)
  return 204
end)

local listener = assert(app:listen(os.getenv "LISTEN_FDS" and { activated = true } or { fd = 3 }))
print(("serving %d"):format(uv.os_getpid()))
io.stdout:flush()

local signal = uv.new_signal()
signal:start("sighup", function()
  local options = { args = { arg[0] }, stdio = { nil, 1, 2, listener:share() } }
  uv.spawn(os.getenv "LUA", options, function() end):unref()
  app:close()
end)
signal:unref()

app:after(120, function() os.exit(1) end) -- whatever becomes of who started it
eventstream.run()
