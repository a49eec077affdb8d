--- eventstream.redis: apps that have their channels in common by a real Redis, which comes late, dies, forgets.

local cable = require "spec.support.cable"
local core = require "eventstream.core"
local eventstream = require "eventstream"
local houses = require "spec.support.houses"
local net = require "spec.support.net"
local path = require "spec.support.path"
local random = require "spec.support.random"
local redis_apps = require "spec.support.redis_apps"
local redis_server = require "spec.support.redis"

local found = pcall(require, "eventstream.hiredis")
local lua_redis = io.open "/usr/share/lua/5.1/nginx/redis.lua"
if lua_redis then lua_redis:close() end

describe("eventstream.redis", function()
  if not found or not redis_server.program then
    pending "needs hiredis and redis-server"
    return
  end

  local serve, connected, join, publish = redis_apps.serve, redis_apps.connected, redis_apps.join, redis_apps.publish
  local server

  setup(redis_apps.warm_up)
  after_each(redis_apps.finish)

  describe("brings what is published anywhere to every subscriber", function()
    it("everywhere, once, in one order", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local two, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a, b = join(port_one, "a,b"), join(port_two, "a,b")
      local wanted = {}
      for i = 1, 50 do
        wanted[i] = tostring(i)
        publish(i % 2 == 0 and one or two, i % 3 == 0 and "a" or "b", i)
      end
      a.has((unpack or table.unpack)(wanted))
      b.has((unpack or table.unpack)(wanted))
      assert.same({ a.events() }, { b.events() })
      assert.equal(a.last, b.last)
    end)

    it("at once, however many are under way", function()
      server = redis_server.start()
      local one, _, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local client = join(port_two, "a")
      local wanted = {}
      for i = 1, 500 do
        wanted[i] = tostring(i)
        assert.is_true(one:channel("a"):publish(i))
      end
      client.has((unpack or table.unpack)(wanted))
    end)

    it("but for the one that is left out, and not those that want no id", function()
      server = redis_server.start()
      local app, port, state = serve()
      local _, port_two, state_two = serve()
      connected(state)
      connected(state_two)
      local a, b, c = join(port, "a"), join(port, "a"), join(port_two, "a")
      local first = app:channel("a"):streams()[1]
      app:channel("a"):publish("x", { except = first })
      app:channel("a"):publish { id = false, data = "live" }
      app:channel("a"):publish "y"
      c.has("x", "live", "y")
      net.wait(function() return #a.events() + #b.events() == 5 end)
      assert.same({ "live", "y" }, #a.events() == 2 and a.events() or b.events())
      join(port_two, "a", c.last:gsub("%d+$", "0")).has("x", "y")
    end)

    it("of all channels, also where one step of Redis' wakes for one of them only", function()
      server = redis_server.start()
      local one, _, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local client, wanted = join(port_two, "a,b,c"), {}
      for round = 1, 20 do
        for i = 1, 20 do
          local number = #wanted + 1
          wanted[number] = tostring(number)
          one:channel(("abc"):sub(i % 3 + 1, i % 3 + 1)):publish(number)
        end
        net.wait(function() return #client.events() >= round * 20 - 19 end, nil, 25) -- in the midst of it
      end
      client.has((unpack or table.unpack)(wanted))
    end)

    it("with one question to Redis for a small event that comes alone", function()
      server = redis_server.start()
      local app, port, state = serve()
      local _, port_two, state_two = serve()
      connected(state)
      connected(state_two)
      local one, two = join(port, "a"), join(port_two, "a,b")
      local wanted = {}
      local function lone(data)
        wanted[#wanted + 1] = data
        app:channel("a"):publish(data)
        one.has((unpack or table.unpack)(wanted))
        two.has((unpack or table.unpack)(wanted))
      end
      local function reads(size)
        for i = 1, 5 do lone(("%d%s"):format(i, ("x"):rep(size))) end -- each process waits for the news again
        server:ask("CONFIG", "RESETSTAT")
        for i = 6, 25 do lone(("%d%s"):format(i, ("x"):rep(size))) end
        return tonumber(server:ask("INFO", "commandstats"):match "cmdstat_xread:calls=(%d+)")
      end
      local few, many = reads(1), reads(5000)
      assert.is_true(few <= 42, few)
      assert.is_true(many > 60, many) -- they are in their streams only
    end)

    it("in one order, small or large, alone or together, with an id or without", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local draw, wanted, sent = random.new(11), {}, 0
      local a, b = join(port_one, "a,b,c"), join(port_two, "c,a,b")
      while sent < 400 do
        local burst, done = draw(3) == 1 and draw(12) or 1, 0
        for _ = 1, burst do
          sent = sent + 1
          local size = ({ 0, 0, 0, 600, 1500, 3000 })[draw(6)]
          local data = sent .. ("x"):rep(size)
          wanted[sent] = data
          local channel = one:channel(({ "a", "b", "c" })[draw(3)])
          local event = { data = data }
          if draw(5) == 1 then event.id = false end
          channel:publish(event, function(_, why)
            assert(not why, why)
            done = done + 1
          end)
        end
        if draw(2) == 1 then net.wait(function() return done == burst end, "publish", 25) end
      end
      a.has((unpack or table.unpack)(wanted))
      b.has((unpack or table.unpack)(wanted))
    end)

    it("to who listens, whatever is kept", function()
      server = redis_server.start()
      local channels = { none = { history = 0 }, small = { history = 3 } }
      local one, port_one, state_one = serve { channels = channels }
      local _, port_two, state_two = serve { channels = channels }
      connected(state_one)
      connected(state_two)
      local client, quiet = join(port_two, "none"), join(port_two, "quiet")
      local wanted = {}
      for i = 1, 30 do
        wanted[i] = tostring(i)
        one:channel("none"):publish(i)
      end
      client.has((unpack or table.unpack)(wanted))
      assert.same({}, quiet.events()) -- and no gap

      local first = join(port_one, "small").leave()
      publish(one, "small", "kept")
      for i = 1, 5 do publish(one, "small", { id = false, data = i }) end
      join(port_two, "small", first).has "kept"
    end)

    it("and what was published before a channel is closed", function()
      server = redis_server.start()
      local one, _, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local client, wanted = join(port_two, "a"), {}
      for i = 1, 20 do
        wanted[i] = tostring(i)
        one:channel("a"):publish(i)
      end
      one:channel("a"):close()
      client.has((unpack or table.unpack)(wanted))
      net.wait(function() return client.client.ended end)
      publish(one, "a", "anew")
      join(port_two, "a", client.last).has("gap a", "anew")
    end)

    it("and closes a channel for all", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local two, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a, b = join(port_one, "a"), join(port_two, "a")
      publish(one, "a", "x")
      a.has "x"
      b.has "x"
      two:channel("a"):close()
      net.wait(function() return a.client.ended and b.client.ended end)
      join(port_one, "a", a.last).has "gap a"
    end)
  end)

  describe("resumes", function()
    it("anywhere, several channels by one id, without a hole", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a = join(port_one, "a,b")
      publish(one, "a", "a1")
      publish(one, "b", "b1")
      a.has("a1", "b1")
      local id = a.leave()
      publish(one, "b", "b2")
      publish(one, "c", "other")
      publish(one, "a", "a2")
      local b = join(port_two, "a,b", id).has("b2", "a2") -- which that one has never read
      publish(one, "a", "a3")
      b.has("b2", "a2", "a3")
      join(port_one, "a,b", b.leave()).has()
    end)

    it("one who comes from a process that was ahead", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a, quiet = join(port_one, "a"), join(port_two, "quiet")
      for i = 1, 5 do publish(one, "a", i) end
      a.has("1", "2", "3", "4", "5")
      join(port_two, "quiet", a.last).has() -- no event of its own has told that one of these numbers
      quiet.leave()
    end)

    it("and tells of what is gone: by the limit, or with its channel", function()
      server = redis_server.start()
      local options = { channels = { small = { history = 2 }, short = { history_seconds = 0.2 } } }
      local one, port_one, state_one = serve { channels = options.channels }
      local _, port_two, state_two = serve { channels = options.channels }
      connected(state_one)
      connected(state_two)
      local a = join(port_one, "small,short")
      publish(one, "short", "s")
      for i = 1, 3 do publish(one, "small", i) end
      a.has("s", "1", "2", "3")
      local first = a.last:gsub("%d+$", "0")
      join(port_two, "small", first).has("gap small", "2", "3")
      local old = false
      one:after(0.3, function() old = true end)
      net.wait(function() return old end)
      join(port_two, "short", first).has "gap short"
      join(port_two, "never", first).has()
    end)

    it("within what a script gives as ids", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      for i = 1, 3 do assert.equal("own" .. i, publish(one, "a", { id = "own" .. i, data = i })) end
      join(port_two, "a", "own1").has("2", "3")
      join(port_one, "a", "own9").has("gap a", "1", "2", "3")
    end)
  end)

  describe("when Redis", function()
    it("is not there at first, the app serves, and connects later", function()
      local port = require("spec.support.houses").free_port()
      local app, own, state = serve({ port = port }, function(a) a:get("/x", function() return "served" end) end)
      net.wait(function() return state[1] end)
      assert.matches("^disconnected: Connection refused", state[1])
      local status, _, body = net.connect(own):get("/x"):take()
      assert.same({ 200, "served" }, { status, body })
      app:channel("a"):publish "kept"
      server = redis_server.start("", port)
      connected(state)
      join(own, "a", "0000000000000000-0").has("gap a", "kept")
    end)

    it("is known by a name, which is looked up while the app serves", function()
      server = redis_server.start()
      local _, _, state = serve { host = "localhost" } -- which may have addresses where nobody listens
      net.wait(function() return state[#state] == "connected" end, function() return table.concat(state, "; ") end)
      local _, own, lost = serve({ host = "nowhere.invalid" }, function(a)
        a:get("/x", function() return "served" end)
      end)
      assert.equal(200, (net.connect(own):get("/x"):take()))
      net.wait(function() return lost[1] end, nil, 30)
      assert.matches("^disconnected: resolve: nowhere.invalid: ", lost[1])
    end)

    it("is away, what is published waits up to a limit, and is then refused", function()
      server = redis_server.start "--appendonly yes"
      local app, port, state = serve { waiting = 3 }
      connected(state)
      local client = join(port, "a")
      server:kill()
      net.wait(function() return state[#state]:find "^disconnected" end)
      for i = 1, 3 do assert.is_true(app:channel("a"):publish(i)) end
      local function backplane()
        local stats = app:stats()
        return { stats.backplane_connected, stats.backplane_waiting, stats.backplane_connects }
      end
      assert.same({ 0, 3, 1 }, backplane())
      local id, why = app:channel("a"):publish(4)
      assert.is_nil(id)
      assert.matches("^too much waits: redis is away: ", why)
      server:begin()
      connected(state)
      client.has("1", "2", "3")
      publish(app, "a", 5)
      client.has("1", "2", "3", "5")
      assert.same({ 1, 0, 2 }, backplane())
      assert.matches("\neventstream_backplane_connected 1\n", eventstream.metrics(app))
    end)

    it("comes back with all that it had, nothing is missed, and ids are good", function()
      server = redis_server.start "--appendonly yes"
      local one, port_one, state_one = serve()
      local two, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a = join(port_one, "a")
      publish(one, "a", 1)
      a.has "1"
      local id = a.last
      publish(one, "a", 2)
      server:kill()
      net.wait(function() return state_one[#state_one]:find "^disc" and state_two[#state_two]:find "^disc" end)
      two:channel("a"):publish(3)
      server:begin()
      connected(state_one)
      connected(state_two)
      a.has("1", "2", "3")
      assert.not_equal(id:match "^%x+", a.last:match "^%x+") -- another term
      join(port_two, "a", id).has("2", "3")
      join(port_two, "a", a.last).has()
    end)

    it("comes back with nothing, that is told, and no id is taken for another", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local _, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a = join(port_one, "a")
      for i = 1, 3 do publish(one, "a", i) end
      a.has("1", "2", "3")
      local id = a.last
      server:kill()
      net.wait(function() return state_one[#state_one]:find "^disc" and state_two[#state_two]:find "^disc" end)
      server:begin()
      connected(state_one)
      connected(state_two)
      for i = 4, 9 do publish(one, "a", i) end
      a.has("1", "2", "3", "gap a", "4", "5", "6", "7", "8", "9")
      join(port_two, "a", id).has("gap a", "4", "5", "6", "7", "8", "9")
    end)

    it("comes back with nothing, that is told whoever is the first to come back", function()
      server = redis_server.start()
      local one, port_one, state_one = serve { waiting = 2 }
      connected(state_one)
      local a = join(port_one, "a")
      for i = 1, 3 do publish(one, "a", i) end
      a.has("1", "2", "3")
      server:ask "FLUSHALL"
      local _, _, state_two = serve() -- which knows of nothing
      connected(state_two)
      server:kill()
      net.wait(function() return state_one[#state_one]:find "^disc" end)
      for i = 4, 5 do assert.is_true(one:channel("a"):publish(i)) end -- and no more waits
      server:begin()
      connected(state_one)
      a.has("1", "2", "3", "gap a", "4", "5")
    end)

    it("loses all that it has while everybody is connected, that is told, and ids are the same everywhere", function()
      server = redis_server.start()
      local one, port_one, state_one = serve()
      local two, port_two, state_two = serve()
      connected(state_one)
      connected(state_two)
      local a, b = join(port_one, "a"), join(port_two, "a")
      for i = 1, 3 do publish(one, "a", i) end
      a.has("1", "2", "3")
      b.has("1", "2", "3")
      server:ask "FLUSHALL"
      publish(one, "a", 4)
      local id = publish(one, "a", 5)
      for _, client in ipairs { a, b } do client.has("1", "2", "3", "gap a", "4", "5") end
      assert.equal(id, a.last)
      assert.equal(id, b.last)
      id = publish(two, "a", 6)
      for _, client in ipairs { a, b } do client.has("1", "2", "3", "gap a", "4", "5", "6") end
      assert.equal(id, a.last)
      assert.equal(id, b.last)
      join(port_two, "a", a.last).has()
      for _, state in ipairs { state_one, state_two } do
        assert.equal("disconnected: another term has begun", state[#state - 1])
        assert.equal("connected", state[#state])
      end
    end)

    it("forgets its scripts, nobody waits for ever", function()
      server = redis_server.start()
      local app, port, state = serve()
      connected(state)
      server:ask("SCRIPT", "FLUSH")
      local client = join(port, "a")
      publish(app, "a", "x")
      client.has "x"
    end)

    it("is away while the app closes, what waits has its time, and is told then", function()
      server = redis_server.start "--appendonly yes"
      local one, _, state = serve()
      local other, port_other, state_other = serve()
      connected(state)
      connected(state_other)
      local client = join(port_other, "a")
      server:kill()
      net.wait(function() return state[#state]:find "^disc" and state_other[#state_other]:find "^disc" end)
      local told = {}
      for i = 1, 5 do one:channel("a"):publish(i, function(id, why) told[i] = id or why end) end
      one:close { grace = 0 }
      server:begin()
      client.has("1", "2", "3", "4", "5")
      net.wait(function() return #told == 5 end)
      assert.matches("^%x+%-%d+$", told[5])

      local third, _, state_third = serve() -- whose connection is cut while it waits for its last answers
      connected(state_third)
      server:pause()
      for i = 6, 8 do third:channel("a"):publish(i) end
      third:close { grace = 0 }
      server:resume()
      server:kill()
      net.wait(function() return state_other[#state_other]:find "^disc" end)
      server:begin()
      connected(state_other)
      client.has("1", "2", "3", "4", "5", "6", "7", "8")

      server:kill()
      net.wait(function() return state_other[#state_other]:find "^disc" end)
      other:channel("a"):publish("lost", function(_, why) told = why end)
      other:close { grace = 0 }
      net.wait(function() return told == "closed" end, nil, 20)
    end)

    for what, stop in pairs {
      ["is away"] = function(state)
        server:kill()
        net.wait(function() return state[#state]:find "^disc" end)
      end,
      ["stands still"] = function() server:pause() end,
    } do
      it(what .. " while the app closes, who waits for an answer gets one before the grace is over", function()
        server = redis_server.start()
        local app, port, state = serve({}, function(a)
          a:post("/", function()
            local id, why = eventstream.await(function(resume) a:channel("a"):publish("x", resume) end)
            return id and 200 or 503, why
          end)
        end)
        connected(state)
        stop(state)
        local client = net.connect(port):request("POST", "/", { "Content-Length: 0" })
        net.wait(function() return app:stats().requests == 1 end)
        app:close { grace = 3 }
        app:close { grace = 20 } -- which makes it no longer
        client:wait_end()
        assert.matches("^HTTP/1.1 503 .*\r\n\r\nclosed", client.received)
      end)
    end

    it("stands still for a moment, everybody waits", function()
      server = redis_server.start()
      local app, port, state = serve()
      connected(state)
      local client = join(port, "a")
      server:pause()
      app:channel("a"):publish "x"
      local fired = false
      app:after(1, function() fired = true end)
      net.wait(function() return fired end)
      local before = #client.events()
      server:resume()
      client.has "x"
      assert.equal(0, before)
      assert.equal(1, #state) -- nothing was cut
    end)

    it("stands still for longer than anybody waits, what was sent is done once", function()
      server = redis_server.start()
      local app, port, state = serve()
      connected(state)
      local client = join(port, "a")
      publish(app, "a", "before")
      server:pause()
      app:channel("a"):publish "sent" -- it is done when Redis goes on, and was sent again by then
      net.wait(function() return state[2] end, "a process that does not wait any longer", 20)
      assert.equal("disconnected: it does not answer", state[2])
      app:channel("a"):publish "waits"
      server:resume()
      connected(state)
      publish(app, "a", "after")
      client.has("before", "sent", "waits", "after")
    end)

    it("is slow, and answers in pieces: what is published goes along together, and nobody else waits", function()
      server = redis_server.start()
      local draw = random.new(7)
      local far = path.lay(server.port, 150, function(size) return math.min(size, draw(300)) end).port
      local app, port, state = serve({ port = far }, function(a) a:get("/x", function() return "served" end) end)
      connected(state)
      local client = join(port, "a")
      local function scripts()
        return tonumber(server:ask("INFO", "commandstats"):match "cmdstat_evalsha:calls=(%d+)")
      end
      local before, wanted, answered = scripts(), {}, 0
      for i = 1, 300 do
        wanted[i] = ("%d %s"):format(i, ("x"):rep(i))
        app:channel("a"):publish(wanted[i], function(id) answered = answered + (id and 1 or 0) end)
      end
      local own = net.connect(port):get "/x"
      assert.equal(200, (own:take()))
      assert.equal(0, answered) -- that did not wait for Redis
      net.wait(function() return answered == 300 end, function() return answered .. " of 300 answers" end, 25)
      client.has((unpack or table.unpack)(wanted))
      assert.equal(1, #state, table.concat(state, "; ")) -- nothing was cut
      assert(scripts() - before < 20, scripts() - before)
    end)

    it("has no memory left, who publishes is told", function()
      server = redis_server.start "--maxmemory 2mb --maxmemory-policy noeviction"
      local app, port, state = serve()
      connected(state)
      local client = join(port, "a")
      local refused
      for _ = 1, 60 do
        local id, why = publish(app, "a", ("x"):rep(50000))
        if not id then
          refused = why
          break
        end
      end
      assert.matches("OOM", refused)
      assert.is_true(#client.events() > 0)
      assert.equal("connected", state[#state])
    end)

    it("wants another password, that is said, and the app serves", function()
      server = redis_server.start "--requirepass right"
      local _, port, state = serve({ password = "wrong" }, function(a) a:get("/x", function() return "served" end) end)
      net.wait(function() return state[1] end)
      assert.matches("^disconnected: WRONGPASS", state[1])
      assert.equal(200, (net.connect(port):get("/x"):take()))
      local other, _, fine = serve { password = "right" }
      connected(fine)
      assert.matches("^%x+%-%d+$", publish(other, "a", "x"))
    end)

    it("is a replica, no event is sent there", function()
      server = redis_server.start()
      local replica = redis_server.start("--replicaof 127.0.0.1 " .. server.port)
      local _, _, state = serve { port = replica.port }
      net.wait(function() return state[1] end)
      assert.equal("disconnected: it is a replica, which takes no events", state[1])
      replica:ask("REPLICAOF", "NO", "ONE") -- it takes over
      connected(state)
    end)

    it("fails over to a replica that lags, what that has not is told", function()
      server = redis_server.start()
      local replica = redis_server.start("--replicaof 127.0.0.1 " .. server.port)
      local one, port_one, state_one = serve { port = server.port }
      local two, port_two, state_two = serve { port = server.port }
      connected(state_one)
      connected(state_two)
      local a = join(port_one, "a")
      for i = 1, 3 do publish(one, "a", i) end
      a.has("1", "2", "3")
      local kept = a.last
      net.wait(function() return replica:ask("XLEN", "eventstream:channel:a") == "3" end)
      replica:ask("REPLICAOF", "NO", "ONE") -- as if the line to it were cut
      for i = 4, 5 do publish(one, "a", i) end
      a.has("1", "2", "3", "4", "5")
      local lost = a.last
      server:kill()
      net.wait(function() return state_one[#state_one]:find "^disc" and state_two[#state_two]:find "^disc" end)
      replica:ask("CONFIG", "SET", "port", tostring(server.port)) -- where the other one was
      connected(state_one)
      connected(state_two)
      publish(two, "a", 6)
      net.wait(function() -- in whichever order the processes came back
        local list = " " .. table.concat(a.events(), " ") .. " "
        return list:find(" gap a ", 1, true) and list:find(" 6 ", 1, true)
      end, function() return "a gap and 6; there is: " .. table.concat(a.events(), " ") end, 25)
      join(port_two, "a", kept).has("gap a", "6") -- 4 and 5 are gone
      join(port_two, "a", lost).has("gap a", "1", "2", "3", "6")
    end)

    it("hangs up without a word, that is noticed", function()
      server = redis_server.start "--appendonly yes"
      local app, port, state = serve()
      connected(state)
      local client = join(port, "a")
      server:ask("CLIENT", "KILL", "TYPE", "normal")
      net.wait(function() return state[2] end)
      connected(state)
      publish(app, "a", "x")
      client.has "x"
    end)
  end)

  describe("behind a cable that is cut #long", function()
    local impossible

    lazy_setup(function()
      local ok, why = cable.lay()
      if not ok then impossible = why end
    end)

    lazy_teardown(function()
      if not impossible then cable.remove() end
    end)

    it("notices, keeps what is published, and brings it when the cable is mended", function()
      if impossible then return pending(impossible) end
      local far = cable.client.silent
      server = redis_server.start("--bind " .. far .. " --protected-mode no", nil, "ip netns exec " .. cable.space)
      local app, port, state = serve { host = far }
      local other, port_other, state_other = serve { host = far }
      connected(state)
      connected(state_other)
      local a, b = join(port, "a"), join(port_other, "a")
      publish(app, "a", "before")
      a.has "before"
      b.has "before"
      cable.cut "silent" -- nothing is refused or reset: packets vanish
      app:channel("a"):publish "meanwhile"
      net.wait(function() return #state > 1 and #state_other > 1 end, "both to notice", 30)
      assert.equal("disconnected: it does not answer", state[2])
      other:channel("a"):publish "other"
      cable.mend()
      net.wait(function() return state[#state] == "connected" and state_other[#state_other] == "connected" end, nil, 60)
      net.wait(function() return #a.events() == 3 and #b.events() == 3 end, nil, 30)
      local got = a.events()
      assert.same(got, b.events())
      table.sort(got)
      assert.same({ "before", "meanwhile", "other" }, got)
    end)
  end)

  describe("inside nginx", function()
    local house

    after_each(function()
      if house then house:close() end
      house = nil
    end)

    it("serves the same channels as processes, in each worker", function()
      house = houses.nginx(2)
      if house.missing or not lua_redis then return pending(house.missing or "lua-resty-redis is not installed") end
      house:start "redis_nginx_app"
      server = redis_server.start("--unixsocket " .. house.folder .. "/redis --unixsocketperm 777")
      house:wait_workers()
      local app, port, state = serve()
      connected(state)
      local function post(text)
        local client = net.connect(house.port)
        client:request("POST", "/publish?to=a", {}, text)
        local status, _, body = client:take()
        client:close()
        assert.equal(200, status, body)
        return body
      end
      local there, workers = {}, {}
      net.wait(function() -- in both workers
        local client = join(house.port, "a")
        there[#there + 1] = client
        workers[client.client.received:match "X%-Worker: (%d+)"] = true
        return next(workers, (next(workers))) ~= nil
      end, nil, 30)
      local here = join(port, "a")
      assert.matches("^%x+%-%d+$", post "from nginx")
      publish(app, "a", "from a process")
      here.has("from nginx", "from a process")
      for _, client in ipairs(there) do client.has("from nginx", "from a process") end
      local id = here.leave()
      publish(app, "a", "meanwhile")
      join(house.port, "a", id).has "meanwhile"
      id = there[1].has("from nginx", "from a process", "meanwhile").leave()
      post "more"
      join(port, "a", id).has "more"
      for i = 2, #there do there[i].leave() end
      local function unblocked()
        return tonumber(server:ask("INFO", "commandstats"):match "client|unblock:calls=(%d+)" or 0)
      end
      local before = unblocked()
      assert.equal(0, house:close())
      house = nil
      assert.equal(2, unblocked() - before) -- else each would wait for its reader's next news
    end)
  end)

  it("counts subscribers everywhere, and forgets those of the dead", function()
    server = redis_server.start()
    local one, port_one, state_one = serve()
    local two, port_two, state_two = serve()
    connected(state_one)
    connected(state_two)
    local function total(app)
      local count, asked
      net.wait(function()
        if not asked then
          asked = true
          app:channel("a"):subscribers_total(function(n, why)
            count, asked = n or why, false
          end)
        end
        return count
      end)
      return count
    end
    local function becomes(app, wanted)
      local last
      net.wait(function()
        last = total(app)
        return last == wanted
      end, function() return wanted .. " subscribers; there are " .. tostring(last) end, 25)
    end
    local here, there = join(port_one, "a"), { join(port_two, "a"), join(port_two, "a") }
    becomes(one, 3)
    becomes(two, 3)
    assert.equal(1, one:channel("a").subscribers)
    here.leave()
    becomes(two, 2)
    there[1].leave()
    becomes(one, 1)
    for node in server:ask("ZRANGE", "eventstream:nodes", "0", "-1"):gmatch "%x+" do -- as if nothing was heard of them
      server:ask("ZADD", "eventstream:nodes", "1", node)
    end
    assert.equal(0, total(one))
    server:kill()
    net.wait(function() return state_one[#state_one]:find "^disconnected" end)
    local told
    one:channel("a"):subscribers_total(function(...) told = { ... } end)
    net.wait(function() return told end)
    assert.is_nil(told[1])
    assert.matches("^redis is away: ", told[2])
  end)

  it("knows the names of those who are there, everywhere", function()
    server = redis_server.start()
    local function define(app)
      app:stream("/as/:name", function(stream, request) stream:subscribe("a", { member = request.params.name }) end)
    end
    local one, port_one, state_one = serve({}, define)
    local two, port_two, state_two = serve({}, define)
    connected(state_one)
    connected(state_two)
    local function there(app, names)
      net.wait(function() return table.concat(app:channel("a"):members(), " ") == names end, function()
        return names .. "; there are: " .. table.concat(app:channel("a"):members(), " ")
      end, 25)
    end
    local function come(port, name) return net.connect(port):get("/as/" .. name) end
    local ada = come(port_one, "Ada")
    come(port_two, "Bob")
    come(port_two, "Cyd")
    there(one, "Ada Bob Cyd")
    there(two, "Ada Bob Cyd")
    ada:close()
    there(two, "Bob Cyd")
    local three, port_three, state_three = serve({}, define)
    connected(state_three)
    come(port_three, "Eve") -- which learns of the others when it begins to read
    there(three, "Bob Cyd Eve")
    there(one, "Bob Cyd Eve")
    two:close { grace = 0 }
    there(three, "Eve")
  end)

  it("tells everybody who is there, also of those who come at the same moment, and of who dies", function()
    server = redis_server.start()
    local function define(app)
      app:stream("/:room/:name", function(stream, request)
        stream:subscribe(request.params.room, { member = request.params.name })
      end)
      app:on_members(function(channel)
        for _, stream in ipairs(channel:streams()) do
          stream:send { event = "here", data = table.concat(channel:members(), " ") }
        end
      end)
    end
    local one, port_one, state_one = serve({}, define)
    local _, port_two, state_two = serve({}, define)
    local three, port_three, state_three = serve({}, define)
    for _, state in ipairs { state_one, state_two, state_three } do connected(state) end
    local clients = {}
    for room = 1, 20 do
      for i, port in ipairs { port_one, port_two, port_three } do
        clients[#clients + 1] = net.connect(port):get(("/r%d/N%d"):format(room, i))
      end
    end
    local function newest(client) return client.received:match ".*\ndata: ([^\n]*)\n" end
    net.wait(function()
      for _, client in ipairs(clients) do
        if newest(client) ~= "N1 N2 N3" then return false end
      end
      return true
    end, "everybody's names", 25)

    local told, why
    three:channel("elsewhere"):members(function() end)
    one:channel("r1"):members(function(names, message) told, why = names, message end)
    net.wait(function() return told or why end)
    assert.same({ "N1", "N2", "N3" }, told)
    for i = 2, 3 do clients[i]:close() end
    net.wait(function() return newest(clients[1]) == "N1" end, "the names that are left", 25)
    told = nil
    net.wait(function() -- asked where nobody is subscribed
      if not told then
        told = {}
        three:channel("r1"):members(function(names) told = names end)
      end
      if table.concat(told, " ") == "N1" then return true end
      if told[1] then told = nil end
    end, "the names, from elsewhere", 25)

    local dead = "0123456789abcdef" -- a process that says no more
    server:ask("ZADD", "eventstream:nodes", tostring(os.time() + 2), dead)
    one._place.presence:take("r2", dead, "Zoe")
    net.wait(function() return newest(clients[4]) == "N1 N2 N3 Zoe" end, "the dead one's name")
    net.wait(function() return newest(clients[4]) == "N1 N2 N3" end, "its end", 25)
  end)

  it("leaves nothing in Redis for ever of who was there, should nobody ask", function()
    server = redis_server.start()
    local app, port, state = serve({}, function(app)
      app:stream("/as/:name", function(stream, request) stream:subscribe("a", { member = request.params.name }) end)
    end)
    connected(state)
    net.connect(port):get "/as/Ada"
    local function live(seconds)
      for _, key in ipairs { "eventstream:presence:a", "eventstream:members:a" } do
        local left
        net.wait(function()
          left = tonumber(server:ask("TTL", key))
          return left > seconds and left <= 3600
        end, function() return key .. " lives for " .. left end)
      end
    end
    live(3000)
    for _, what in ipairs { "presence", "members" } do
      server:ask("EXPIRE", "eventstream:" .. what .. ":a", "1000")
      app._place.presence.renewed[what].a = core.now() - 1201
    end
    live(3000)
    assert.equal("Ada", server:ask("HVALS", "eventstream:members:a"))
  end)

  it("has what was published before the app is closed", function()
    server = redis_server.start()
    local one, port_one, state_one = serve()
    local _, port_two, state_two = serve()
    connected(state_one)
    connected(state_two)
    local client, own = join(port_two, "a"), join(port_one, "a")
    own.leave()
    for i = 1, 500 do one:channel("a"):publish(i) end
    one:close { grace = 0 }
    net.wait(function() return #client.events() == 500 end, function() return #client.events() end)
  end)

  it("sends the head at once, however long Redis takes", function()
    local _, own, state = serve { port = 1 }
    net.wait(function() return state[1] end)
    local client = net.connect(own):get "/?to=a"
    client:wait "HTTP/1.1 200 OK\r\n"
  end)

  it("refuses what is none", function()
    for wrong, message in pairs {
      ["new { prot = 1 }"] = "redis: unknown option 'prot' (did you mean 'port'?)",
      ["new { port = 'x' }"] = "redis: port must be a whole number from 1 to 65535, not 'x'",
      ["new { port = 0 }"] = "redis: port must be a whole number from 1 to 65535, not 0",
      ["new { host = '' }"] = "redis: host must be a string that is not empty, not ''",
      ["new { prefix = '' }"] = "redis: prefix must be a string that is not empty, not ''",
      ["new { path = '/x', port = 1 }"] = "redis: give a path, or host and port",
      ["new { username = 'x' }"] = "redis: a username needs a password",
    } do
      local ok, told = pcall(assert((loadstring or load)("require 'eventstream.redis'." .. wrong, "=script")))
      assert.is_false(ok)
      assert.equal("script:1: " .. message, told)
    end
  end)
end)
