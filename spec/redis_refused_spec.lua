--- eventstream.redis: what a cut between a process and Redis leaves behind, and what Redis refuses.

local core = require "eventstream.core"
local net = require "spec.support.net"
local path = require "spec.support.path"
local redis_apps = require "spec.support.redis_apps"
local redis_server = require "spec.support.redis"
local uv = require "luv"

local found = pcall(require, "eventstream.hiredis")

describe("eventstream.redis, cut or refused,", function()
  if not found or not redis_server.program then
    pending "needs hiredis and redis-server"
    return
  end

  local serve, connected, join, publish = redis_apps.serve, redis_apps.connected, redis_apps.join, redis_apps.publish

  setup(redis_apps.warm_up)
  after_each(redis_apps.finish)

  local function disconnected(state)
    net.wait(function() return state[#state] and state[#state]:find "^disconnected" end, "the end of a connection")
  end

  -- Two apps, the second one by a path.
  local function two_apps(server, options)
    local one, port_one, state_one = serve { port = server.port }
    options = options or {}
    local way = path.lay(server.port)
    options.port = way.port
    local two, port_two, state_two = serve(options)
    connected(state_one)
    connected(state_two)
    return { app = one, port = port_one, state = state_one }, { app = two, port = port_two, state = state_two }, way
  end

  local function statistic(server, section, pattern)
    return tonumber(server:ask("INFO", section):match(pattern) or 0)
  end

  -- So much that the control stream has lost what was in it: each coming and going is told to all.
  local function churn(app)
    local relay = app._hooks.relay
    for i = 1, 1300 do relay("other", "members", "m" .. i) end
  end

  it("tells of a loss whose first mark is gone", function()
    local server = redis_server.start()
    local one, two, way = two_apps(server)
    local a, b = join(one.port, "a"), join(two.port, "a")
    publish(one.app, "a", 1)
    a.has "1"
    b.has "1"
    way:cut()
    disconnected(two.state)
    publish(one.app, "a", "lost")
    a.has("1", "lost")
    server:kill()
    disconnected(one.state)
    server:begin()
    connected(one.state)
    publish(one.app, "a", 4)
    churn(one.app)
    publish(one.app, "a", 5)
    way:mend()
    connected(two.state)
    publish(one.app, "a", 6)
    a.has("1", "lost", "gap a", "4", "5", "6")
    b.has("1", "gap a", "4", "5", "6")
  end)

  it("tells of a loss as soon as anybody knows of it, and once, before all that comes behind it", function()
    local server = redis_server.start()
    local apps = {}
    for i = 1, 3 do
      local way = path.lay(server.port)
      local app, port, state = serve { port = way.port }
      connected(state)
      apps[i] = { app = app, state = state, way = way, client = join(port, "a") }
    end
    local one, two, three = apps[1], apps[2], apps[3]
    publish(one.app, "a", 1)
    for _, each in ipairs(apps) do each.client.has "1" end
    server:ask "SAVE"
    two.way:cut()
    three.way:cut()
    disconnected(two.state)
    disconnected(three.state)
    publish(one.app, "a", "lost")
    one.client.has("1", "lost")
    one.way:cut()
    disconnected(one.state)
    server:kill()
    server:begin()
    two.way:mend()
    connected(two.state)
    publish(two.app, "a", 3)
    two.client.has("1", "3") -- nobody here has seen more
    one.way:mend()
    connected(one.state)
    two.client.has("1", "3", "gap a")
    publish(two.app, "a", 4)
    one.client.has("1", "lost", "gap a", "3", "4")
    two.client.has("1", "3", "gap a", "4")
    three.way:mend()
    connected(three.state)
    publish(three.app, "a", 5)
    one.client.has("1", "lost", "gap a", "3", "4", "5")
    two.client.has("1", "3", "gap a", "4", "5")
    three.client.has("1", "gap a", "3", "4", "5")
    server:kill() -- and with less: another loss
    server:begin()
    for _, each in ipairs(apps) do connected(each.state) end
    publish(one.app, "a", 6)
    one.client.has("1", "lost", "gap a", "3", "4", "5", "gap a", "6")
    two.client.has("1", "3", "gap a", "4", "5", "gap a", "6")
    three.client.has("1", "gap a", "3", "4", "5", "gap a", "6")
  end)

  for _, restarts in ipairs { 1, 2 } do
    it(("tells of a loss who was away for %d term(s)"):format(restarts), function()
      local server = redis_server.start()
      local one, two, way = two_apps(server)
      local a, b = join(one.port, "a"), join(two.port, "a")
      local id = publish(one.app, "a", 1)
      a.has "1"
      b.has "1"
      way:cut()
      disconnected(two.state)
      publish(one.app, "a", "kept")
      server:ask "SAVE"
      publish(one.app, "a", "lost")
      for i = 1, restarts do
        server:kill() -- but for the first one nothing is lost
        disconnected(one.state)
        server:begin()
        connected(one.state)
        publish(one.app, "a", 2 + i)
        server:ask "SAVE"
      end
      way:mend()
      connected(two.state)
      publish(one.app, "a", 5)
      local all = { "3", "4", "5" }
      if restarts == 1 then table.remove(all, 2) end
      a.has("1", "kept", "lost", "gap a", (unpack or table.unpack)(all))
      b.has("1", "kept", "gap a", (unpack or table.unpack)(all))
      local _, port, state = serve { port = server.port } -- a process that is new
      connected(state)
      join(port, "a", id).has("gap a", "kept", (unpack or table.unpack)(all))
      join(port, "a", b.last).has()
    end)
  end

  it("tells of no loss where nothing was lost, however often Redis restarts", function()
    local server = redis_server.start()
    local one, two = two_apps(server)
    local a, b = join(one.port, "a"), join(two.port, "a")
    publish(one.app, "a", 1)
    a.has "1"
    b.has "1"
    server:ask "SAVE"
    for _ = 1, 3 do
      server:kill()
      disconnected(one.state)
      disconnected(two.state)
      server:begin()
      connected(one.state)
      connected(two.state)
    end
    publish(one.app, "a", 2)
    publish(two.app, "a", 3)
    a.has("1", "2", "3")
    b.has("1", "2", "3")
  end)

  describe("where a loss is known late,", function()
    local server, one, two

    local function come(port)
      local way = path.lay(port)
      local app, own, state = serve { port = way.port }
      connected(state)
      return { app = app, port = own, state = state, way = way, client = join(own, "a") }
    end

    local function go(each)
      each.way:cut()
      disconnected(each.state)
    end

    local function back(each)
      each.way:mend()
      connected(each.state)
    end

    -- Two begins a term, and knows of nothing that was lost before it; one does, and is away.
    before_each(function()
      server = redis_server.start()
      one, two = come(server.port), come(server.port)
      publish(one.app, "a", 1)
      one.client.has "1"
      two.client.has "1"
      server:ask "SAVE"
      go(two)
      publish(one.app, "a", "lost")
      one.client.has("1", "lost")
      go(one)
      server:kill()
      server:begin()
      back(two)
      publish(two.app, "a", 3)
      two.client.has("1", "3")
    end)

    it("tells of it though the control stream has lost that", function()
      go(two)
      back(one)
      publish(one.app, "a", 4)
      one.client.has("1", "lost", "gap a", "3", "4")
      churn(one.app)
      publish(one.app, "a", 5)
      back(two)
      publish(one.app, "a", 6)
      one.client.has("1", "lost", "gap a", "3", "4", "5", "6")
      two.client.has("1", "3", "gap a", "4", "5", "6")
    end)

    it("tells of it who is there, and has not read that before it is gone", function()
      two.way.milliseconds = 300
      back(one)
      churn(one.app)
      publish(one.app, "a", 4)
      one.client.has("1", "lost", "gap a", "3", "4")
      net.wait(function()
        local list = table.concat(two.client.events(), " ")
        return list:find("gap a", 1, true) and list:find "4"
      end, function() return "a gap, and 4; there is " .. table.concat(two.client.events(), " ") end, 25)
      assert.equal(1, select(2, table.concat(two.client.events(), " "):gsub("gap", "")))
    end)

    it("tells of it who comes back, in another process", function()
      local goes = join(two.port, "a", two.client.last)
      publish(two.app, "a", 4)
      goes.has "4"
      local id = goes.leave()
      back(one)
      two.client.has("1", "3", "4", "gap a")
      publish(one.app, "a", 5)
      one.client.has("1", "lost", "gap a", "3", "4", "5")
      join(one.port, "a", id).has("gap a", "5")
      join(two.port, "a", id).has("gap a", "5")
      join(one.port, "a", one.client.last).has()
    end)

    it("tells of it once, where Redis was full", function()
      server:ask "SAVE"
      server:ask("CONFIG", "SET", "maxmemory", "1")
      back(one)
      net.wait(function() return (statistic(server, "errorstats", "errorstat_OOM:count=(%d+)") or 0) > 0 end, "OOM", 25)
      server:kill()
      disconnected(one.state)
      disconnected(two.state)
      server:begin()
      connected(one.state)
      connected(two.state)
      publish(one.app, "a", 4)
      publish(one.app, "a", 5)
      one.client.has("1", "lost", "gap a", "3", "4", "5")
      two.client.has("1", "3", "gap a", "4", "5")
    end)

    it("tells of it also when there was another one since", function()
      server:ask "SAVE"
      publish(two.app, "a", "lost, too")
      two.client.has("1", "3", "lost, too")
      server:kill()
      disconnected(two.state)
      server:begin()
      connected(two.state)
      publish(two.app, "a", 5)
      two.client.has("1", "3", "lost, too", "gap a", "5")
      back(one)
      publish(one.app, "a", 6)
      net.wait(function() return table.concat(one.client.events(), " "):find "^1 lost gap a .*3 .*5 .*6" end, function()
        return "1 lost gap a 3 5 6; there is " .. table.concat(one.client.events(), " ")
      end, 25)
    end)
  end)

  it("ends a channel that was closed meanwhile, though the control stream has lost that", function()
    local server = redis_server.start()
    local one, two, way = two_apps(server)
    local b = join(two.port, "a")
    publish(one.app, "a", 1)
    b.has "1"
    way:cut()
    disconnected(two.state)
    one.app:channel("a"):close()
    churn(one.app)
    publish(one.app, "a", 2)
    way:mend()
    connected(two.state)
    net.wait(function() return b.client.ended end, "the channel's end")
  end)

  it("keeps subscribers of what has more than their channel keeps, and tells them of the gap", function()
    local server = redis_server.start()
    local one, two, way = two_apps(server, { channels = { a = { history = 100 } } })
    local b = join(two.port, "a")
    publish(one.app, "a", 1)
    b.has "1"
    way:cut()
    disconnected(two.state)
    for i = 2, 2999 do one.app:channel("a"):publish(i) end
    publish(one.app, "a", 3000)
    way:mend()
    connected(two.state)
    net.wait(function() return b.events()[#b.events()] == "3000" end, "the newest")
    assert.same({ "1", "gap a" }, { b.events()[1], b.events()[2] })
    assert.is_falsy(b.client.ended)
    assert.equal(0, two.app:stats().slow)
  end)

  it("knows the names of those who came meanwhile, and of those who went", function()
    local server = redis_server.start()
    local one, two, way = two_apps(server)
    local here = net.connect(two.port):get "/?to=a&member=Bob"
    join(one.port, "a")
    join(two.port, "a")
    local function members(app) return table.concat(app:channel("a"):members(), " ") end
    net.wait(function() return members(one.app) == "Bob" end, "Bob")
    way:cut()
    disconnected(two.state)
    net.connect(one.port):get "/?to=a&member=Ada"
    here:close()
    net.wait(function() return members(one.app):find "Ada" end, "Ada, there")
    churn(one.app)
    publish(one.app, "other", 1)
    way:mend()
    connected(two.state)
    net.wait(function() return members(two.app) == "Ada" and members(one.app) == "Ada" end, function()
      return ("Ada alone; there are %q and %q"):format(members(one.app), members(two.app))
    end)
  end)

  it("knows the names that the control stream has lost, though nothing was cut", function()
    local server = redis_server.start()
    local one, two, way = two_apps(server)
    local told = {}
    two.app:on_members(function(channel) told[#told + 1] = table.concat(channel:members(), " ") end)
    join(two.port, "a")
    net.connect(two.port):get "/?to=a&member=Bob"
    join(one.port, "a")
    net.wait(function() return told[#told] == "Bob" end, "Bob")
    way.milliseconds = 700
    net.connect(one.port):get "/?to=a&member=Ada"
    net.wait(function() return tonumber(server:ask("XLEN", "eventstream:control")) >= 2 end)
    churn(one.app)
    publish(one.app, "other", 1)
    way.milliseconds = 0
    net.wait(function() return told[#told] == "Ada Bob" end, function() return table.concat(told, "; ") end)
    assert.equal("connected", two.state[#two.state])
    assert.equal(1, #two.state)
  end)

  it("tells its names again when Redis has forgotten them, or did not take them", function()
    local server = redis_server.start()
    local one, two = two_apps(server)
    net.connect(one.port):get "/?to=a&member=Ada"
    net.connect(two.port):get "/?to=a&member=Bob"
    local function both(names)
      net.wait(function()
        local here, there = one.app:channel("a"):members(), two.app:channel("a"):members()
        return table.concat(here, " ") == names and table.concat(there, " ") == names
      end, names, 25)
    end
    local function everywhere(names)
      local list, asked
      net.wait(function()
        if not asked then
          asked = true
          one.app:channel("a"):members(function(names_now) list, asked = names_now or {}, false end)
        end
        return list and table.concat(list, " ") == names
      end, names .. " in Redis", 25)
    end
    both "Ada Bob"
    everywhere "Ada Bob"
    server:ask "FLUSHALL"
    net.wait(function() return server:ask("HLEN", "eventstream:members:a") == "2" end, "the names", 25)
    both "Ada Bob"
    server:ask("SCRIPT", "FLUSH")
    everywhere "Ada Bob"
    server:ask("CONFIG", "SET", "maxmemory", "1")
    net.connect(one.port):get "/?to=a&member=Cyd"
    net.wait(function() return one.app:channel("a"):members()[3] end)
    net.wait(function() return (statistic(server, "errorstats", "errorstat_OOM:count=(%d+)") or 0) > 1 end, "OOM", 25)
    server:ask("CONFIG", "SET", "maxmemory", "0")
    both "Ada Bob Cyd"
  end)

  it("comes back however much its channels keep, and asks for no history anew", function()
    local server = redis_server.start()
    local _, two, way = two_apps(server)
    local names = {}
    for i = 1, 600 do names[i] = "n" .. i end
    local client = join(two.port, table.concat(names, ","))
    local function histories() return statistic(server, "commandstats", "cmdstat_xrange:calls=(%d+)") end
    local before = histories()
    assert.is_true(before >= 600)
    way:cut()
    disconnected(two.state)
    way:mend()
    connected(two.state)
    publish(two.app, "n600", "x")
    client.has "x"
    assert.equal(before, histories())
  end)

  it("waits where Redis was made a replica, which is told in the midst of a script", function()
    local server = redis_server.start()
    local app, port, state = serve()
    connected(state)
    local client = join(port, "a")
    server:ask("REPLICAOF", "127.0.0.1", "1")
    local refused = 0
    for i = 1, 20 do app:channel("a"):publish(i, function(id) refused = refused + (id and 0 or 1) end) end
    disconnected(state)
    server:ask("REPLICAOF", "NO", "ONE")
    connected(state)
    net.wait(function() return client.events()[#client.events()] == "20" end, "all of it", 25)
    assert.equal(0, refused)
  end)

  it("refuses at once what a full Redis does not take", function()
    local server = redis_server.start "--maxmemory-policy noeviction"
    local app, _, state = serve()
    connected(state)
    publish(app, "a", "x")
    server:ask("CONFIG", "SET", "maxmemory", "1")
    local function scripts() return statistic(server, "commandstats", "cmdstat_evalsha:calls=(%d+)") end
    local before, refused = scripts(), 0
    for i = 1, 2000 do app:channel("a"):publish(i, function(id) refused = refused + (id and 0 or 1) end) end
    net.wait(function() return refused == 2000 end, function() return refused .. " refused" end)
    assert(scripts() - before < 30, scripts() - before)
  end)

  it("is told of the channel that Redis refuses, and goes on with the others", function()
    local server = redis_server.start()
    server:ask("SET", "eventstream:channel:bad", "text")
    local app, port, state = serve()
    connected(state)
    local good = join(port, "good")
    local id, why = publish(app, "bad", 1)
    assert.is_nil(id)
    assert.matches("^WRONGTYPE", why)
    assert.matches("%-%d+$", publish(app, "good", 2))
    local client = net.connect(port):get "/?to=bad"
    net.wait(function() return client.ended end, "the end of who cannot subscribe")
    good.has "2"
    assert.equal(1, #state, table.concat(state, "; "))
  end)

  it("passes over entries that are no events of ours", function()
    local server = redis_server.start()
    local app, port, state = serve()
    connected(state)
    server:ask("XADD", "eventstream:channel:a", "5-0", "foo", "bar")
    server:ask("XADD", "eventstream:channel:a", "6-0", "e", "own 1 x 1 0 nonsense")
    local client = join(port, "a")
    publish(app, "a", 1)
    client.has "1"
    server:ask("XADD", "eventstream:news", "*", "foo", "bar")
    publish(app, "a", 2)
    client.has("1", "2")
    assert.equal(1, #state, table.concat(state, "; "))
  end)

  it("does without a command that it may not use", function()
    local server = redis_server.start()
    server:ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-client|unblock")
    local app, port, state = serve { username = "app", password = "pw" }
    connected(state)
    local client = join(port, "a") -- when the reader has waited for what is new
    publish(app, "a", 1)
    client.has "1"
    assert(statistic(server, "errorstats", "errorstat_NOPERM:count=(%d+)") < 5)
  end)

  it("tells each publisher the number of its own event, also after two cuts", function()
    local server = redis_server.start()
    local scripts = require "eventstream.redis.scripts"
    server:ask("HSET", "eventstream:state", "nonce", "r", "sequence", "1000")
    local function append(process, events)
      local list = { "EVAL", scripts.publish, "5", "eventstream:state", "eventstream:channels",
        "eventstream:done:" .. process, "eventstream:control", "eventstream:news", "r", process, "100000",
        "eventstream", "1", "a", "own", "1000", "0", tostring(events) }
      for _ = 1, events do list[#list + 1] = "packed" end
      return (server:ask((unpack or table.unpack)(list)):gsub("%s+", " "))
    end
    assert.equal("1001 1", append("one", 1))
    assert.equal("1002 3", append("two", 3))
    assert.equal("1001 1", append("one", 2)) -- its answer was lost, and then there was one more
    assert.equal("1001 1", append("one", 2)) -- and again
  end)

  it("keeps nothing of who came and went while Redis was away", function()
    local server = redis_server.start()
    local app, port, state = serve { waiting = 5 }
    connected(state)
    server:kill()
    disconnected(state)
    for i = 1, 30 do
      local client = net.connect(port):get("/?to=n" .. i .. "&member=m")
      client:wait "200 OK"
      client:close()
    end
    net.wait(function() return app:stats().streams == 0 end, "the end of all streams")
    assert.is_true(app:channel("a"):publish "fits")
    server:begin()
    connected(state)
    net.wait(function() return server:ask("XLEN", "eventstream:channel:a") == "1" end)
    assert.equal(0, statistic(server, "commandstats", "cmdstat_xrange:calls=(%d+)"))
  end)

  it("notices a reset behind half a reply", function()
    local server, told, why = uv.new_tcp(), nil, nil
    server:bind("127.0.0.1", 0)
    server:listen(1, function()
      local peer = uv.new_tcp()
      server:accept(peer)
      peer:read_start(function(_, chunk)
        if not chunk then return end
        peer:write("$100000\r\n" .. ("x"):rep(40000)) -- written at once, as there is room
        peer:close_reset()
      end)
    end)
    net.serve(function() end)
    local on = {}
    local connection = require("eventstream.hiredis").connect(core.loop.pointer(), "127.0.0.1",
      server:getsockname().port, function(what, message) on[what] = message or true end)
    core.loop.wake()
    net.wait(function() return on.connected end, "the connection")
    connection:command(function(reply, message) told, why = reply, message end, { "GET", "x" })
    net.wait(function() return on.closed end, "the reset")
    assert.same({ nil, "closed" }, { told, why })
    assert.equal("Connection reset by peer", on.closed)
    server:close()
  end)

  it("says so where a name cannot be one", function()
    for _, host in ipairs { ("x"):rep(300), "\255" } do
      local state = {}
      net.serve(function() end, { backplane = require("eventstream.redis").new { host = host,
        on_state = function(_, why) state[1] = why end } })
      net.wait(function() return state[1] end)
      assert.matches("^resolve: ", state[1])
    end
  end)
end)
