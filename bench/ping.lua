-- The reference job by the public contract: an interval in Lua for each client.
--
--   lua5.4 bench/ping.lua PORT            inside nginx: by that name in the environment
local eventstream = require "eventstream"

local port = tonumber(arg and arg[1] or os.getenv "PORT")
if not port then
  io.stderr:write("usage: ping.lua PORT\n")
  os.exit(2)
end

local app = eventstream.new { limits = { connections = 16000 } }

app:stream("/ping", function(stream)
  stream:every(0.5, function()
    local now = os.time()
    stream:send { id = now, event = "ping", data = now }
  end)
end)

app:stream("/idle", function(stream)
  stream:hold()
end)

local stat = io.open("/proc/self/stat")
io.write(port, " ", stat and stat:read("*n") or "", "\n")
if stat then stat:close() end
io.stdout:flush()

return app:serve { port = port }
