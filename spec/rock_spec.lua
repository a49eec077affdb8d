-- The rock as a user gets it: installed into an empty tree and used from there, with the work tree out of sight.

local process = require "spec.support.process"
local uv = require "luv"

local lua_version = _VERSION:match "%d%.%d"

-- What make and the suite say to their children would leak into the rock's own build.
local clean = {
  LUA = false, LUA_PATH = false, LUA_CPATH = false,
  MAKEFLAGS = false, MFLAGS = false, MAKELEVEL = false, MAKEOVERRIDES = false,
}

local function run(command, env)
  local child = process.spawn("sh", { "-c", command }, env or clean)
  assert.equal(0, (child:wait_exit(120)), table.concat(child.lines, "\n"))
  return child.stdout
end

local function luarocks(arguments)
  return run(("luarocks --lua-version %s %s"):format(lua_version, arguments))
end

local function files(folder)
  local found = {}
  for path in run(("find %s -type f"):format(folder)):gmatch "[^\n]+" do found[#found + 1] = path end
  table.sort(found)
  return found
end

describe("rock", function()
  for _, needed in ipairs { "luarocks", "curl", "nm" } do
    if not process.find(needed) then return pending(needed .. " is not installed") end
  end

  local tree, elsewhere

  setup(function()
    tree = assert(uv.fs_mkdtemp "/tmp/eventstream-rock-XXXXXX")
    elsewhere = assert(uv.fs_mkdtemp "/tmp/eventstream-cwd-XXXXXX")
    luarocks("make --deps-mode none --tree " .. tree)
  end)

  teardown(function()
    process.kill_all()
    run(("rm -rf %s %s"):format(tree, elsewhere))
  end)

  --- Starts Lua in an empty folder, with the tree before the system's own rock folders on its paths.
  local function lua(arguments)
    local env = {
      PORT = "0",
      LUA_PATH = ("%s/share/lua/%s/?.lua;;"):format(tree, lua_version),
      LUA_CPATH = ("%s/lib/lua/%s/?.so;;"):format(tree, lua_version),
    }
    local command = ('cd %s && exec "%s" %s'):format(elsewhere, process.interpreter(), arguments)
    return process.spawn("sh", { "-c", command }, env)
  end

  it("is found in the tree, whole", function()
    local child = lua [[-e '
      local eventstream = require "eventstream"
      local function find(name, path) -- as package.searchpath does, which Lua 5.1 has not
        for template in path:gmatch "[^;]+" do
          local found = template:gsub("?", (name:gsub("%.", "/")))
          if io.open(found) then return found end
        end
      end
      print(find("eventstream", package.path), find("eventstream.core", package.cpath))
      print(eventstream._VERSION)']]
    assert.equal(0, (child:wait_exit()), child.stderr)
    local script, module = child.lines[1]:match "^(%S+)%s+(%S+)$"
    assert.equal(tree, script:sub(1, #tree))
    assert.equal(tree, module:sub(1, #tree))
  end)

  it("exports its luaopen functions and nothing else", function()
    local names = run(("nm -D --defined-only %s/lib/lua/%s/eventstream/*.so"):format(tree, lua_version))
    local seen = 0
    for name in names:gmatch "%S+ %a (%S+)\n" do
      assert.matches("^luaopen_eventstream_", name)
      seen = seen + 1
    end
    assert.is_true(seen > 0, names)
  end)

  it("runs its examples", function()
    local folder = ("%s/lib/luarocks/rocks-%s/eventstream/scm-1/examples"):format(tree, lua_version)
    local ran = 0
    for _, example in ipairs(files(folder)) do
      if example:match "/signed%.lua$" then -- needs more than the rock, and says what
        local server = lua(example)
        assert.equal(1, (server:wait_exit()))
        assert(server.stderr:find "util%.jwt" or server.stderr:find "SECRET", server.stderr)
      elseif example:match "%.lua$" then
        local server = lua(example)
        local url = server:wait_line "listening on (http://%S+)"
        run("curl --silent --head " .. url) -- answered: its loop runs, and heeds signals
        if example:match "/ping%.lua$" then
          local client = process.spawn("curl", { "--silent", "--no-buffer", url .. "sse" })
          client:wait_line "^event: ping$"
          client:kill()
          client:wait_exit()
        end
        server:kill "sigterm"
        assert.same({ 0, 0 }, { server:wait_exit() })
        ran = ran + 1
      end
    end
    assert.is_true(ran > 0)
  end)

  it("brings the command", function()
    local env = { -- without its dependencies' mode the wrapper would set these itself
      LUA_PATH = ("%s/share/lua/%s/?.lua;;"):format(tree, lua_version),
      LUA_CPATH = ("%s/lib/lua/%s/?.so;;"):format(tree, lua_version),
    }
    local function command(arguments)
      local line = ("cd %s && exec %s/bin/eventstream %s"):format(elsewhere, tree, arguments)
      return process.spawn("sh", { "-c", line }, env)
    end
    local child = command "--version"
    assert.equal(0, (child:wait_exit()), child.stderr)
    assert.equal("eventstream " .. require("eventstream")._VERSION .. "\n", child.stdout)
    local example = ("%s/lib/luarocks/rocks-%s/eventstream/scm-1/examples/ping.lua"):format(tree, lua_version)
    for _, watch in ipairs { "", "--watch" } do
      local server = command(("%s --port 0 %s"):format(watch, example))
      local port = server:wait_line "listening on http://127%.0%.0%.1:(%d+)/"
      local tail = command(("tail --json --count 1 http://127.0.0.1:%s/sse"):format(port))
      assert.equal(0, (tail:wait_exit()), tail.stderr)
      assert.matches('^{"event":', tail.stdout)
      server:kill "sigterm"
      assert.same({ 0, 0 }, { server:wait_exit() })
    end
  end)

  it("leaves nothing when it is removed", function()
    luarocks("remove --tree " .. tree .. " eventstream")
    local left = files(tree)
    assert.same({ ("%s/lib/luarocks/rocks-%s/manifest"):format(tree, lua_version) }, left) -- the tree's own, now empty
  end)
end)
