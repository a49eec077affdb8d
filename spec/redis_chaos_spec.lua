--- Several processes, and nginx where it is there, their channels in common by Redis, and everything dies: processes by
-- kill -9, Redis, and the clients' connections, under publishers in all processes. Each client has every event of its
-- channels exactly once and in order. Nothing is told as a gap, as the history has all.
--
-- EVENTSTREAM_SECONDS (20) and EVENTSTREAM_CLIENTS (200) are its size: 120 and 2000 for the whole; from 60 seconds on,
-- Redis stands still in their midst, too. EVENTSTREAM_SEED repeats a run's dice; what the kernel makes of them differs
-- each time.

local houses = require "spec.support.houses"
local process = require "spec.support.process"
local random = require "spec.support.random"
local redis_server = require "spec.support.redis"
local uv = require "luv"

local SECONDS = tonumber(os.getenv "EVENTSTREAM_SECONDS" or 20)
local CLIENTS = tonumber(os.getenv "EVENTSTREAM_CLIENTS" or 200)
local SEED = tonumber(os.getenv "EVENTSTREAM_SEED" or math.floor(uv.hrtime() / 1000) % 1000000)
local PROCESSES, CHANNELS = 4, 10

-- What a process may say of a Redis that is dead, or reads its file.
local REASONS = { "^Connection refused$", "^Connection reset by peer$", "^Server closed the connection$", "^LOADING " }
local STANDS = "^it does not answer$"
local REASONS_NGINX = { "^connection refused$", "^connection reset by peer$", "^broken pipe$", "^closed$",
  "^no such file or directory$", "^LOADING " }

local found = pcall(require, "eventstream.hiredis")
local lua_redis = io.open "/usr/share/lua/5.1/nginx/redis.lua"
if lua_redis then lua_redis:close() end

