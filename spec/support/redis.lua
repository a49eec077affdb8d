--- Redis servers for specs: real ones, each with a folder and a port of its own.

local uv = require "luv"
local houses = require "spec.support.houses"
local process = require "spec.support.process"

local M = { program = process.find "redis-server" }
local folders, running = {}, {}

local Server = {}
Server.__index = Server

--- Starts one, and waits until it takes commands. A text of options is as on its command line.
---@param options string?
---@param port integer? of one that was there before
---@param behind string? a command that runs it: "ip netns exec SPACE"
function M.start(options, port, behind)
  port = port or houses.free_port()
  local self = setmetatable({ options = options or "", port = port, behind = behind or "" }, Server)
  self.folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/redis-XXXXXX"))
  folders[self.folder] = true
  M.newest = self
  self:begin()
  return self
end

function Server:begin()
  local line = ("exec %s redis-server --port %d --dir %s --save '' %s"):format(self.behind, self.port, self.folder,
    self.options)
  self.process = process.spawn("sh", { "-c", line })
  running[self] = true
  self.process:wait_line "Ready to accept connections"
end

--- kill -9.
function Server:kill()
  self.process:kill "sigkill"
  self.process:wait_exit()
  running[self] = nil
end

--- Stands still; goes on.
function Server:pause() self.process:kill "sigstop" end
function Server:resume() self.process:kill "sigcont" end

--- What redis-cli says.
function Server:ask(...)
  local child = process.spawn("redis-cli", { "-p", tostring(self.port), ... })
  assert(child:wait_exit() == 0, child.stderr)
  return (child.stdout:gsub("\n$", ""))
end

function M.finish()
  for server in pairs(running) do
    server:resume()
    server:kill()
  end
  for folder in pairs(folders) do process.spawn("rm", { "-rf", folder }):wait_exit() end
  folders = {}
end

return M
