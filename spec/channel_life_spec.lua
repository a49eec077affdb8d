--- What keeps a channel, and that it goes when nothing does: its memory with it, and never a frame in silence.

local net = require "spec.support.net"
local channels = require "spec.support.channels"

local hub, join, publish = channels.hub, channels.join, channels.publish

local function collect()
  collectgarbage()
  collectgarbage()
end

local function resident_kilobytes()
  for line in io.lines "/proc/self/status" do
    local size = line:match "^VmRSS:%s+(%d+) kB"
    if size then return tonumber(size) end
  end
end

describe("a channel", function()
  after_each(channels.finish)

  it("that nobody holds, with no frames and no subscribers, goes", function()
    local app = hub()
    app:channel "news"
    collect()
    assert.equal(0, app:stats().channels)
  end)

  it("stays while a script holds it", function()
    local app = hub()
    local news = app:channel "news"
    collect()
    assert.equal(1, app:stats().channels)
    assert.equal(0, news.subscribers)
  end)

  it("stays while it has a subscriber, and goes with the last", function()
    local app, port = hub()
    local one, other = join(port), join(port)
    collect()
    assert.equal(1, app:stats().channels)
    one:close()
    channels.wait_stat(app, "subscribers", 1)
    collect()
    assert.equal(1, app:stats().channels)
    other:close()
    channels.wait_stat(app, "subscribers", 0)
    net.settle()
    collect()
    assert.equal(0, app:stats().channels)
  end)

  it("with a history goes when that has expired", function()
    local app = hub { channels = { ["*"] = { history_seconds = 0.05 } } }
    publish(app:channel "news", 3)
    collect()
    assert.equal(1, app:stats().channels)
    channels.wait_stat(app, "channels", 0)
  end)

  it("expires frame by frame", function()
    local app, port = hub(nil, function(stream) return stream:subscribe("news", { newcomer = "all" }) end)
    local news = app:channel("news", { history_seconds = 0.4 })
    news:publish "old"
    local passed
    app:after(0.3, function() passed = news:publish "new" end)
    net.wait(function() return passed end)
    passed = nil
    app:after(0.2, function() passed = true end)
    net.wait(function() return passed end)
    local client = join(port)
    news:publish "end"
    assert.same({ "new", "end" }, channels.wait_data(client, "end"))
  end)

  it("goes at the time that a shorter history_seconds sets", function()
    local app = hub()
    app:channel("news", { history_seconds = 300 }):publish "x"
    app:channel("news", { history_seconds = 0.05 })
    collect()
    channels.wait_stat(app, "channels", 0)
  end)

  it("with a history_seconds of less than a millisecond goes", function()
    local app = hub()
    app:channel("news", { history_seconds = 0.0005 }):publish "x"
    collect()
    channels.wait_stat(app, "channels", 0)
  end)

  it("whose reader resumed and left goes when its history has expired", function()
    local app, port = hub({ channels = { ["*"] = { history_seconds = 0.2 } } }, function(stream)
      return stream:subscribe("news", { newcomer = "all" })
    end)
    publish(app:channel "news", 3)
    local client = join(port)
    channels.wait_data(client, "3")
    client:close()
    channels.wait_stat(app, "subscribers", 0)
    collect()
    channels.wait_stat(app, "channels", 0)
  end)

  it("with history_seconds = false keeps its frames", function()
    local app = hub { channels = { ["*"] = { history_seconds = false } } }
    publish(app:channel "news", 3)
    local others = app:channel("others", { history_seconds = 0.01 })
    publish(others, 3)
    others = nil -- luacheck: ignore
    collect()
    channels.wait_stat(app, "channels", 1)
  end)

  it("without a history goes at once", function()
    local app = hub { channels = { ["*"] = { history = 0 } } }
    publish(app:channel "news", 3)
    collect()
    assert.equal(0, app:stats().channels)
  end)

  it("that is held still works when its frames have expired", function()
    local app, port = hub { channels = { ["*"] = { history_seconds = 0.05 } } }
    local news = app:channel "news"
    local first = news:publish "old"
    local others = app:channel "others"
    publish(others, 1)
    others = nil -- luacheck: ignore
    collect()
    channels.wait_stat(app, "channels", 1) -- what was published later has expired
    local client = join(port, "/", first)
    assert.same({ "resumed" }, app.results)
    news:publish "new"
    assert.same({ "new" }, channels.wait_data(client, "new"))
  end)

  it("made again counts what it had before as gone", function()
    local app, port = hub { channels = { ["*"] = { history_seconds = 0.05 } } }
    local ids = publish(app:channel "news", 2)
    collect()
    channels.wait_stat(app, "channels", 0)
    local client = join(port, "/", ids[1])
    assert.same({ "gap" }, app.results)
    assert.same({ "gap:news" }, channels.wait_data(client, "news"))
  end)

  it("made again has no gap for a client that had all of it", function()
    local app, port = hub { channels = { ["*"] = { history_seconds = 0.05 } } }
    local ids = publish(app:channel "news", 2)
    collect()
    channels.wait_stat(app, "channels", 0)
    join(port, "/", ids[2])
    assert.same({ "resumed" }, app.results)
  end)

  it("that never was counts what others had when they went as gone: needless, but no loss", function()
    local app, port = hub { channels = { ["*"] = { history_seconds = 0.05 } } }
    local ids = publish(app:channel "news", 2)
    collect()
    channels.wait_stat(app, "channels", 0)
    join(port, "/?to=weather", ids[1])
    assert.same({ "gap" }, app.results)
  end)

  it("whose options shrink its history to nothing goes", function()
    local app = hub { channels = { ["*"] = { history_seconds = 3600 } } }
    publish(app:channel "news", 100)
    app:channel("news", { history = 0 })
    collect()
    assert.equal(0, app:stats().channels)
  end)
end)

