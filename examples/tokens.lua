--- A prompt by POST, answered token by token, the way a language model's server does. Needs lua-cjson.
-- Run it:  lua examples/tokens.lua       (another port: PORT=9000 lua examples/tokens.lua)
-- See it:  open http://127.0.0.1:8080/   or: curl -N -d '{"prompt": "hello"}' http://127.0.0.1:8080/tokens
-- End it:  Ctrl-C

local eventstream = require "eventstream"

local has_json, json = pcall(require, "cjson.safe")
if not has_json then
  error("tokens.lua needs lua-cjson: luarocks install lua-cjson (Debian: apt install lua-cjson)", 0)
end

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "tokens.html", "rb"))
local page = file:read "*a"
file:close()

local ANSWER = [[You wrote "%s". No model sits behind this answer: a coroutine hands out its words one by one and sleeps
for a moment after each, so a thousand readers cost a thousand small coroutines and no thread. Close the page before
the end, and the coroutine ends where it sleeps.]]

local app = eventstream.new()

app:get("/", function()
  return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" }
end)

app:stream("/tokens", { methods = { "POST" } }, function(stream, request)
  local body = json.decode(request.body)
  if type(body) ~= "table" or type(body.prompt) ~= "string" then
    return stream:reject(400, 'the body must be JSON like {"prompt": "hello"}\n', { ["Content-Type"] = "text/plain" })
  end

  local count = 0
  stream:on_close(function(reason)
    print(("%d tokens sent (%s)"):format(count, reason))
  end)

  for token in ANSWER:format(body.prompt):gmatch "%S+%s*" do
    stream:send { data = { token = token } }
    count = count + 1
    stream:sleep(0.02 + 0.08 * math.random())
  end
  stream:send { event = "done", data = { tokens = count } }
end)

io.stdout:setvbuf "line"
local listener = assert(app:listen { port = tonumber(os.getenv "PORT" or 8080) })
print(("listening on http://%s:%d/"):format(listener.host, listener.port))
eventstream.run()
