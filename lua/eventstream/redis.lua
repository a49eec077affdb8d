--- eventstream.redis: a backplane for apps in several processes, on one machine or many, by Redis and its streams.
---
--- A channel is a Redis stream. A script appends an event and gives it its number, one for the whole prefix, in one
--- step. A process reads the channels that it has subscribers for: a channel's history first, then, with one XREAD over
--- all of them, what is new, into the same logs as ever. So what a client resumes from is its process' own log.
---
--- Positions are those of a history whose newest part Redis may lose. Each run of Redis, or of a replica that takes
--- over, begins a term, with a nonce of its own and numbers above all that were. An id names the term in which it was
--- written, and stands for its position if that lies within what the next term has of it; else a gap is told.
local channels = require "eventstream.channels"
local check = require "eventstream.check"
local core = require "eventstream.core"
local place = require "eventstream.place"
local scripts = require "eventstream.redis_scripts"

local M = {}

local BLOCK_MS = 5000        -- of an XREAD
local PATIENCE = 5           -- seconds for a reply, beside that
local AGAIN_SECONDS = { 0.1, 0.5, 1, 2 } -- between two attempts to connect
local LEAP = 2 ^ 20          -- numbers that a term leaps ahead, and has for each second since 1970
local TERMS = 64             -- that are remembered
local NODE_SECONDS = 15      -- a process that was not heard of for so long is dead
local IDLE_SECONDS = 30      -- a channel without subscribers is read so much longer
local NAMES = 100000         -- channels whose last number is remembered
local NO_LIMIT_MS = 0
local BATCH, BATCH_BYTES = 500, 1048576 -- events that one script appends

local IS_EVENT = { own = true, given = true, none = true } -- the rest tells processes of something

-- Errors that tell of another state of Redis than the connection was made for.
local ANEW = { TERM = true, NOSCRIPT = true, LOADING = true, READONLY = true, MASTERDOWN = true }

-- A timer that needs no app, which may be closed.
local function after(seconds, fn)
  local timer = core.source(1, fn)
  timer:wait(seconds)
  return timer
end

local function cancel(timer)
  if timer then pcall(timer.stop, timer) end -- at a process' end the loop may be gone
end

local Backplane = {}
Backplane.__index = Backplane

local Place = {}
Place.__index = Place

local OPTIONS = {
  host = check.string, port = check.port, path = check.path, username = check.string, password = check.string,
  prefix = check.string, waiting = check.whole(0), waiting_bytes = check.whole(0),
  on_state = check.callable,
}

---@class eventstream.RedisOptions
---@field host string? default "127.0.0.1"
---@field port integer? default 6379
---@field path string? a Unix socket, in the place of both
---@field username string?
---@field password string?
---@field prefix string? of all keys; default "eventstream"
---@field waiting integer? events that are kept while Redis is away; default 10000
---@field waiting_bytes integer? of theirs; default 16777216
---@field on_state fun(state: "connected"|"disconnected", message: string?)? default: told to the operator

local hiredis

local LACKS = "redis: it needs hiredis, which was not there when eventstream was built (libhiredis-dev, hiredis-devel)"
local LACKS_NGINX = "redis: inside nginx it needs lua-resty-redis, which was not found"

local function load_client()
  if hiredis then return end
  local found, module = pcall(require, place.nginx and "eventstream.openresty.redis" or "eventstream.hiredis")
  if not found then error(place.nginx and LACKS_NGINX or LACKS, 0) end
  hiredis = module
end

local function new(options)
  options = check.options("redis", options, OPTIONS)
  if options.path and (options.host or options.port) then error("redis: give a path, or host and port", 0) end
  load_client()
  return setmetatable({ options = options, prefix = options.prefix or "eventstream" }, Backplane)
end

--- A backplane for eventstream.new. It connects by itself, and again when it is cut; nothing is asked of Redis before
--- the app is made.
---@param options eventstream.RedisOptions?
function M.new(options)
  return (check.call(new, options))
end

-- --- A place of an app ---

local function now() return core.now() end

