--- One stream in, many out: a language model's answer, asked for once, for all who look, whenever they come.
-- Run it:  lua examples/relay.lua [URL]      (another port: PORT=9000 lua examples/relay.lua)
--          Without the URL of an API that streams its answers, a parrot of its own is asked. API_KEY is sent with it.
-- See it:  open http://127.0.0.1:8080/   or: curl -N http://127.0.0.1:8080/answers/1   (the first is asked by itself)
-- More:    curl -d 'why?' http://127.0.0.1:8080/questions   asks another, and prints its number
-- End it:  Ctrl-C

local eventstream = require "eventstream"

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "relay.html", "rb"))
local page = file:read "*a"
file:close()

local app = eventstream.new { channels = { ["answer:*"] = { history = 10000, history_seconds = 600 } } }
local listener = assert(app:listen { port = tonumber(os.getenv "PORT" or 8080) })
local api = arg[1] or ("http://127.0.0.1:%d/parrot"):format(listener.port)
local key = os.getenv "API_KEY"
local questions, count = app:channel("questions", { history = 100 }), 0

local function ask(prompt)
  count = count + 1
  local number, answer = count, app:channel("answer:" .. count)
  questions:publish { event = "question", data = number .. " " .. prompt:gsub("%s+", " ") }
  local function finish(source, why)
    answer:publish { event = "end", data = why }
    source:close() -- else it would come back, and ask the same again
  end
  eventstream.connect(api, {
    body = prompt,
    headers = { ["Content-Type"] = "text/plain", Authorization = key and "Bearer " .. key },
    on_event = function(event, source)
      if event.data == "[DONE]" then return finish(source, "") end
      answer:publish { event = "token", data = event.data }
    end,
    on_error = function(message, _, source) finish(source, message) end,
  })
  return number .. "\n"
end

app:get("/", function() return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" } end)
app:post("/questions", function(request) return 201, ask(request.body) end)
app:stream("/questions", function(stream) stream:subscribe(questions, { newcomer = "all" }) end)
app:stream("/answers/:number", function(stream, request)
  stream:subscribe("answer:" .. request.params.number, { newcomer = "all" })
end)

app:stream("/parrot", { methods = { "POST" } }, function(stream, request) -- what stands for a model
  for word in ("You ask: " .. request.body .. " I wonder, too."):gmatch "%S+%s*" do
    stream:send(word)
    stream:sleep(0.1)
  end
  stream:send "[DONE]"
end)

ask "What does a parrot say?"
io.stdout:setvbuf "line"
print("listening on http://127.0.0.1:" .. listener.port .. "/")
eventstream.run()
