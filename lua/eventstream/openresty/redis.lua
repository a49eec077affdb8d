-- Connections to Redis inside nginx, by lua-resty-redis, with the interface of eventstream.hiredis: each is a light
-- thread that sends what was asked meanwhile in one pipeline, and calls back with the replies.
local ngx = require("eventstream.place").nginx
local semaphore = require "ngx.semaphore"

local found, redis = pcall(require, "resty.redis")
if not found then
  found, redis = pcall(require, "nginx.redis") -- Debian's name
end
if not found then error "lua-resty-redis is not there" end

local entries = require "eventstream.redis.entries"

local M = {}

local CONNECT_MS, REPLY_MS = 5000, 15000 -- for a reply: more than a blocked XREAD takes
local PIPELINE = 100

local Connection = {}
Connection.__index = Connection

local function call(fn, ...)
  local ok, failure = pcall(fn, ...)
  if not ok then ngx.log(ngx.ERR, "eventstream: redis: ", failure) end
end

-- As hiredis has it: false for nil, and nil and why for an error.
local function converted(reply, flat)
  if type(reply) == "table" and reply[1] == false then return nil, reply[2] end
  if flat then return entries.flat(reply ~= ngx.null and reply or {}) end
  if reply == ngx.null then return false end
  return reply
end

-- Ends it, once: who waits for a reply is told, and its owner.
local function finish(self, why)
  if self.over then return end
  self.over = true
  for at = self.first, self.last do
    local item = self.queue[at]
    self.queue[at] = nil
    if item then call(item.fn, nil, "closed") end
  end
  call(self.on, "closed", why)
  self.wakeful:post(1)
end

local function run(self)
  local client = redis:new()
  client:set_timeout(CONNECT_MS)
  local ok, why
  if self.port then
    ok, why = client:connect(self.host, self.port)
  else
    ok, why = client:connect("unix:" .. self.host)
  end
  if not ok then return finish(self, why) end
  client:set_timeout(REPLY_MS)
  call(self.on, "connected")
  while not self.over do
    local count = math.min(self.last - self.first + 1, PIPELINE)
    if count == 0 then
      self.wakeful:wait(60)
    else
      local from = self.first
      client:init_pipeline(count)
      for at = from, from + count - 1 do
        local arguments = self.queue[at].arguments
        client[arguments[1]:lower()](client, unpack(arguments, 2))
      end
      local replies
      replies, why = client:commit_pipeline()
      if not replies then
        finish(self, why)
      else
        self.first = from + count
        for i = 1, count do
          local item = self.queue[from + i - 1]
          self.queue[from + i - 1] = nil
          if item then call(item.fn, converted(replies[i], item.flat)) end -- else it was closed meanwhile
        end
      end
    end
  end
  client:close()
end

local beginning = {}

--- Connects: the connection, whose function is called with "connected", or once with "closed" and why.
function M.connect(_, host, port, on)
  local self = setmetatable({ host = host, port = port, on = on, queue = {}, first = 1, last = 0,
    wakeful = semaphore.new(0) }, Connection)
  beginning[#beginning + 1] = self
  return self
end

--- Called in each round of the worker's driver, where threads can be made: callbacks of the core's have no request.
function M.begin()
  for i = 1, #beginning do
    local self = beginning[i]
    beginning[i] = nil
    local ok, why = ngx.timer.at(0, function(premature)
      if premature then return finish(self, "nginx ends") end
      local fine, failure = pcall(run, self)
      if not fine then finish(self, tostring(failure)) end
    end)
    if not ok then finish(self, why) end
  end
end

--- Calls the function, once, with the command's reply; or with nil and why. False where it is closed.
---@param flat boolean? the reply is one to XREAD, and wanted as redis/entries.lua has it
function Connection:command(fn, arguments, flat)
  if self.over then return false end
  self.last = self.last + 1
  self.queue[self.last] = { fn = fn, arguments = arguments, flat = flat }
  self.wakeful:post(1)
  return true
end

--- At once; commands that wait are told "closed".
function Connection:close(why)
  finish(self, why or "closed")
end

return M
