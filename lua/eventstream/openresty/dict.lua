-- A lua_shared_dict as the log of all of nginx's workers.
--
-- Each event gets the next number, and is kept under it; each worker reads all numbers in their order, and appends what
-- it finds to the logs of its own, from which its streams are served. A number that has no frame yet is waited for: for
-- PATIENCE seconds, after which its worker must have died, and the frame counts as lost, which is told. Nothing is ever
-- stored but by safe_...: the dict drops nothing by itself. Where it is full, the oldest frames are deleted, and the
-- floor rises above them: who has not read them, or comes back for them, is told of a gap.
local M = {}

local ngx = require("eventstream.place").nginx
local ffi = require "ffi"
local members = require "eventstream.members"

pcall(ffi.cdef, "int kill(int pid, int sig);")

local POLL_SECONDS = 0.01  -- while anybody listens
local REST_SECONDS = 0.5   -- else
local PATIENCE = 1
local READ_MAX = 1000      -- frames in a round
local LEASE_SECONDS, LEASE_EVERY = 2, 0.5
local SLOT_SECONDS, SLOT_EVERY, SLOTS = 10, 3, 256
local SHARE = 4            -- a frame may fill this part of the dict

local KINDS = { own = "o", given = "g", none = "n", close = "c", members = "m" }
local NAMES = { o = "own", g = "given", n = "none" }

local Place = {}
Place.__index = Place

--- Makes a new app's place in the dict. Raises, without a position, where the workers would have none in common.
---@param app eventstream.App
---@param options { name: string, prefix: string, required: boolean }
---@return table? place nil where there is no dict, and one worker needs none
function M.attach(app, options)
  local dict = ngx.shared[options.name]
  if not dict then
    local workers = ngx.worker.count()
    if not options.required and workers == 1 then return nil end
    error(("new: nginx has %d workers, which share what is published by a dict: add `lua_shared_dict %s 10m;` to the "
      .. "http block"):format(workers, options.name), 0)
  end
  local prefix = options.prefix .. "\0"
  local self = setmetatable({
    app = app, dict = dict, frame = prefix, head = prefix .. "head", floor = prefix .. "floor",
    lease = prefix .. "lease", slot = prefix .. "slot", member = prefix .. "member", seen = prefix .. "seen",
    excepts = {}, told = {}, marks = {}, met = {}, buried = {}, lease_at = 0, slot_at = 0, pid = ngx.worker.pid(),
  }, Place)
  local drawn = app._core:id(0):match "^(%x+)"
  for key, value in pairs { [prefix .. "epoch"] = drawn, [self.head] = 0, [self.floor] = 1 } do
    local ok, why = dict:safe_add(key, value)
    if not ok and why ~= "exists" then
      error(("new: the shared dict %s has no room for another app (%s): make it larger"):format(options.name, why), 0)
    end
  end
  self.epoch = dict:get(prefix .. "epoch")
  app._core:join(("%s-%d"):format(self.epoch, dict:get(self.head) or 0))
  app._hooks.relay = function(...) return self:relay(...) end
  app._hooks.catch_up = function()
    while self:read() do end
  end
  return self
end

-- --- Writing ---

-- The oldest frame makes room; false where there is none but those behind `number`.
function Place:evict(number)
  local floor = self.dict:get(self.floor)
  if floor >= number then return false end
  self.dict:delete(self.frame .. self.dict:incr(self.floor, 1) - 1)
  return true
end

function Place:store(key, value, seconds)
  local number = self.dict:get(self.head)
  local ok, why = self.dict:safe_set(key, value, seconds or 0)
  while not ok and why == "no memory" and self:evict(number) do
    ok, why = self.dict:safe_set(key, value, seconds or 0)
  end
  return ok, why
end

-- Of a frame, in seconds: the leader deletes it sooner; this is for when the app is served no more. 0: any.
function Place:lifetime()
  local seconds = self.app._hooks.longest_history()
  return seconds and 2 * seconds + 60 or 0
end

