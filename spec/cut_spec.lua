--- The test that matters: clients are cut at random moments and come back with their last id, under a running
-- publisher. Each has every event exactly once and in order, or was told of a gap.
--
-- Both tests run at once, against one server, for EVENTSTREAM_SECONDS (60). EVENTSTREAM_SEED repeats a run's dice;
-- what the kernel makes of them differs each time.

local process = require "spec.support.process"
local uv = require "luv"

local SECONDS = tonumber(os.getenv "EVENTSTREAM_SECONDS" or 60)
local SEED = tonumber(os.getenv "EVENTSTREAM_SEED" or math.floor(uv.hrtime() / 1000) % 1000000)
local CLIENTS = 200

local KEEPS, LOSES = { "one-kept", "five-kept" }, { "one-lost", "five-lost" }

-- What a process of clients printed at its end: numbers by room.
local function results(child)
  local rooms, failures = {}, {}
  for _, line in ipairs(child.lines) do
    if line:find "^failure " then failures[#failures + 1] = line end
    local name, rest = line:match "^(%a+%-%a+) (.*)$"
    if name then
      rooms[name] = {}
      for key, value in rest:gmatch "(%a+)=(%d+)" do rooms[name][key] = tonumber(value) end
    end
  end
  return rooms, failures
end

describe("random cuts #long", function()
  local server, runs

  -- All rooms at once, so that the minute is spent once.
  lazy_setup(function()
    io.write(("cut_spec: seed %d, %g s\n"):format(SEED, SECONDS))
    server = process.lua { "spec/support/cut_server.lua" }
    local port = server:wait_line "^port (%d+)$"
    local child = process.lua { "spec/support/cut_clients.lua", port, tostring(SEED), tostring(SECONDS),
      tostring(CLIENTS), KEEPS[1], KEEPS[2], LOSES[1], LOSES[2] }
    local code = child:wait_exit(SECONDS + 120)
    local rooms, failures = results(child)
    assert.same({ 0, "" }, { code, child.stderr })
    assert.equal("", server.stderr)
    runs = { rooms = rooms, failures = failures, all = table.concat(child.lines, "\n") }
    io.write("  ", (runs.all:gsub("\n", "\n  ")), "\n")
  end)

  lazy_teardown(process.kill_all)

  local function failures_of(name)
    local found = {}
    for _, failure in ipairs(runs.failures) do
      if failure:find("failure " .. name, 1, true) then found[#found + 1] = failure end
    end
    return found
  end

  -- Nothing is proved by clients that were hardly cut.
  local function assert_cut(room)
    assert.is_true(room.cuts > CLIENTS * SECONDS / 10, "too few cuts: " .. runs.all)
    assert.is_true(room.resets > 0 and room.halves > 0 and room.events > CLIENTS * SECONDS, runs.all)
  end

  for _, name in ipairs(KEEPS) do
    it(("cost nobody an event, and tell no gap, where the history holds all: %s"):format(name), function()
      assert.same({}, failures_of(name))
      assert.equal(0, runs.rooms[name].gaps)
      assert_cut(runs.rooms[name])
    end)
  end

  for _, name in ipairs(LOSES) do
    it(("cost nobody an event in silence, where the history is small: %s"):format(name), function()
      assert.same({}, failures_of(name))
      assert_cut(runs.rooms[name])
      assert.is_true(runs.rooms[name].needed > 0, "no client missed anything: " .. runs.all)
    end)
  end

  it("end with everyone having the last event of each channel", function()
    assert.same({}, runs.failures)
    assert.is_truthy(runs.all:find("failures 0", 1, true), runs.all)
  end)
end)
