--- The app of blackbox_spec: one file, the same in every house. Each route serves a test or two; what a stream has to
-- tell when it is over, it publishes to the channel "report:KEY", since any worker may be asked for it.
--
-- Bodies of POST /publish and POST /send are Lua: the list of events, in braces.
local eventstream = require "eventstream"

local compile = loadstring or load -- luacheck: ignore

local app = eventstream.new {
  heartbeat = 1, retry = 2000, limits = { body_bytes = 100000 },
  channels = { ["short:*"] = { history = 3 }, ["late:*"] = { history = 20 },
    ["skip:*"] = { history = 20, slow = "skip" } },
  hosts = { "house.test", "x", "127.0.0.1" }, origins = { "https://good.test" },
  cors = { origins = { "https://good.test" }, credentials = true },
  trusted = { "127.0.0.1" },
  on_error = function(message) io.stderr:write("script error: ", message, "\n") end,
}

-- The process that answers, so that a test knows when it has met all workers.
local worker

local function name_of_worker()
  if not worker then
    local file = assert(io.open "/proc/self/stat")
    worker = file:read "*a":match "^%d+"
    file:close()
  end
  return worker
end

local function report(key, what)
  app:channel("report:" .. key):publish(what)
end

-- Has the end of a stream told, where the query asks for it.
local function watch(stream, request)
  local key = request.query.report
  stream.data = request.query.name
  if key then stream:on_close(function(reason) report(key, "closed " .. reason) end) end
  stream:header("X-Worker", name_of_worker())
end

