--- The time, twice a second, for everyone who listens.
-- Run it:  lua examples/ping.lua         (another port: PORT=9000 lua examples/ping.lua)
-- See it:  open http://127.0.0.1:8080/   or: curl -N http://127.0.0.1:8080/sse
-- End it:  Ctrl-C

local eventstream = require "eventstream"

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "ping.html", "rb"))
local page = file:read "*a"
file:close()

local function log(...)
  print(os.date "%H:%M:%S " .. string.format(...))
end

local app = eventstream.new { retry = 1000 } -- milliseconds that a browser waits before it comes back

app:get("/", function()
  return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" }
end)

app:stream("/sse", function(stream, request)
  local came = os.time()
  log("%s came%s", request.remote, stream.last_event_id and ", last id " .. stream.last_event_id or "")
  stream:on_close(function(reason)
    log("%s left after %d s (%s)", request.remote, os.difftime(os.time(), came), reason)
  end)

  stream:header("Access-Control-Allow-Origin", "*") -- pages of any origin may listen
  stream:send(stream.last_event_id and "welcome back" or "welcome") -- no event name: reaches onmessage

  stream:every(0.5, function()
    local now = os.time()
    stream:send { id = now, event = "ping", data = now }
  end)
  stream:every(10, function()
    stream:send(("you have been listening for %d s"):format(os.difftime(os.time(), came)))
  end)
end)

io.stdout:setvbuf "line"
return app:serve { port = tonumber(os.getenv "PORT" or 8080) }