-- Appends a record for all workers: its number; or nil and why.
function Place:append(name, kind, packed)
  local record = ("%s%d %d %s%s"):format(KINDS[kind], ngx.now() * 1000, #name, name, packed or "")
  if #record > self.dict:capacity() / SHARE then return nil, "too large for the shared dict" end
  local number, why = self.dict:incr(self.head, 1)
  if not number then return nil, why end
  local ok
  ok, why = self:store(self.frame .. number, record, self:lifetime())
  if ok then return number end
  self:store(self.frame .. number, "x") -- nobody need wait for it
  self:read()
  return nil, why
end

--- What the core calls for each event that is published, and for a channel that is closed: the event's id, or true; or
--- nil and why.
function Place:relay(name, kind, packed, except)
  local number, why = self:append(name, kind, packed)
  if not number then return nil, why end
  if except and self.at then self.excepts[number] = except end
  self:read()
  return kind == "own" and self.app._core:id(number) or true
end

-- --- Reading ---

local function apply(self, number, record)
  local app = self.app
  local kind, time, length, from = record:match "^(%l)(%d*) ?(%d*) ?()"
  if kind == "x" then return app._core:pass(number) end
  local name = record:sub(from, from + length - 1)
  if kind == "m" then
    app._members:touch(name)
    return app._core:pass(number)
  end
  local channel = kind == "c" and app._core:channel(name) or kind ~= "c" and app._hooks.channel("deliver", name)
  if kind ~= "c" then
    channel:_deliver(NAMES[kind], record:sub(from + length), self.excepts[number], number, ngx.now() * 1000 - time)
  elseif channel then
    channel:_end()
  end
  app._core:pass(number)
end

--- Appends what has come, in order.
---@return boolean more
function Place:read()
  if not self.at or self.reading then return false end
  local dict, app = self.dict, self.app
  local head, count = dict:get(self.head) or 0, 0
  self.reading = true
  while self.at < head and count < READ_MAX do
    local number = self.at + 1
    local record = dict:get(self.frame .. number)
    count = count + 1
    if record then
      local ok, failure = pcall(apply, self, number, record)
      self.excepts[number] = nil
      if not ok then
        ngx.log(ngx.ERR, "eventstream: ", failure)
        app._core:lose(number)
      end
      self.at, self.missing = number, nil
    else
      local floor, now = dict:get(self.floor) or 1, ngx.now()
      if self.missing ~= number then self.missing, self.since = number, now end
      if number < floor then
        app._core:lose(floor - 1)
        self.at = floor - 1
      elseif now - self.since >= PATIENCE then
        app._core:lose(number)
        self.at = number
      else
        break
      end
    end
  end
  self.reading = false
  return self.at < head and count == READ_MAX
end

--- Begins in a worker: takes over what the dict holds.
function Place:start()
  local floor = self.dict:get(self.floor)
  self.pid = ngx.worker.pid()
  self.app._core:join(("%s-%d"):format(self.epoch, floor - 1))
  self.at = floor - 1
  while self:read() do end
end

-- --- Which worker runs the app's own intervals ---

function Place:leads() return self.is_leader == true end

function Place:renew(now)
  if now < self.lease_at then return end
  self.lease_at = now + LEASE_EVERY
  local mine = self.dict:get(self.lease) == self.pid
  if ngx.worker.exiting() then
    if mine then self.dict:delete(self.lease) end
    mine = false
  elseif mine then
    mine = self:store(self.lease, self.pid, LEASE_SECONDS)
  else
    mine = self.dict:safe_add(self.lease, self.pid, LEASE_SECONDS)
  end
  self.is_leader = mine and true or false
  if self.is_leader then self:trim(now) end
end

-- The leader deletes what is too old for every channel.
function Place:trim(now)
  local seconds = self.app._hooks.longest_history()
  if not seconds then return end
  local head = self.dict:get(self.head)
  for _ = 1, READ_MAX do
    local floor = self.dict:get(self.floor)
    if floor > head then return end
    local record = self.dict:get(self.frame .. floor)
    local time = record and tonumber(record:match "^%l(%d+)")
    if time and now * 1000 - time <= seconds * 1000 then return end
    if not record and floor >= self.at then return end -- it may still come
    self.dict:delete(self.frame .. self.dict:incr(self.floor, 1) - 1)
  end
end

-- --- Who is there, in all workers ---

local function packed(set)
  local parts = members.sorted(set)
  for i, name in ipairs(parts) do parts[i] = ("%d:%s"):format(#name, name) end
  return table.concat(parts)
end

local function unpack_into(text, from, set)
  while from <= #text do
    local length, start = text:match("^(%d+):()", from)
    set[text:sub(start, start + length - 1)] = true
    from = start + length
  end
end

-- A number of this worker's own, while it lives.
function Place:claim()
  for i = 0, SLOTS - 1 do
    if self.dict:safe_add(self.slot .. i, self.pid, SLOT_SECONDS) then
      if i + 1 > (self.dict:get(self.seen) or 0) then self:store(self.seen, i + 1) end
      self.own_slot = i
      return
    end
  end
end

--- The members of a channel, as this worker knows them, have changed.
function Place:tell_members(name)
  if not self.own_slot then self:claim() end
  if not self.own_slot then return end
  local key = ("%s%d:%s"):format(self.member, self.own_slot, name)
  local set = self.app._members:collect(name, {})
  local text = packed(set)
  local ok = true
  if text ~= "" then
    local why
    ok, why = self:store(key, self.pid .. "\n" .. text, SLOT_SECONDS)
    if not ok then ngx.log(ngx.ERR, "eventstream: the members of a channel do not fit into the shared dict: ", why) end
  else
    self.dict:delete(key)
  end
  if text == self.told[name] or text == "" and self.told[name] == nil then return end
  self.told[name] = text ~= "" and (ok and text or false) or nil -- false: once more
  if self.app._watchers.members then self.marks[name] = true end
end

-- Tells the other workers whose members have changed since the last round.
function Place:mark()
  for name in pairs(self.marks) do
    if not self:append(name, "members") then return end -- in the next round
    self.marks[name] = nil
  end
end

-- A worker that died without a word is there no more, whatever it left.
local function is_alive(pid)
  return ffi.C.kill(pid, 0) == 0 or ffi.errno() ~= 3 -- ESRCH
end

--- Adds the names of the other workers' members.
function Place:collect(name, set)
  local met
  for i = 0, (self.dict:get(self.seen) or 0) - 1 do
    local text = i ~= self.own_slot and self.dict:get(("%s%d:%s"):format(self.member, i, name))
    if text then
      local pid, from = text:match "^(%d+)\n()"
      pid = tonumber(pid)
      if self.dict:get(self.slot .. i) == pid and is_alive(pid) then
        met = true
        unpack_into(text, from, set)
      end
    end
  end
  self.met[name] = met
  return set
end

-- Whether a worker has died since the last time; its slot is there for longer than that.
function Place:missed()
  local missed = false
  for i = 0, (self.dict:get(self.seen) or 0) - 1 do
    local pid = self.dict:get(self.slot .. i)
    if pid and pid ~= self.buried[i] and not is_alive(pid) then missed, self.buried[i] = true, pid end
  end
  return missed
end

function Place:refresh(now)
  if now < self.slot_at then return end
  self.slot_at = now + SLOT_EVERY
  if self.app._watchers.members and self:missed() then
    for name in pairs(self.met) do self.app._members:touch(name) end
  end
  if not self.own_slot then return end
  self:store(self.slot .. self.own_slot, self.pid, SLOT_SECONDS)
  for name in pairs(self.app._members.channels) do self:tell_members(name) end
end

-- --- Rounds ---

--- Does what is due; the seconds until the next time.
function Place:round()
  if not self.at then return REST_SECONDS end
  local now = ngx.now()
  self:mark()
  local more = self:read()
  self:renew(now)
  self:refresh(now)
  if more then return 0 end
  return (self.app._core:busy() or self.missing) and POLL_SECONDS or REST_SECONDS
end

--- The worker is about to end.
function Place:leave()
  self.lease_at = 0
  self:renew(ngx.now())
  self:mark()
  if self.own_slot and self.dict:get(self.slot .. self.own_slot) == self.pid then
    self.dict:delete(self.slot .. self.own_slot)
  end
end

return M