--- Called by eventstream.new.
function Backplane:attach(app)
  if self.app then error("new: a backplane is for one app; make another one", 0) end
  self.app = app
  local token = core.handover.draw()
  local place_ = setmetatable({
    app = app, backplane = self, options = self.options, most = self.options.waiting or 10000,
    most_bytes = self.options.waiting_bytes or 16777216, token = token, count = 0, waiting = {}, first = 1, last = 0,
    bytes = 0, bounds = {}, others = {}, reading = {}, wanted = {}, waiters = {}, excepts = {},
    windows = setmetatable({}, { __mode = "k" }),
    attempts = 0, terms = {}, known = 0, sent = 0, epoch = token, state = "disconnected",
  }, Place)
  for key, name in pairs { state = "state", channels = "channels", done = "done", control = "control",
    nodes = "nodes" } do
    place_[key .. "_key"] = self.prefix .. ":" .. name
  end
  app._core:join(token .. "-0")
  app._hooks.relay = function(...) return place_:relay(...) end
  app._hooks.prepare = function(...) return place_:prepare(...) end
  app._hooks.total = function(...) return place_:total(...) end
  place_.timer = after(1, function() place_:tick() end)
  place_.again = after(0, function() place_:connect() end)
  return place_
end

function Place:key(channel) return self.backplane.prefix .. ":channel:" .. channel end
function Place:live_key(channel) return self.backplane.prefix .. ":live:" .. channel end

function Place:tell(state, message)
  if self.state == state and self.told == message then return end
  self.state, self.told = state, message
  if self.options.on_state then return self.options.on_state(state, message) end
  if state == "disconnected" then place.tell("redis: " .. message) else place.tell "redis: connected" end
end

-- Calls a command of one of the two connections; cuts that connection where no reply comes in time.
function Place:call(connection, seconds, arguments, fn)
  local asked = { due = now() + seconds }
  local calls = self.calls[connection]
  calls[asked] = true
  local fine = connection:command(function(reply, message)
    calls[asked] = nil
    fn(reply, message)
  end, arguments)
  if not fine then
    calls[asked] = nil
    fn(nil, "closed")
  end
  core.loop.wake()
end

-- --- Connecting ---

