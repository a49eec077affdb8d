--- Rooms to talk in: newcomers get the last 50 messages, and everyone sees who is there.
-- Run it:  lua examples/chat.lua         (another port: PORT=9000 lua examples/chat.lua)
-- See it:  open http://127.0.0.1:8080/ twice, or: curl -N 'http://127.0.0.1:8080/rooms/lobby?name=Ada'
-- Say it:  curl -d 'Hello!' 'http://127.0.0.1:8080/rooms/lobby?name=Ada'
-- End it:  Ctrl-C

local eventstream = require "eventstream"

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "chat.html", "rb"))
local page = file:read "*a"
file:close()

local redis = os.getenv "REDIS" -- a socket's path: then several processes are one chat (examples/cluster)

local app = eventstream.new {
  backplane = redis and require("eventstream.redis").new { path = redis, prefix = "chat" } or nil,
  retry = 1000, -- milliseconds that a browser waits before it comes back
  limits = { body_bytes = 4000 },
  channels = { ["room:*"] = { history = 50, history_seconds = 3600 } },
}

local function name_of(request)
  return (request.query.name or ""):gsub("%c", " "):match "^%s*(.-)%s*$":sub(1, 100) -- one line, whatever is sent
end

-- Tells a room who is there, when that changes: one name a line, sorted. Each process of the app tells its own streams.
app:on_members(function(channel)
  local event = { event = "here", data = table.concat(channel:members(), "\n") }
  for _, stream in ipairs(channel:streams()) do stream:send(event) end
end)

app:get("/", function()
  return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" }
end)

app:stream("/rooms/:room", function(stream, request)
  local name = name_of(request)
  if name == "" then return stream:reject(400, "say who you are: ?name=Ada\n") end
  stream:subscribe("room:" .. request.params.room, { newcomer = 50, member = name })
end)

app:post("/rooms/:room", function(request)
  local name = name_of(request)
  if name == "" or not request.body:find "%S" then return 400, "a message has a ?name= and a body\n" end
  app:channel("room:" .. request.params.room):publish(name .. "\n" .. request.body) -- the name is the first line
end)

return app:serve { port = tonumber(os.getenv "PORT" or 8080) }
