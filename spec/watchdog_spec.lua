-- limits.callback_seconds: what runs for too long, and so holds up all the others, is told of while it does.
local net = require "spec.support.net"
local process = require "spec.support.process"

local SERVER = [[
  io.stdout:setvbuf "line"
  if jit then jit.off() end -- compiled code has no hooks
  local eventstream = require "eventstream"
  local app = eventstream.new { limits = { callback_seconds = tonumber(arg[1]) or false } }

  local function spin(seconds)
    local stop = os.clock() + seconds
    while os.clock() < stop do end
  end

  app:get("/quick", function() return "quick" end)
  app:get("/spin", function()
    spin(0.6)
    return "spun"
  end)
  app:stream("/ticks", function(stream)
    stream:after(0.01, function()
      spin(0.6)
      stream:close()
    end)
  end)
  app:get("/blocked", function()
    os.execute "sleep 1"
    return "done"
  end)
  app:stream("/waits", function(stream)
    stream:send "a"
    stream:sleep(0.8)
    stream:send "b"
  end)
  app:get("/hooked", function()
    local count = 0
    debug.sethook(function() count = count + 1 end, "", 1000)
    spin(0.6)
    local ours = count
    spin(0.2)
    debug.sethook()
    return count > ours and "kept" or "lost"
  end)
  local listener = assert(app:listen { port = 0 })
  print("port " .. listener.port)
  eventstream.run()
]]

describe("limits.callback_seconds", function()
  local child, port

  local function start(limit)
    local file = os.tmpname()
    local handle = assert(io.open(file, "w"))
    handle:write(SERVER)
    handle:close()
    child = process.lua { file, limit }
    port = tonumber((child:wait_line "^port (%d+)$"))
    os.remove(file)
  end

  local function stop()
    child:kill "sigterm"
    assert.equal(0, (child:wait_exit()))
  end

  after_each(function()
    process.kill_all()
    net.finish()
  end)

  it("names a handler that does not return, and where it is, while it runs", function()
    start "0.2"
    local client = net.connect(port):get "/spin"
    child:wait_line "the handler or a callback of GET /spin has run for 0%.%d s, and holds up all the others"
    child:wait_line "in.*spin"
    assert.is_nil(client.received:match "spun")
    client:wait "spun$"
    stop()
    assert.equal(1, select(2, child.stderr:gsub("holds up", "")))
  end)

  it("names a callback of a stream", function()
    start "0.2"
    net.connect(port):get "/ticks":wait_end()
    child:wait_line "the handler or a callback of GET /ticks has run for 0%.%d s"
    stop()
  end)

  it("tells of what blocks in C, too", function()
    start "0.2"
    net.connect(port):get "/blocked":wait "done$"
    child:wait_line "has run for %d%.%d s, and holds up all the others"
    stop()
  end)

  it("tells nothing of what is quick, or waits", function()
    start "0.2"
    net.connect(port):get "/waits":wait "data: b"
    net.connect(port):get "/quick":wait "quick$"
    stop()
    assert.equal("", child.stderr)
  end)

  it("= false tells nothing", function()
    start "false"
    net.connect(port):get "/spin":wait "spun$"
    stop()
    assert.equal("", child.stderr)
  end)

  it("leaves the script's own hook where it was", function()
    start "0.2"
    net.connect(port):get "/hooked":wait "kept$"
    stop()
  end)
end)