describe("100,000 channels", function()
  after_each(channels.finish)

  -- Kilobytes. A sanitizer's allocator keeps some of what was freed; 100,000 of anything are more.
  local RESIDENT = os.getenv "ASAN_OPTIONS" and 24576 or 8192

  -- Lua's own memory, when nothing is left to give back: Lua 5.1 halves its table of strings once a collection.
  local function lua_kilobytes()
    local count
    repeat
      count = collectgarbage "count"
      collectgarbage()
    until collectgarbage "count" >= count
    return count
  end

  -- Measures what a round leaves behind after others like it: a warmed allocator keeps what it has. How much that is
  -- depends on when the collector ran, so the least of three rounds counts: what is lost is lost in each.
  local function left_behind(round)
    round()
    round()
    local lua, resident = math.huge, math.huge
    for _ = 1, 3 do
      local lua_before, resident_before = lua_kilobytes(), resident_kilobytes()
      round()
      lua = math.min(lua, lua_kilobytes() - lua_before)
      resident = math.min(resident, resident_kilobytes() - resident_before)
    end
    return lua, resident
  end

  it("that are named and left leave nothing", function()
    local app = hub()
    local lua, resident = left_behind(function()
      for i = 1, 100000 do app:channel("name " .. i) end
      collect()
      assert.equal(0, app:stats().channels)
    end)
    assert.is_true(lua < 200, lua)
    assert.is_true(resident < RESIDENT, resident)
  end)

  it("that were given options leave no more than a bounded memory of these", function()
    local app = hub()
    local lua, resident = left_behind(function()
      for i = 1, 100000 do app:channel("name " .. i, { history = i }) end
      collect()
      assert.equal(0, app:stats().channels)
    end)
    assert.is_true(lua < 1024, lua)
    assert.is_true(resident < RESIDENT, resident)
  end)

  it("that had a short history leave nothing when it has expired", function()
    local app = hub { channels = { ["*"] = { history_seconds = 0.01 } } }
    local lua, resident = left_behind(function()
      for i = 1, 100000 do app:channel("name " .. i):publish { id = "id " .. i, data = i } end
      collect()
      channels.wait_stat(app, "channels", 0)
    end)
    assert.is_true(lua < 200, lua)
    assert.is_true(resident < RESIDENT, resident)
  end)

  it("that were subscribed to and left by their streams leave nothing", function()
    local app, port = hub(nil, function(stream, request)
      local first = tonumber(request.query.first)
      for i = first, first + 999 do stream:subscribe("name " .. i) end
      if request.query.leave then
        for i = first, first + 999 do stream:unsubscribe("name " .. i) end
      end
      stream:hold()
    end)
    local lua, resident = left_behind(function()
      local clients = {}
      for i = 1, 100 do
        clients[i] = net.connect(port):get(("/?first=%d%s"):format(i * 1000, i % 2 == 0 and "&leave=1" or ""))
        if #clients[i].received == 0 then clients[i]:wait "retry: " end
      end
      assert.equal(50000, app:stats().subscribers)
      for i = 1, 100 do clients[i]:close() end
      channels.wait_stat(app, "streams", 0)
      net.settle()
      collect()
      assert.equal(0, app:stats().subscribers)
      channels.wait_stat(app, "channels", 0)
    end)
    assert.is_true(lua < 200, lua)
    assert.is_true(resident < RESIDENT, resident)
  end)
end)
