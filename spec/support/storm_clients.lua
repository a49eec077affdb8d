-- For storm_spec: storm_clients.lua PORT COUNT hold|reset [SEED]. "hold" opens so many streams and keeps them until it
-- is killed. "reset" opens them 200 at a time, and resets each at a random moment of its life.
local random = require "spec.support.random"
local uv = require "luv"

local PORT, COUNT, RESETS = tonumber(arg[1]), tonumber(arg[2]), arg[3] == "reset"
local AT_ONCE = 200
local HEAD = "GET /news HTTP/1.1\r\nHost: a\r\n\r\n"
local draw = random.new(tonumber(arg[4] or 1))

local begun, over, open = 0, 0, 0
local handles = {} -- of those that are held
local connect

local function finish(handle)
  handle:close_reset()
  over = over + 1
  if over == COUNT then print "done" elseif begun < COUNT then connect() end
end

local FATES = {
  function(handle) finish(handle) end,
  function(handle) handle:write(HEAD:sub(1, draw(#HEAD)), function() finish(handle) end) end,
  function(handle) handle:write(HEAD, function() finish(handle) end) end,
  function(handle)
    local left = draw(20)
    handle:write(HEAD)
    handle:read_start(function()
      left = left - 1
      if left == 0 then finish(handle) end
    end)
  end,
}

local function hold(handle)
  handles[#handles + 1] = handle
  handle:write(HEAD)
  local first = true
  handle:read_start(function(_, bytes)
    assert(bytes, "a stream ended")
    if not first then return end
    first, open = false, open + 1
    if open == COUNT then print "done" elseif begun < COUNT then connect() end
  end)
end

function connect()
  local handle = uv.new_tcp()
  begun = begun + 1
  handle:connect("127.0.0.1", PORT, function(failure)
    assert(not failure, failure)
    if RESETS then FATES[draw(#FATES)](handle) else hold(handle) end
  end)
end

io.stdout:setvbuf "line"
for _ = 1, AT_ONCE do connect() end
local deadline = uv.new_timer()
deadline:start(60000, 0, function() os.exit(1) end)
if RESETS then deadline:unref() end
uv.run()
