--- Other programs, for specs: spawned, read line by line, waited for by running luv's loop.
-- Nothing here sleeps. A wait ends when its condition holds, or raises when its watchdog bites, and then shows what
-- the program has printed so far. The server under test may live on the same loop.

local uv = require "luv"

local process = {}

-- Seconds; how long a condition may take on a loaded machine, and under valgrind.
local WATCHDOG = 30 * (tonumber(os.getenv "EVENTSTREAM_PATIENCE") or 1)
local watchdog = uv.new_timer() -- one for all waits: luv 1.44 crashes at lua_close on a handle that is still closing

---@class spec.Process
---@field pid integer
---@field lines string[]   what both outputs printed, line by line, in the order of arrival
---@field stdout string    all of the standard output, as bytes
---@field stderr string    all of the standard error, as bytes
---@field code integer?    exit code, once it has exited
---@field signal integer?  the signal that ended it, or 0
local Process = {}
Process.__index = Process

local running = {} -- every program that has not exited yet

--- Calls `ring` after so many seconds in which this process ran: a machine that stands still for a while must not look
--- like a server that does.
---@param timer userdata  luv's; stopped or closed by whoever does not want to wait any longer
---@param seconds number
---@param ring fun()
function process.countdown(timer, seconds, ring)
  local slice, left = math.ceil(seconds * 100), 10
  timer:start(slice, slice, function()
    left = left - 1
    if left == 0 then ring() end
  end)
end

--- Runs the loop until `condition()` is true, and returns what it returned.
---@param condition fun(): any
---@param timeout? number seconds
---@param what? string|fun(): string  what was awaited, for the error's message
function process.wait(condition, timeout, what)
  local expired = false
  process.countdown(watchdog, timeout or WATCHDOG, function() expired = true end)
  local result = condition()
  while not result and not expired do
    uv.run("once")
    result = condition()
  end
  watchdog:stop()
  if result then return result end
  if type(what) == "function" then what = what() end
  error(("timed out after %g s: waiting for %s"):format(timeout or WATCHDOG, what or "a condition"), 2)
end

--- The interpreter that runs this suite; child scripts must run under the same one.
function process.interpreter()
  if os.getenv "LUA" then return os.getenv "LUA" end
  local program, lowest = nil, 0
  for index, value in pairs(arg or {}) do
    if type(index) == "number" and index < lowest then program, lowest = value, index end
  end
  return program or "lua5.4"
end

--- The full path of a program on PATH, or nil.
function process.find(name)
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = folder .. "/" .. name
    if uv.fs_access(path, "X") then return path end
  end
end

local function environment(changes)
  local variables, list = uv.os_environ(), {}
  for name, value in pairs(changes) do variables[name] = value or nil end
  for name, value in pairs(variables) do list[#list + 1] = name .. "=" .. value end
  return list
end

--- Cuts what arrives in pieces at a byte: `cut(chunk)` calls `found(text)` for all that lies before one.
---@return fun(chunk: string) cut, fun(): string rest
function process.cutter(byte, found)
  local pieces = {}
  local function rest() return table.concat(pieces) end
  return function(chunk)
    local from, at = 1, chunk:find(byte, 1, true)
    while at do
      pieces[#pieces + 1] = chunk:sub(from, at - 1)
      local text = rest()
      pieces = {}
      found(text)
      from = at + 1
      at = chunk:find(byte, from, true)
    end
    pieces[#pieces + 1] = chunk:sub(from)
  end, rest
end

local function collect(self, pipe, output)
  local function keep(line) self.lines[#self.lines + 1] = line end
  local cut, rest = process.cutter("\n", keep)
  self.reading = self.reading + 1
  pipe:read_start(function(_, chunk)
    if chunk then
      self[output] = self[output] .. chunk
      return cut(chunk)
    end
    if rest() ~= "" then keep(rest()) end -- end of file, or an error that is one to us
    self.reading = self.reading - 1
    pipe:close()
  end)
end

--- Starts a program. Its standard input is empty.
---@param command string             looked up on PATH
---@param args? string[]
---@param env? table<string, string|false>  changes to this process's own environment; false removes
---@param descriptors? integer[]     further descriptors that the program gets as 3, 4, ...
---@return spec.Process
function process.spawn(command, args, env, descriptors)
  local self = { command = command, lines = {}, seen = 0, stdout = "", stderr = "", reading = 0 }
  setmetatable(self, Process)
  local out, err = uv.new_pipe(false), uv.new_pipe(false)
  local stdio = { nil, out, err }
  for index, descriptor in ipairs(descriptors or {}) do stdio[3 + index] = descriptor end
  local options = { args = args, env = environment(env or {}), stdio = stdio }
  local handle, pid = uv.spawn(command, options, function(code, signal)
    self.code, self.signal = code, signal
    running[self] = nil
    self.handle:close()
  end)
  if not handle then
    out:close()
    err:close()
    error(("spawn %s: %s"):format(command, pid), 2)
  end
  self.handle, self.pid = handle, pid
  running[self] = true
  collect(self, out, "stdout")
  collect(self, err, "stderr")
  return self
end

--- Starts a Lua script under the suite's own interpreter: `process.lua({ "examples/ping.lua" }, { PORT = "0" })`.
---@param args string[]
---@param env? table<string, string|false>
---@return spec.Process
function process.lua(args, env)
  return process.spawn(process.interpreter(), args, env)
end

--- The same on one core, where there are several: a server and its clients that are measured share none, whatever the
--- scheduler thinks of two processes that talk.
---@param core integer from 0
function process.lua_on(core, args, env)
  if not process.find "taskset" or #uv.cpu_info() <= core then return process.lua(args, env) end
  local all = { "-c", tostring(core), process.interpreter() }
  for _, each in ipairs(args) do all[#all + 1] = each end
  return process.spawn("taskset", all, env)
end

--- Ends what a failed test left running; for `after_each` and `teardown`.
function process.kill_all()
  for self in pairs(running) do
    self:kill "sigkill"
    self:wait_exit()
  end
end

local function story(self, what)
  return function()
    local state = self.code and ("exit %d, signal %d"):format(self.code, self.signal) or "running"
    local printed = table.concat(self.lines, "\n  ")
    return ("%s of %s (%s), which printed:\n  %s"):format(what, self.command, state, printed)
  end
end

function Process:exited() return self.code ~= nil and self.reading == 0 end

--- Waits for the next line that matches, on either output; lines before it are passed over.
---@return string ...  the pattern's captures, or the line
function Process:wait_line(pattern, timeout)
  local line
  local function found()
    while self.seen < #self.lines do
      self.seen = self.seen + 1
      if self.lines[self.seen]:find(pattern) then
        line = self.lines[self.seen]
        return true
      end
    end
  end
  local what = story(self, ("a line like %q"):format(pattern))
  process.wait(function() return found() or self:exited() end, timeout, what)
  if line then return line:match(pattern) end
  error("exited without " .. what(), 2)
end

---@param signal? string|integer  default "sigterm"
function Process:kill(signal)
  if not self.code then self.handle:kill(signal or "sigterm") end
end

--- Waits for its exit and the end of its output.
---@return integer code, integer signal
function Process:wait_exit(timeout)
  process.wait(function() return self:exited() end, timeout, story(self, "the exit"))
  return self.code, self.signal
end

return process