local function list_of(text)
  local names = {}
  for name in (text or ""):gmatch "[^,]+" do names[#names + 1] = name end
  return names
end

local function events_of(request)
  return assert(compile("return " .. request.body))()
end

app:get("/worker", function() return name_of_worker() end)

-- === Telling a stream something: POST /tell/KEY answers 404 where that stream is another worker's ===

local told = {}

local function wait_for_word(key)
  local word = eventstream.await(function(resume) told[key] = resume end)
  told[key] = nil
  return word
end

app:post("/tell/:key", function(request)
  local fn = told[request.params.key]
  if not fn then return 404 end
  fn(request.body)
end)

-- === Who may come in ===

app:before(function(request)
  if not request.path:find "^/guarded" then return end
  local user = eventstream.await(function(resume) resume(request.query.user) end)
  if request.query.fails then error "no way to tell, on purpose" end
  if not user then return 401, "who are you?", { ["WWW-Authenticate"] = "Basic" } end
  request.user = user
end)

app:get("/guarded", function(request) return request.user end)
app:static("/static", debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$")

app:stream("/guarded/stream", function(stream, request) stream:send(request.user) end)

app:stream("/expire", function(stream, request)
  watch(stream, request)
  stream:expire(tonumber(request.query.after))
  stream:hold()
end)

-- === Streams that send ===

app:stream("/sent", function(stream, request)
  watch(stream, request)
  for i = 1, 3 do stream:send(i) end
end)

app:stream("/send", { methods = { "POST" } }, function(stream, request)
  for _, event in ipairs(events_of(request)) do stream:send(event) end
end)

app:stream("/json", function(stream) stream:send { data = { 1, 2, 3 } } end)

app:stream("/every", function(stream)
  local n = 0
  stream:every(0.02, function(same)
    n = n + 1
    same:send(n)
    if n == 3 then same:close() end
  end)
end)

app:stream("/after", function(stream)
  stream:after(0.05, function()
    stream:send "second"
    stream:close()
  end)
  stream:send "first"
end)

app:stream("/stop", function(stream)
  local n, interval = 0, nil
  interval = stream:every(0.01, function()
    n = n + 1
    stream:send(n)
    if n == 2 then interval:stop() end
  end)
  stream:after(0.2, function()
    stream:send "end"
    stream:close()
  end)
end)

app:stream("/sleep", function(stream, request)
  watch(stream, request)
  local n = 0
  while n < 3 do
    n = n + 1
    stream:send(n)
    stream:sleep(0.02)
  end
end)

-- Runs until its client leaves, and tells what sleep returned then, and that the handler went no further.
app:stream("/loop", function(stream, request)
  watch(stream, request)
  while true do
    stream:send "tick"
    local ok, why = stream:sleep(0.02)
    if not ok then
      report(request.query.report, "sleep " .. why)
      stream:sleep(0.02)
      report(request.query.report, "a handler that goes on")
    end
  end
end)

app:stream("/await", function(stream)
  for _ = 1, 3 do
    local word, number = eventstream.await(function(resume)
      local interval
      interval = stream:every(0.02, function()
        interval:stop()
        resume("word", 7)
      end)
    end)
    stream:send(word .. number)
  end
end)

app:stream("/await/word", function(stream, request)
  stream:send("heard " .. (wait_for_word(request.query.key) or "nothing"))
end)

-- Reads another stream: the handler waits for its events, or they are published as they come.
app:stream("/relay", function(stream, request)
  local source = eventstream.connect(request.query.url, { retry = 1, last_event_id = request.query.id })
  stream:on_close(function() source:close() end)
  local event, why = source:next()
  while event do
    stream:send(("%s %s %s"):format(event.event, event.data, event.id or "none"))
    event, why = source:next()
  end
  stream:send(why)
end)

app:post("/relay", function(request)
  local channel = app:channel(request.query.to)
  eventstream.connect(request.query.url, {
    on_event = function(event) channel:publish { event = event.event, data = event.data } end,
    on_error = function(message, _, source)
      channel:publish { event = "end", data = message }
      source:close()
    end,
  })
end)

app:stream("/comment", function(stream)
  stream:comment "two\nlines"
  stream:send "x"
end)

app:stream("/header", function(stream)
  stream:header("X-One", "1")
  stream:header("X-Two", { "a", "b" })
  stream:send "x"
end)

app:stream("/data", function(stream)
  stream.data = { count = 0 }
  stream:every(0.01, function(same)
    same.data.count = same.data.count + 1
    if same.data.count == 3 then
      same:send("count " .. same.data.count)
      same:close()
    end
  end)
end)

-- More than the backlog and the kernel take: the handler's send waits.
app:stream("/much", function(stream)
  local filler = ("x"):rep(1000)
  for i = 1, 4000 do stream:send(i .. filler) end
end)

app:stream("/large", function(stream) stream:send(("x"):rep(300000)) end)

app:stream("/hold", function(stream, request)
  watch(stream, request)
  stream:hold()
  told[request.query.name or ""] = function(word)
    for i = 1, 30 do stream:send(word .. i .. (" "):rep(1000)) end
    stream:close()
    stream:send "what comes too late"
  end
end)

app:stream("/flushed", function(stream, request)
  stream:send "now"
  stream:flush()
  wait_for_word(request.query.key)
end)

app:stream("/tokens", { methods = { "POST" } }, function(stream, request)
  for token in request.body:gmatch "%S+" do
    stream:send { event = "token", data = token }
    if wait_for_word(request.query.key) ~= "more" then return end
  end
  stream:send { event = "done", data = "" }
end)

app:stream("/ran", function(stream, request)
  report(request.query.report, "ran")
  stream:send "x"
end)

-- === Channels ===

local function number_or_text(value) return tonumber(value) or value end

-- The event "result" comes behind all that subscribe brings at once.
app:stream("/events", function(stream, request)
  local query = request.query
  watch(stream, request)
  local result = stream:subscribe(list_of(query.to),
    { since = query.since, newcomer = number_or_text(query.newcomer), on_gap = query.on_gap })
  if query.result then stream:send { event = "result", data = result } end
end)

-- What is subscribed to after a wait is a group of its own.
app:stream("/groups", function(stream, request)
  watch(stream, request)
  stream:subscribe(request.query.first)
  stream:sleep(0.01)
  stream:send { event = "result", data = stream:subscribe(request.query.second) }
end)

app:post("/publish", function(request)
  local channel, ids = app:channel(request.query.to), {}
  local pad = (" "):rep(tonumber(request.query.pad) or 0)
  for i, event in ipairs(events_of(request)) do
    if pad ~= "" then event = event .. pad end
    ids[i] = tostring(assert(channel:publish(event)))
  end
  return 200, table.concat(ids, "\n"), { ["X-Worker"] = name_of_worker() }
end)

-- 1 to ?count=, in one callback.
app:post("/burst", function(request)
  local channel = app:channel(request.query.to)
  for i = 1, tonumber(request.query.count) do channel:publish(i) end
end)

app:stream("/except", function(stream, request)
  watch(stream, request)
  local channel = app:channel(request.query.to)
  stream:subscribe(channel)
  channel:publish("all but one", { except = stream })
  channel:publish "all"
end)

app:stream("/unsubscribe", function(stream, request)
  watch(stream, request)
  stream:subscribe(list_of(request.query.to))
  wait_for_word(request.query.name)
  stream:send("unsubscribed: " .. tostring(stream:unsubscribe(request.query.from)))
end)

app:post("/close", function(request) app:channel(request.query.to):close() end)

local function has_hooks(channel) return channel.name:find "^hooks:" end

app:on_subscribe(function(channel, stream)
  if has_hooks(channel) then channel:publish { event = "came", data = stream.data } end
end)

app:on_unsubscribe(function(channel, stream)
  if has_hooks(channel) then channel:publish { event = "left", data = stream.data } end
end)

-- Of this worker: how many streams bear that name, among all and among the channel's, and its subscribers.
app:get("/count", function(request)
  local function named(streams)
    local count = 0
    for _, stream in ipairs(streams) do
      if stream.data == request.query.name then count = count + 1 end
    end
    return count
  end
  local channel = app:channel(request.query.to)
  return ("%d %d %d"):format(named(app:streams()), named(channel:streams()), channel.subscribers)
end)

-- === Errors on purpose ===

app:stream("/error", function() error "on purpose" end)

app:stream("/error/post", { methods = { "POST" } }, function() error "on purpose" end)

app:stream("/error/late", function(stream, request)
  watch(stream, request)
  stream:send "before"
  error "on purpose"
end)

app:stream("/error/interval", function(stream, request)
  watch(stream, request)
  stream:send "before"
  stream:every(0.01, function() error "on purpose" end)
end)

app:get("/error/plain", function() error "on purpose" end)

-- === Answers that are no streams ===

app:stream("/reject", function(stream)
  stream:reject(401, "who are you?", { ["WWW-Authenticate"] = "Basic", ["Set-Cookie"] = { "a=1", "b=2" } })
end)

app:stream("/reject/204", function(stream) stream:reject(204) end)

app:stream("/reject/later", function(stream)
  local status = eventstream.await(function(resume) app:after(0.02, function() resume(403) end) end)
  stream:reject(status, "no")
end)

app:get("/text", function() return "text" end)
app:get("/empty", function() return "" end)
app:get("/nothing", function() end)

app:get("/answer", function()
  return 201, "{}", { ["Content-Type"] = "application/json", ["X-One"] = 1, ["Set-Cookie"] = { "a=1", "b=2; Path=/" } }
end)

app:get("/status/:status", function(request) return tonumber(request.params.status), "x" end)

app:get("/later", function()
  return eventstream.await(function(resume) app:after(0.02, function() resume "later" end) end)
end)

app:get("/bytes", function()
  local bytes = {}
  for i = 0, 255 do bytes[i + 1] = string.char(i) end
  return 200, table.concat(bytes):rep(4096), { ["Content-Type"] = "application/octet-stream" }
end)

app:post("/body", function(request) return 200, request.body, { ["Content-Type"] = "application/octet-stream" } end)

app:post("/size", function(request) return tostring(#request.body) end)

-- === What a handler sees of its request, a line for each thing ===

local function sorted(label, values, lines)
  local names = {}
  for name in pairs(values) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = values[name]
    lines[#lines + 1] = ("%s %s = %s"):format(label, name, type(value) == "table" and table.concat(value, "|") or value)
  end
end

local function describe(request)
  local lines = {}
  for _, field in ipairs { "method", "target", "path", "version", "remote", "body" } do
    lines[#lines + 1] = field .. " " .. tostring(request[field])
  end
  for _, field in ipairs { "query", "query_all", "cookies", "params" } do sorted(field, request[field], lines) end
  for _, name in ipairs { "x-own", "X-OWN", "host", "accept" } do
    lines[#lines + 1] = ("header %s = %s"):format(name, tostring(request.headers[name]))
  end
  return table.concat(lines, "\n")
end

app:get("/request", describe)
app:route("PUT", "/request", describe)
app:route("DELETE", "/request", describe)
app:get("/request/:first/and/:second", describe)
app:get("/request/literal/and/literal", function() return "literal" end)
app:get("/files/*", describe)
app:stream("/stream/request/:name", function(stream, request) stream:send(describe(request)) end)
app:stream("/stream/request", { methods = { "POST" } }, function(stream, request) stream:send(describe(request)) end)

app:stream("/last", function(stream) stream:send(stream.last_event_id or "none") end)

return app:serve { port = tonumber(os.getenv "PORT") }
