-- A process' two connections to Redis: one for commands, and one for the reader, which may be blocked. They are made
-- together, cut together, and made again.
local core = require "eventstream.core"
local place = require "eventstream.place"
local scripts = require "eventstream.redis.scripts"
local timer = require "eventstream.timer"

local PATIENCE = 5                       -- seconds for a reply
local AGAIN_SECONDS = { 0.1, 0.5, 1, 2 } -- between two attempts to connect

local LACKS = "redis: it needs hiredis, which was not there when eventstream was built (libhiredis-dev, hiredis-devel)"
local LACKS_NGINX = "redis: inside nginx it needs lua-resty-redis, which was not found"

local M = { PATIENCE = PATIENCE }

local Link = {}
Link.__index = Link

local client

-- Errors that tell of another state of Redis than the connection was made for.
local ANEW = { TERM = true, NOSCRIPT = true, LOADING = true, READONLY = true, MASTERDOWN = true }

--- Whether an error is one after which the link is to be made anew.
function Link.tells_anew(message) return ANEW[message:match "^%-?(%u+)"] or false end

--- Finds what connects; an error where that is missing.
function M.load()
  if client then return end
  local found, module = pcall(require, place.nginx and "eventstream.openresty.redis" or "eventstream.hiredis")
  if not found then error(place.nginx and LACKS_NGINX or LACKS, 0) end
  client = module
end

--- Called in each round of a worker's driver, inside nginx.
function M.begin() client.begin() end

--- Calls on.up(run) when both are there, with what tells this run of Redis from another, and on.down(why) when they
--- are gone, after which each call that waits is told "closed". It is to be begun by link:connect().
function M.new(options, on)
  return setmetatable({ options = options, on = on, attempts = 0, generation = 0, calls = {}, shas = {} }, Link)
end

--- Calls a command of "commands" or "reader". The function is called, once, with the reply, or with nil and why; that
--- is "closed" when the link was cut. Where no reply comes in time, it is cut.
---@param flat boolean? the reply is one to XREAD, and wanted as redis/entries.lua has it
---@param seconds number? beside the usual
function Link:call(which, arguments, fn, flat, seconds)
  local connection = self[which]
  local asked = { due = core.now() + PATIENCE + (seconds or 0) }
  local calls = self.calls
  calls[asked] = true
  local fine = connection and connection:command(function(reply, message)
    calls[asked] = nil
    fn(reply, message)
  end, arguments, flat)
  if not fine then
    calls[asked] = nil
    fn(nil, "closed")
  end
  core.loop.wake()
end

