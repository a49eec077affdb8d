--- The app of openresty_spec: blackbox_app's, and what only several workers have.
local eventstream = require "eventstream"
local app = require "blackbox_app"

local function worker() return tostring(ngx.worker.pid()) end

-- In one worker at a time.
app:every(0.05, function() app:channel("ticks"):publish(worker()) end)

app:stream("/member", function(stream, request)
  stream:header("X-Worker", worker())
  stream:subscribe(request.query.to, { member = request.query.name })
end)

-- Who is there, told to those who are.
app:on_members(function(channel)
  for _, stream in ipairs(channel:streams()) do
    stream:send { event = "here", data = table.concat(channel:members(), " ") }
  end
end)

app:get("/members", function(request)
  return table.concat(app:channel(request.query.to):members(), " "), nil
end)

-- One event of so many bytes.
app:post("/big", function(request)
  local id, why = app:channel(request.query.to):publish(("x"):rep(tonumber(request.query.bytes)))
  return id and "" or why
end)

-- Takes a number and never brings its frame, as a worker that dies in between.
app:post("/hole", function()
  local dict = ngx.shared.eventstream
  for _, key in ipairs(dict:get_keys(0)) do
    if key:find "%zhead$" then return tostring(dict:incr(key, 1)) end
  end
end)

-- nginx ends the request, and all of its threads, without a word.
app:stream("/exit", function(stream, request)
  stream:on_close(function(reason) app:channel(request.query.report):publish(reason) end)
  stream:subscribe "news"
  stream:sleep(0.01)
  ngx.exit(ngx.OK)
end)

app:post("/close-app", function() app:close() end)

app:get("/another", function()
  for i = 1, 1000 do
    local ok, message = pcall(eventstream.new,
      { backplane = require("eventstream.openresty").dict { prefix = ("p"):rep(2000) .. i } })
    if not ok then return message end
  end
  return "none was refused"
end)

-- What cannot be had here, and what is said then.
app:get("/impossible", function()
  local lines = {}
  for _, fn in ipairs {
    function() app:listen(8080) end, function() eventstream.run() end, function() eventstream.loop.turn() end,
    function() require("eventstream.openresty").init_worker() end,
    function() require("eventstream.openresty").serve {} end,
    function() eventstream.new { backplane = 1 } end,
  } do
    local ok, message = pcall(fn)
    lines[#lines + 1] = ok and "works" or tostring(message)
  end
  return table.concat(lines, "\n")
end)

return app
