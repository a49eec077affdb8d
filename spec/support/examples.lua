--- Examples as a newcomer meets them: run as they stand, seen by the curl lines of their head comments, ended by
-- Ctrl-C.

local assert = require "luassert"
local process = require "spec.support.process"
local reader = require "spec.support.reader"

local M = {}

function M.contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

--- Runs an example on a port of its own, server.port (a string), and waits until it listens.
---@param name string
---@param ... string  its arguments
---@return spec.Process server
function M.start(name, ...)
  local args = { "examples/" .. name, ... }
  if os.getenv "ASAN_OPTIONS" then -- the sanitizer's runtime is for Lua, not for the programs that an example starts
    table.insert(args, 1, "-e")
    table.insert(args, 2, 'require "luv".os_unsetenv "LD_PRELOAD"')
  end
  local server = process.lua(args, { PORT = "0" })
  local by
  server.name, by, server.port = name, server:wait_line "^(.-)listening on http://127%.0%.0%.1:(%d+)/"
  server.greeting = by == "" and "" or server.lines[server.seen] .. "\n" -- app:serve tells it on the standard error
  return server
end

-- Runs the head comment's curl line that begins with that option, up to two spaces, with the port that this run has.
local function run(server, option, options, changes)
  local line = M.contents("examples/" .. server.name):match("%f[%w]curl (%-" .. option .. " [^\n]*)")
  line = line:match "^(.-)%s%s" or line
  for pattern, other in pairs(changes or {}) do line = line:gsub(pattern, other) end
  line = line:gsub("%f[%w]8080%f[%W]", server.port)
  local command = ("exec curl -sS --noproxy '*' --max-time 60 %s %s"):format(options or "", line)
  return process.spawn("sh", { "-c", command })
end

--- Runs the curl -N line that the example's comment shows.
---@param server spec.Process
---@param options? string  more of them, as a shell takes them
---@param changes? table<string, string>  patterns in that line, and what stands there instead
---@return spec.Process client
function M.curl(server, options, changes)
  return run(server, "N", options, changes)
end

local function answer(client)
  assert.equal(0, client:wait_exit(), client.stderr)
  local body, status = client.stdout:match "^(.*)\n(%d+)$"
  return tonumber(status), body
end

--- Runs the curl -d line of the comment to its end.
---@return integer status, string body
function M.post(server, changes)
  return answer(run(server, "d", "-w '\\n%{http_code}'", changes))
end

--- One request by curl, which may have further options.
---@param path string
---@param ... string
---@return integer status, string body
function M.ask(server, path, ...)
  local url = ("http://127.0.0.1:%s%s"):format(server.port, path)
  return answer(process.spawn("curl", { "-sS", "--noproxy", "*", "-w", "\n%{http_code}", url, ... }))
end

--- What an EventSource would have dispatched of a curl -N so far.
---@return spec.Message[]
function M.events(client)
  return (reader.read(client.stdout))
end

local function so_far(client)
  return ("; so far: ...\n%s%s"):format(client.stdout:sub(-1000), client.stderr)
end

--- The next event that has all of these fields; events before it are passed over.
---@param client spec.Process
---@param fields table<string, string>  of type, data and last_event_id
---@return spec.Message
function M.wait_event(client, fields)
  client.passed = client.passed or 0
  local function look()
    local events = M.events(client)
    while client.passed < #events do
      client.passed = client.passed + 1
      local event, matches = events[client.passed], true
      for name, value in pairs(fields) do matches = matches and event[name] == value end
      if matches then return event end
    end
  end
  local function story()
    local wanted = {}
    for name, value in pairs(fields) do wanted[#wanted + 1] = ("%s = %q"):format(name, value) end
    return ("an event with %s%s"):format(table.concat(wanted, ", "), so_far(client))
  end
  local event
  process.wait(function()
    event = look()
    return event or client:exited()
  end, nil, story)
  return event or error("the stream ended without " .. story(), 2)
end

--- Waits until there are so many events in all, and returns them.
---@param client spec.Process
---@param count integer
---@return spec.Message[]
function M.wait_events(client, count)
  local function story() return ("%d events%s"):format(count, so_far(client)) end
  local events
  process.wait(function()
    events = M.events(client)
    return #events >= count or client:exited()
  end, nil, story)
  return #events >= count and events or error("the stream ended without " .. story(), 2)
end

--- Ctrl-C, which must end it well, and without an error told.
---@param talks? boolean  programs of its own may have written to the standard error
function M.interrupt(server, talks)
  server:kill "sigint"
  local code, signal = server:wait_exit()
  assert.same({ 0, 0 }, { code, signal }, table.concat(server.lines, "\n"))
  if not talks then assert.equal(server.greeting, server.stderr) end
end

return M