function Place:drop(message)
  local commands, reader = self.commands, self.reader
  self.commands, self.reader, self.ready, self.blocked, self.blocking = nil, nil, false, false, false
  self.generation, self.busy, self.pinged, self.sending = (self.generation or 0) + 1, false, false, false
  if self.under_way then -- they wait on, for the next connection's
    for _, resume in ipairs(self.under_way) do self.waiters[#self.waiters + 1] = resume end
    self.under_way, self.lapsed = nil, true
  end
  if commands then commands:close(message) end
  if reader then reader:close(message) end
  if self.dead then return end
  if not self.over then self:tell("disconnected", message) end
  self.sent = self.first - 1 -- they are sent again: what was done already is found out
  local seconds = AGAIN_SECONDS[math.min(self.attempts + 1, #AGAIN_SECONDS)]
  self.attempts = self.attempts + 1
  cancel(self.again)
  self.again = after(seconds * (1 + 0.5 * math.random()), function() self:connect() end)
end

local function open(self, on)
  local options = self.options
  local loop = core.loop.pointer()
  local connection, message
  if options.path then
    connection, message = hiredis.connect(loop, options.path, nil, on)
  else
    connection, message = hiredis.connect(loop, options.host or "127.0.0.1", options.port or 6379, on)
  end
  core.loop.wake()
  return connection, message
end

function Place:connect()
  if self.dead or self.commands then return end
  self.calls = {}
  self.generation = (self.generation or 0) + 1
  local generation = self.generation
  local up = 0
  local function fail(message)
    if generation == self.generation and message ~= "closed" then self:drop(message) end -- else the cause is told next
  end
  local reader, why, commands
  local function on(what, message)
    if generation ~= self.generation then return end
    if what == "closed" then return fail(message) end
    up = up + 1
    if up == 2 then self:greet(fail) end
  end
  commands, why = open(self, on)
  if not commands then return fail(why) end
  self.commands = commands
  reader, why = open(self, function(what, message)
    if what == "connected" or self.reader == reader then on(what, message) end -- else it was let go of: no failure
  end)
  if not reader then return fail(why) end
  self.reader = reader
  self.calls = { [commands] = { [{ due = now() + PATIENCE }] = "connecting" }, [reader] = {} }
end

-- The run of Redis that this is: of the process, and of the history that it replicates.
local function run_of(info)
  local run, replicated = info:match "run_id:(%x+)", info:match "master_replid:(%x+)"
  return (run or "?") .. "/" .. (replicated or "?")
end

function Place:greet(fail)
  local options, commands, reader = self.options, self.commands, self.reader
  self.calls[commands] = {}
  local function each(connection, list, done)
    local i = 0
    local function go(reply, message)
      if message then return fail(message) end
      if i > 0 and list[i].take then list[i].take(reply) end
      i = i + 1
      if not list[i] then return done() end
      self:call(connection, PATIENCE, list[i], go)
    end
    go(true)
  end
  local auth = options.password and { "AUTH", options.password } or nil
  if auth and options.username then auth = { "AUTH", options.username, options.password } end
  local first, second = {}, {}
  if auth then first[1], second[1] = auth, auth end
  local info = ""
  first[#first + 1] = { "INFO", "server", take = function(reply) info = info .. reply end }
  first[#first + 1] = { "INFO", "replication", take = function(reply) info = info .. reply end }
  for name, text in pairs(scripts) do
    first[#first + 1] = { "SCRIPT", "LOAD", text, take = function(reply) self[name .. "_sha"] = reply end }
  end
  second[#second + 1] = { "CLIENT", "ID", take = function(reply) self.reader_id = ("%.0f"):format(reply) end }
  each(reader, second, function()
    each(commands, first, function()
      if info:match "role:slave" then return fail "it is a replica, which takes no events" end
      self.run = run_of(info)
      if not self.over then self.known = math.max(self.known, core.handover.sequence(self.app._core)) end
      self:call(commands, PATIENCE, { "EVALSHA", self.hello_sha, 1, self.state_key, self.run, core.handover.draw(),
        ("%.0f"):format(LEAP), TERMS, ("%.0f"):format(self.known) }, function(reply, message)
          if not reply then return fail(message) end
          self.skew = tonumber(reply[4]) - os.time() * 1000
          self:greeted(tonumber(reply[1]), reply[2], reply[3] == 1)
        end)
    end)
  end)
end

-- The terms: which ones there were, and up to which number the next one has each.
function Place:take_terms(text)
  self.terms = {}
  for nonce, stop in text:gmatch "(%x+):?(%d*)" do
    self.terms[nonce] = stop ~= "" and tonumber(stop) or math.huge
    self.epoch = nonce
  end
  core.handover.set_epoch(self.app._core, self.epoch .. "-0")
end

function Place:greeted(number, terms, lost)
  self.attempts = 0
  local begun, old, known = self.begun, self.epoch, self.known
  self.ready = true
  if self.over then return self:flush() end
  self:take_terms(terms)
  self.begun = true
  if begun then -- whoever began the term may have known less than this process
    lost = lost or not self.terms[old] or known > self.terms[old]
    self.lapsed = true -- what was read already may have holes
    for name in pairs(self.app._members.channels) do self:tell_members(name) end -- Redis may have forgotten them
  else
    self.app._core:pass(number) -- before anybody subscribed: nothing of that is ours
  end
  if lost and begun then self:announce_loss() end
  self.heard = nil
  for _, read in pairs(self.reading) do read.told = nil end
  self:tell "connected"
  self:tell_counts()
  self:flush()
  self:read()
end

-- --- Publishing ---

-- What waits is sent, in order, and forgotten when Redis has answered. While an answer is waited for, what is published
-- meanwhile gathers: load makes it cheaper.
function Place:flush()
  if not self.ready or self.sending or self.sent >= self.last then return end
  local generation = self.generation
  local arguments = { "EVALSHA", self.publish_sha, 4, self.state_key, self.channels_key,
    self.done_key .. ":" .. self.token, self.control_key, self.run, self.token, NAMES, self.backplane.prefix }
  local from, size, n = self.sent + 1, 0, #arguments
  while self.sent < self.last and self.sent - from + 1 < BATCH and size < BATCH_BYTES do
    self.sent = self.sent + 1
    local item = self.waiting[self.sent]
    arguments[n + 1], arguments[n + 2], arguments[n + 3] = ("%.0f"):format(item.count), item.name, item.kind
    arguments[n + 4], arguments[n + 5], arguments[n + 6] = item.packed, item.bounds.history, item.bounds.milliseconds
    n, size = n + 6, size + #item.packed
  end
  local to = self.sent
  self.sending = true
  self:call(self.commands, PATIENCE, arguments, function(replies, message)
    if generation ~= self.generation or not replies and message == "closed" then return end
    if not replies and ANEW[message:match "^%u+"] then return self:drop(message) end
    self.sending = false
    local answered = replies and #replies or to - from + 1
    if from + answered <= to then self.sent = from + answered - 1 end -- behind one that failed: they are sent again
    for at = from, from + answered - 1 do
      local reply = replies and replies[at - from + 1] or "!" .. message
      self:published(at, tonumber(reply), reply:match "^!(.*)")
    end
    self:flush()
  end)
end

-- Calls a function of the script's; its error is reported.
function Place:call_back(fn, value, message)
  local function trace(failure) return { tostring(failure), debug.traceback("", 2) } end
  local ok, failure = xpcall(function() fn(value, message) end, trace)
  if not ok then self.app._hooks.report(failure[1], failure[2]) end
end

function Place:published(at, number, message)
  local item = self.waiting[at]
  self.waiting[at] = nil
  self.bytes = self.bytes - #item.packed
  while self.first <= self.last and not self.waiting[self.first] do self.first = self.first + 1 end
  if self.first > self.last then self.first, self.last, self.sent = 1, 0, 0 end
  if number then self.known = math.max(self.known, number) end
  if not number or not self.reading[item.name] then self.excepts[item.count] = nil end
  if self.drained and self.first > self.last then after(0, self.drained) end
  if not item.callback then
    if not number then place.tell(("redis: an event of %s is lost: %s"):format(item.name, message)) end
    return
  end
  local id = item.given or item.kind == "none" or ("%s-%.0f"):format(self.epoch, number or 0)
  self:call_back(item.callback, number and id or nil, message)
end

--- What the core calls for each event that is published, and for a channel that is closed.
function Place:relay(name, kind, packed, except, callback, given)
  if self.over then return nil, "closed" end
  packed = packed or ""
  if IS_EVENT[kind] and (self.last - self.first + 1 >= self.most or self.bytes + #packed > self.most_bytes) then
    local why = ("redis is %s, and too much waits for it"):format(self.ready and "slow" or "away")
    if callback then after(0, function() self:call_back(callback, nil, why) end) end
    return nil, why
  end
  local bounds = self.bounds[name]
  if not bounds then -- looked up anew each second
    local history, _, seconds = channels.bounds(self.app._channels, name)
    bounds = { history = history, milliseconds = seconds > 0 and math.ceil(seconds * 1000) or NO_LIMIT_MS }
    self.bounds[name] = bounds
  end
  self.count = self.count + 1
  self.last = self.last + 1
  self.waiting[self.last] = {
    name = name, kind = kind, packed = packed, callback = callback, given = given, count = self.count,
    bounds = bounds,
  }
  self.bytes = self.bytes + #packed
  if except then self.excepts[self.count] = except end
  self:flush() -- into hiredis' buffer, which is written when the callback has returned
  return true
end

-- --- Reading ---

-- Tells every process that numbers were lost, which this one knows.
function Place:announce_loss()
  self:relay("", "loss")
end

local function entry_of(name, raw)
  local text = raw[2][2]
  local kind, time, process, count, before, at = text:match "^(%l+) (%d+) (%x+) (%d+) (%d+) ()"
  return {
    name = raw[2][4] or name, number = tonumber((raw[1]:match "^%d+")), kind = kind, time = tonumber(time),
    process = process, count = tonumber(count), before = tonumber(before), packed = text:sub(at),
  }
end

-- Appends what has come of several channels, in the order of the numbers.
function Place:take(streams)
  local app, list = self.app, {}
  local time = os.time() * 1000 + self.skew
  for _, stream in ipairs(streams) do
    local name = self.names[stream[1]]
    for _, raw in ipairs(stream[2]) do list[#list + 1] = entry_of(name, raw) end
  end
  if #streams > 1 then table.sort(list, function(a, b) return a.number < b.number end) end
  for _, entry in ipairs(list) do
    local read = self.reading[entry.name]
    if entry.kind == "members" and read then
      self:take_members(entry.name, entry.process, entry.packed)
    elseif entry.kind == "loss" then
      app._core:lose(entry.number)
    elseif entry.kind == "close" then
      local channel = app._hooks.known("channel", entry.name)
      if channel then channel:_end() end
      self.reading[entry.name], self.others[entry.name] = nil, nil
    elseif read and IS_EVENT[entry.kind] then
      if entry.kind ~= "none" then
        if entry.before > read.last then core.handover.lose(read.channel, entry.before) end -- those between are gone
        read.last = entry.number
      end
      local except
      if entry.process == self.token then
        except = self.excepts[entry.count]
        self.excepts[entry.count] = nil
      end
      read.channel:_deliver(entry.kind, entry.packed, except, entry.number, math.max(0, time - entry.time))
    end
  end
  if #list > 0 then app._core:pass(list[#list].number) end -- also where nobody wanted it
end

-- A channel's whole history, up to where this process is; the rest comes as ever.
function Place:prime(name, reply)
  local handover, app = core.handover, self.app
  local channel = app._hooks.channel("subscribe", name)
  local at = handover.sequence(app._core)
  local last, entries, time = tonumber(reply[2]), reply[3], tonumber(reply[4])
  local list, gone = {}, last
  for _, raw in ipairs(entries) do
    local entry = entry_of(name, raw)
    if #list == 0 then gone = entry.before end
    list[#list + 1] = entry
    if entry.kind == "close" then list, gone = {}, entry.number end -- it began anew
  end
  handover.clear(channel)
  handover.set_channel(channel, gone, gone, true)
  local read = { channel = channel, last = gone, idle = 0 }
  for _, entry in ipairs(list) do
    if entry.number <= at then
      handover.add_packed(channel, entry.number, math.max(0, time - entry.time), entry.kind, entry.packed)
      read.last = entry.number
    end
  end
  handover.done(channel)
  self.reading[name] = read
  self.others[name] = nil
  for i = 1, #reply[5], 2 do self:take_members(name, reply[5][i], reply[5][i + 1]) end
end

-- The next round of the reader, which has one at a time: new channels' histories, then what is new of all.
function Place:read()
  if not self.ready or self.busy or self.over then return end
  local generation = self.generation
  self.busy = true
  local function fail(message)
    if generation == self.generation and message ~= "closed" then self:drop(message) end
  end
  local function guarded(fn)
    return function(reply, message)
      if generation ~= self.generation or self.over then return end
      if reply == nil then return fail(message) end
      local ok, failure = pcall(fn, reply)
      if not ok then fail(tostring(failure)) end
    end
  end
  local wanted, waiters = self.wanted, self.waiters
  self.wanted, self.waiters, self.under_way = {}, {}, waiters
  local left, head
  local lapsed = self.lapsed
  self.lapsed = false

  local function finish()
    self.busy, self.under_way = false, nil
    for _, resume in ipairs(waiters) do resume(true) end
    self:read()
  end

  -- A reply to a BLOCK has the first key only that something came to: it wakes, and all is read behind it in one step.
  local function read_new(block)
    local arguments = block and { "XREAD", "BLOCK", BLOCK_MS, "STREAMS" } or { "XREAD", "STREAMS" }
    local keys, from = { self.control_key }, ("%.0f-0"):format(core.handover.sequence(self.app._core))
    self.names = { [self.control_key] = "" }
    for name in pairs(self.reading) do
      for _, key in ipairs { self:key(name), self:live_key(name) } do
        keys[#keys + 1] = key
        self.names[key] = name
      end
    end
    for _, key in ipairs(keys) do arguments[#arguments + 1] = key end
    for _ = 1, #keys do arguments[#arguments + 1] = from end
    self.blocked, self.blocking = block, block
    self:call(self.reader, PATIENCE + BLOCK_MS / 1000, arguments, guarded(function(reply)
      self.blocked, self.blocking = false, false
      if block and reply then return read_new(false) end
      if not block then
        self:take(reply or {})
        if head then self.app._core:pass(head) end
      end
      finish()
    end))
  end

  local names = {}
  for name in pairs(wanted) do
    if not self.reading[name] then names[#names + 1] = name end -- else it was on its way when it was asked for
  end
  if lapsed then
    for name, read in pairs(self.reading) do names[#names + 1] = { name = name, read = read } end
  end
  if #names == 0 and #waiters == 0 then
    return read_new(true)
  end
  if #names == 0 then names[1] = { name = "" } end -- only where the head is
  left = #names
  for _, each in ipairs(names) do
    local name = type(each) == "table" and each.name or each
    self:call(self.reader, PATIENCE, { "EVALSHA", self.history_sha, 5, self.state_key, self.channels_key,
      self:key(name), self:members_key(name), self.nodes_key, name }, guarded(function(reply)
        head = math.max(head or 0, tonumber(reply[1]))
        if type(each) ~= "table" then
          self:prime(name, reply)
        elseif each.read then -- what is gone altogether, and leaves no entry to tell of it
          local last = tonumber(reply[2])
          if #reply[3] == 0 and last > each.read.last then
            each.read.last = last
            core.handover.lose(each.read.channel, last)
          end
        end
        left = left - 1
        if left == 0 then read_new(false) end
      end))
  end
end

-- Ends the reader's waiting for what is new: something else is to be read.
function Place:poke()
  if self.busy and self.blocked then
    local generation = self.generation
    self.blocked = false
    self:call(self.commands, PATIENCE, { "CLIENT", "UNBLOCK", self.reader_id }, function(reply)
      if reply == 0 and generation == self.generation and self.blocking then -- it was sooner than the XREAD
        self.blocked = true
        self:poke()
      end
    end)
  else
    self:read()
  end
end

-- --- Who is subscribed, in all processes ---

function Place:presence_key(channel) return self.backplane.prefix .. ":presence:" .. channel end

local function nothing() end

-- What has changed since it was told.
function Place:tell_counts()
  if not self.ready then return end
  if not self.heard or now() - self.heard > NODE_SECONDS / 3 then
    self.heard = now()
    local alive = { "EVALSHA", self.alive_sha, 1, self.nodes_key, self.token, NODE_SECONDS }
    self:call(self.commands, PATIENCE, alive, function(list)
      local living = {}
      for _, process in ipairs(list or {}) do living[process] = true end
      for _, others in pairs(list and self.others or {}) do
        for process in pairs(others) do
          if not living[process] then others[process] = nil end
        end
      end
    end)
  end
  for name, read in pairs(self.reading) do
    local count = read.channel.subscribers
    if count ~= (read.told or 0) then self:tell_count(name, count) end
    read.told = count
  end
end

function Place:tell_count(name, count)
  local key = self:presence_key(name)
  local arguments = count > 0 and { "HSET", key, self.token, count } or { "HDEL", key, self.token }
  self:call(self.commands, PATIENCE, arguments, nothing)
end

--- What channel:subscribers_total asks.
function Place:total(channel, callback)
  if not self.ready then
    after(0, function() self:call_back(callback, nil, "redis is away") end)
    return
  end
  self:call(self.commands, PATIENCE, { "EVALSHA", self.total_sha, 2, self:presence_key(channel.name), self.nodes_key,
    self.token }, function(reply, message)
      self:call_back(callback, reply and math.floor(reply) + channel.subscribers or nil, message)
    end)
end

function Place:tick()
  if self.dead then return end
  self.timer = after(1, function() self:tick() end)
  self.bounds = {}
  if not self.over then self:tell_counts() end
  if self.commands then
    for _, calls in pairs(self.calls) do
      for asked in pairs(calls) do
        if now() > asked.due then return self:drop "it does not answer" end
      end
    end
  end
  for name, read in pairs(self.over and {} or self.reading) do
    read.idle = read.channel.subscribers > 0 and 0 or read.idle + 1
    if read.idle > IDLE_SECONDS then
      core.handover.clear(read.channel)
      self.reading[name], self.others[name] = nil, nil
    end
  end
  if self.ready and not self.pinged then -- a connection that nobody uses may be gone
    self.pinged = true
    self:call(self.commands, PATIENCE, { "PING" }, function() self.pinged = false end)
  end
end

-- --- Subscribing ---

-- The same position under the term of now, or an id that stands for nothing; its number; whether its term is unknown.
function Place:translate(id)
  local nonce, number = id:match "^(%x+)%-(%d+)$"
  if not nonce or #nonce ~= 16 then return id, 0 end -- the script's own
  number = tonumber(number)
  local stop = self.terms[nonce]
  if not stop or number > stop then return (id:gsub("^%x+", ("0"):rep(16))), 0, not stop end
  return ("%s-%.0f"):format(self.epoch, number), number
end

local function names_of(what)
  local list = {}
  for _, each in ipairs(type(what) == "table" and what or { what }) do
    local name = type(each) == "string" and each or core.is_channel(each) and each.name or nil
    if name and name ~= "" then list[#list + 1] = name end
  end
  return list
end

--- Called before a stream subscribes: waits until its channels are read. Returns the options to go on with; or nil and
--- why not.
function Place:prepare(stream, what, options)
  local window = self.windows[stream]
  local first = not window or window == core.loop.turns()
  local id = options and options.since
  if id == nil and first then id = stream.last_event_id end
  local plain = type(id) ~= "string" or id == "" or id == "live"
  local names, waited, asked = names_of(what), false, false
  while true do
    local missing_ = not self.begun
    for _, name in ipairs(names) do
      if not self.reading[name] then
        self.wanted[name] = true
        missing_ = true
      else
        self.reading[name].idle = 0
      end
    end
    local _, number, unknown = 0, 0, false
    if not plain and self.begun then _, number, unknown = self:translate(id) end
    unknown = unknown and not asked -- of a term that Redis has begun, and this process has not seen yet?
    if not missing_ and not unknown and number <= core.handover.sequence(self.app._core) then break end
    if not place.nginx and not core.in_handler() then
      self:poke()
      return nil, "not yet: with a backplane, a callback can only subscribe to what is read already"
    end
    if not waited then -- the head goes out, as subscribe promises, however long Redis takes
      waited = true
      local open_, message = stream:sleep(0)
      if not open_ then return nil, message end
    end
    local fine, message = require("eventstream").await(function(resume)
      self.waiters[#self.waiters + 1] = resume
      self:poke()
    end)
    if not fine then return nil, message end
    asked = true -- the Redis of now has answered, and its terms are known
    if number > core.handover.sequence(self.app._core) and not missing_ then break end -- of the future: a gap
  end
  self.windows[stream] = core.loop.turns()
  if plain then return options end
  local copy = {}
  for name, value in pairs(options or {}) do copy[name] = value end
  copy.since = (self:translate(id))
  return copy
end

--- The app is closed: calls the function when what was published before has reached Redis, or has had its time.
function Place:closed(over)
  self.over, self.draining = true, true
  local reader, patience = self.reader, nil
  self.reader = nil -- its end is no failure
  if reader then reader:close "closed" end
  local function finish()
    if self.dead then return end
    self.dead, self.draining, self.drained = true, false, nil
    for _, timer in pairs { patience, self.timer, self.again } do cancel(timer) end
    for at = self.first, self.last do
      local item = self.waiting[at]
      if item and item.callback then
        self:call_back(item.callback, nil, "closed")
      elseif item and item.packed ~= "" then
        place.tell(("redis: an event of %s is lost: the app was closed, and Redis is away"):format(item.name))
      end
    end
    self:drop "closed"
    over()
  end
  if self.ready then -- nobody is subscribed here any more
    for name, read in pairs(self.reading) do
      if (read.told or 0) > 0 then self:tell_count(name, 0) end
    end
  end
  if self.first > self.last and not self.ready then return finish() end
  patience = after(PATIENCE, finish)
  self.drained = finish
  if not self.ready then return end
  self:call(self.commands, PATIENCE, { "ZREM", self.nodes_key, self.token }, function()
    if self.drained and self.first > self.last then self.drained() end -- else the last event's answer ends it
  end)
end

-- --- The names of those who are there ---

function Place:members_key(channel) return self.backplane.prefix .. ":members:" .. channel end

-- Another process' names of a channel, with a NUL between them.
function Place:take_members(name, process, text)
  if process == self.token then return end
  self.others[name] = self.others[name] or {}
  self.others[name][process] = text ~= "" and text or nil
end

--- The names of this process' streams have changed.
function Place:tell_members(name)
  local list = {}
  for member in pairs(self.app._members:collect(name, {})) do list[#list + 1] = member end
  table.sort(list)
  self:relay(name, "members", table.concat(list, "\0"))
end

--- Adds the names that the other processes have.
function Place:collect(name, set)
  for _, text in pairs(self.others[name] or {}) do
    for member in text:gmatch "[^%z]+" do set[member] = true end
  end
end

-- --- Inside nginx ---

--- Begins in a worker, which is another process than the one that made the app.
function Place:start() self.token = core.handover.draw() end

--- A round of the worker's driver: the seconds until it is to come again.
function Place.round()
  hiredis.begin()
  return 3600
end

--- Each process runs its own intervals; there is nothing to be done before a worker ends.
function Place.leads() return true end
function Place.leave() end

return M