describe("redis, under chaos #long", function()
  if not found or not redis_server.program then
    pending "needs hiredis and redis-server"
    return
  end

  local draw = random.new(SEED)
  local redis, clients, servers, all, ports, runs, nginx

  -- Not one of those that the kernel gives to who connects: a client would get it while its server is dead, and a
  -- client that connects there then could meet itself.
  local function free_port()
    while true do
      local port, handle = 10000 + draw(20000), uv.new_tcp()
      handle:bind("127.0.0.1", port)
      local fine = handle:listen(1, function() end) -- a port in use is told here
      handle:close()
      uv.run "nowait"
      if fine then return port end
    end
  end

  local function start(i)
    local incarnation = ("p%d.%d"):format(i, #all + 1)
    servers[i] = process.lua { "spec/support/redis_chaos_server.lua", tostring(ports[i]), tostring(redis.port),
      incarnation, tostring(CHANNELS) }
    servers[i].incarnation = incarnation
    all[#all + 1] = servers[i]
  end

  local function wait_for_all()
    for i = 1, PROCESSES do
      if not servers[i].listens then servers[i]:wait_line "^listening$" end
      servers[i].listens = true
    end
  end

  local function kill(i)
    servers[i]:kill "sigkill"
    servers[i]:wait_exit()
    runs.kills = runs.kills + 1
  end

  -- Lets all go on for a while; ends early where the clients do.
  local function go_on(milliseconds)
    local over, timer = false, uv.new_timer()
    timer:start(milliseconds, 0, function() over = true end)
    process.wait(function() return over or clients:exited() end, milliseconds / 1000 + 30, "the next blow")
    timer:close()
    assert(not clients:exited(), "the clients are gone: " .. clients.stdout:sub(-2000) .. clients.stderr)
  end

  -- Its master brings up another one.
  local function kill_worker()
    local master = nginx.process.pid
    local file = assert(io.open(("/proc/%d/task/%d/children"):format(master, master)))
    local worker = tonumber(file:read "*n")
    file:close()
    if worker and uv.kill(worker, "sigkill") then runs.workers = runs.workers + 1 end
  end

  local function bring_down_a_process()
    local i = draw(#ports)
    if i > PROCESSES or nginx and runs.workers == 0 and runs.kills > 0 then return kill_worker() end -- once at least
    kill(i)
    go_on(draw(800))
    start(i)
  end

  local ENDS = { "sigterm", "sigkill" }

  local function bring_down_redis()
    runs.restarts = runs.restarts + 1
    redis.process:kill(ENDS[runs.restarts])
    redis.process:wait_exit()
    go_on(draw(300))
    if runs.restarts % 2 == 0 then bring_down_a_process() end -- one that begins without it
    go_on(draw(500))
    redis:begin()
  end

  -- For longer than anybody waits for it. What was sent to it is still done when it goes on, and was sent again.
  local function hold_up_redis()
    runs.stands = true
    redis:pause()
    go_on(6500)
    redis:resume()
  end

  local function results()
    runs.numbers, runs.failures, runs.gaps = {}, {}, {}
    for _, line in ipairs(clients.lines) do
      local number, data = line:match "^event (%d+) (.*)$"
      if number then runs.numbers[data] = number end
      if line:find "^failure " then runs.failures[#runs.failures + 1] = line end
      if line:find "^gap " then runs.gaps[#runs.gaps + 1] = line end
      if line:find "^sums " then
        runs.line, runs.sums = line, {}
        for key, value in line:gmatch "(%a+)=(%d+)" do runs.sums[key] = tonumber(value) end
      end
    end
  end

  lazy_setup(function()
    io.write(("redis_chaos_spec: seed %d, %g s, %d clients\n"):format(SEED, SECONDS, CLIENTS))
    servers, all, ports, runs = {}, {}, {}, { kills = 0, workers = 0, restarts = 0 }
    for i = 1, PROCESSES do ports[i] = free_port() end
    nginx = houses.nginx(1)
    if nginx.missing or not lua_redis then
      nginx = nil
      redis = redis_server.start("--appendonly yes", free_port())
    else
      nginx:open "redis_chaos_server"
      ports[PROCESSES + 1] = nginx.port -- which its master holds
      redis = redis_server.start(("--appendonly yes --unixsocket %s/redis --unixsocketperm 777"):format(nginx.folder),
        free_port())
    end
    for i = 1, PROCESSES do start(i) end
    wait_for_all()
    local args = { "spec/support/redis_chaos_clients.lua", tostring(SEED), tostring(CLIENTS), tostring(CHANNELS) }
    for _, port in ipairs(ports) do args[#args + 1] = tostring(port) end
    clients = process.lua(args)
    clients:wait_line "^ready$"
    local began = uv.hrtime()
    local function seconds() return (uv.hrtime() - began) / 1e9 end
    while seconds() < SECONDS do
      go_on(draw(2000))
      if seconds() > SECONDS * (runs.restarts + 1) / 3 and runs.restarts < #ENDS then bring_down_redis() end
      if seconds() > SECONDS / 2 and SECONDS >= 60 and not runs.stands then hold_up_redis() end
      bring_down_a_process()
    end
    wait_for_all()
    clients:kill "sigusr1"
    local code = clients:wait_exit(120)
    assert.same({ 0, "" }, { code, clients.stderr })
    results()
    io.write(("  %s kills=%d workers=%d restarts=%d\n"):format(runs.line, runs.kills, runs.workers, runs.restarts))
    for i = 1, PROCESSES do
      servers[i]:kill()
      servers[i]:wait_exit()
    end
    if nginx then nginx:close() end
  end)

  lazy_teardown(function()
    process.kill_all()
    redis_server.finish()
  end)

  it("costs nobody an event, and gives none twice", function()
    assert.same({}, runs.failures)
    assert.equal(0, runs.sums.failures)
  end)

  it("is no reason for a gap, where the history has all", function()
    assert.same({}, runs.gaps)
    assert.equal(0, runs.sums.gaps)
  end)

  -- What processes have printed: calls the function for each line, with what is in it.
  local function each_line(pattern, fn)
    local list = { nginx and nginx.process or nil }
    for _, server in ipairs(all) do list[#list + 1] = server end
    for _, server in ipairs(list) do
      for _, line in ipairs(server.lines) do
        local first, second, third, fourth = line:match(pattern)
        if first then fn(first, second, third, fourth) end
      end
    end
  end

  it("loses nothing that its publisher was told of, nor tells it of another's number", function()
    local wrong, count, in_nginx = {}, 0, 0
    each_line("^told (%S+) (%S+) (%d+) %x+%-(%d+)$", function(incarnation, channel, n, number)
      count = count + 1
      if incarnation:find "^n" then in_nginx = in_nginx + 1 end
      local event = ("%s %s %s"):format(incarnation, channel, n)
      if runs.numbers[event] ~= number and #wrong < 20 then
        wrong[#wrong + 1] = ("%s: told %s, was %s"):format(event, number, runs.numbers[event] or "lost")
      end
    end)
    assert.same({}, wrong)
    assert.is_true(count > SECONDS * PROCESSES)
    assert.is_true(not nginx or in_nginx > SECONDS)
  end)

  it("makes no process say an error", function()
    for _, server in ipairs(all) do assert.equal("", server.stderr) end
    each_line("^(n%d+: .*)$", function(line) assert.equal("", line) end)
    local said = nginx and nginx.process.stderr or ""
    for line in said:gmatch "[^\n]+" do
      assert(not line:find "^n%d+: " and not line:find "eventstream: ", line)
    end
  end)

  it("makes no process leave a Redis that is there", function()
    local wrong = {}
    each_line("^state (%S+) disconnected (.*)$", function(incarnation, why)
      local fine = runs.stands and why:find(STANDS)
      for _, each in ipairs(incarnation:find "^n" and REASONS_NGINX or REASONS) do fine = fine or why:find(each) end
      if not fine then wrong[#wrong + 1] = ("%s: %s"):format(incarnation, why) end
    end)
    assert.same({}, wrong)
  end)

  -- Nothing is proved by clients that were hardly cut.
  it("was one", function()
    local sums = runs.sums
    assert.is_true(sums.cuts > CLIENTS * SECONDS / 20, runs.line)
    assert.is_true(sums.resets > 0 and sums.halves > 0 and sums.moves > CLIENTS, runs.line)
    assert.is_true(sums.events > CLIENTS * SECONDS, runs.line)
    assert.is_true(runs.kills >= SECONDS / 4 and runs.restarts == #ENDS, runs.line)
    assert.is_true(not nginx or runs.workers > 0, runs.line)
  end)
end)