--- Calls a script, by its name.
function Link:script(which, name, keys, arguments, fn)
  local list = { "EVALSHA", self.shas[name], #keys }
  for i, key in ipairs(keys) do list[3 + i] = key end
  for i, argument in ipairs(arguments) do list[3 + #keys + i] = argument end
  self:call(which, list, fn)
end

--- Cuts it; it is made again after a while.
function Link:drop(message)
  message = (message or "closed"):gsub("^TERM ", "")
  local commands, reader = self.commands, self.reader
  self.commands, self.reader, self.calls, self.ready, self.pinged = nil, nil, {}, false, false
  self.generation = self.generation + 1
  if not self.over then self.on.down(message) end
  if commands then commands:close(message) end
  if reader then reader:close(message) end
  if self.over then return end
  self.attempts = self.attempts + 1
  local seconds = AGAIN_SECONDS[math.min(self.attempts, #AGAIN_SECONDS)]
  timer.cancel(self.again)
  self.again = timer.after(seconds * (1 + 0.5 * math.random()), function() self:connect() end)
end

--- For good.
function Link:close()
  self.over = true
  timer.cancel(self.again)
  self:drop "closed"
end

--- Ends the reader's waiting; the function is told whether it waited. Where that is not allowed, it ends by itself.
function Link:unblock(fn)
  self:call("commands", { "CLIENT", "UNBLOCK", self.reader_id }, function(reply, message)
    if message and message ~= "closed" and not self.warned then
      self.warned = true
      place.tell("redis: whoever subscribes waits for up to five seconds: " .. message)
    end
    if fn then fn(reply ~= 0) end
  end)
end

--- Ends the reader: nothing is read any more.
function Link:end_reader()
  local reader = self.reader
  if self.ready then self:unblock() end -- inside nginx its thread is to end, too
  self.reader = nil -- its end is no failure
  if reader then reader:close "closed" end
end

--- Whether a reply is waited for for longer than so many seconds.
function Link:waits(seconds)
  for asked in pairs(self.calls) do
    if core.now() > asked.due - PATIENCE + seconds then return true end
  end
  return false
end

--- Looks whether each reply has come in time, and whether a connection that nobody uses is still there.
function Link:check()
  for asked in pairs(self.calls) do
    if core.now() > asked.due then return self:drop "it does not answer" end
  end
  if self.ready and not self.pinged then
    self.pinged = true
    self:call("commands", { "PING" }, function() self.pinged = false end)
  end
end

-- --- Connecting ---

-- Calls the function with where both are to be connected to: another address each time, where a name has several. It
-- gets nil and why where there is none.
local function find(self, fn)
  local options = self.options
  local host = options.host or "127.0.0.1"
  if options.path or not client.resolve or host:find "^[%d.]+$" or host:find(":", 1, true) then
    return fn(options.path or host)
  end
  local function done(list, why)
    fn(list and list[self.attempts % #list + 1], ("resolve: %s: %s"):format(host, why or "it has no address"))
  end
  local fine, why = pcall(client.resolve, core.loop.pointer(), host, done)
  if not fine then return done(nil, why) end
  core.loop.wake()
end

local function open(self, address, on)
  local port = not self.options.path and (self.options.port or 6379) or nil
  local connection, message = client.connect(core.loop.pointer(), address, port, on)
  core.loop.wake()
  return connection, message
end

function Link:connect()
  if self.over or self.commands or self.finding then return end
  self.finding = true
  find(self, function(address, why)
    self.finding = false
    if self.over then return end
    if address then self:connect_to(address) else self:drop(why) end
  end)
end

function Link:connect_to(address)
  self.generation = self.generation + 1
  local generation, up = self.generation, 0
  local function fail(message)
    if generation == self.generation then self:drop(message) end
  end
  local reader, commands, why
  local function on(what, message)
    if generation ~= self.generation then return end
    if what == "closed" then return fail(message) end
    up = up + 1
    if up == 2 then self:greet(fail) end
  end
  commands, why = open(self, address, on)
  if not commands then return fail(why) end
  self.commands = commands
  reader, why = open(self, address, function(what, message)
    if what == "connected" or self.reader == reader then on(what, message) end -- else it was let go of: no failure
  end)
  if not reader then return fail(why) end
  self.reader = reader
  self.calls = { [{ due = core.now() + PATIENCE }] = "connecting" }
end

-- The run of Redis that this is: of the process, and of the history that it replicates.
local function run_of(info)
  local run, replicated = info:match "run_id:(%x+)", info:match "master_replid:(%x+)"
  return (run or "?") .. "/" .. (replicated or "?")
end

function Link:greet(fail)
  self.calls = {}
  -- Asks one after the other: { which, command..., take = function(reply) }.
  local function each(list, done)
    local i = 0
    local function go(reply, message)
      if message == "closed" then return end
      if message then return fail(message) end
      if i > 0 and list[i].take then list[i].take(reply) end
      i = i + 1
      if not list[i] then return done() end
      self:call(list[i].which, list[i], go)
    end
    go(true)
  end
  local options, list, info = self.options, {}, ""
  for _, which in ipairs { "reader", "commands" } do
    if options.password and options.username then
      list[#list + 1] = { which = which, "AUTH", options.username, options.password }
    elseif options.password then
      list[#list + 1] = { which = which, "AUTH", options.password }
    end
  end
  list[#list + 1] = { which = "reader", "CLIENT", "ID", take = function(reply)
    self.reader_id = ("%.0f"):format(reply)
  end }
  for _, section in ipairs { "server", "replication" } do
    list[#list + 1] = { which = "commands", "INFO", section, take = function(reply) info = info .. reply end }
  end
  for name, text in pairs(scripts) do
    list[#list + 1] = { which = "commands", "SCRIPT", "LOAD", text, take = function(reply) self.shas[name] = reply end }
  end
  each(list, function()
    if info:match "role:slave" then return fail "it is a replica, which takes no events" end
    self.on.up(run_of(info))
  end)
end

--- Both are there, and greeted.
function Link:begun() self.ready = true end

return M
