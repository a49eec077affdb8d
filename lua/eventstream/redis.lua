--- eventstream.redis: a backplane for apps in several processes, on one machine or many, by Redis and its streams.
---
--- A channel is a Redis stream. A script appends an event and gives it its number, one for the whole prefix, in one
--- step, and adds to the news which streams have got something. A process reads the channels that it has subscribers
--- for: a channel's history first, then, whenever there are news of it, what is new, into the same logs as ever. So
--- what a client resumes from is its process' own log.
---
--- Positions are those of a history whose newest part Redis may lose. Each run of Redis, or of a replica that takes
--- over, begins a term, with a nonce of its own and numbers above all that were. An id names the term in which it was
--- written, and stands for its position if that lies within what the next term has of it; else a gap is told.
local channels = require "eventstream.channels"
local check = require "eventstream.check"
local core = require "eventstream.core"
local place = require "eventstream.place"
local link = require "eventstream.redis.link"
local losses = require "eventstream.redis.losses"
local presence = require "eventstream.redis.presence"
local publisher = require "eventstream.redis.publisher"
local reader = require "eventstream.redis.reader"
local timer = require "eventstream.timer"

local M = {}

local LEAP = 2 ^ 20 -- numbers that a term leaps ahead, and has for each second since 1970
local TERMS = 64    -- that are remembered
local NO_LIMIT_MS = 0
local HURRY = 0.8   -- of the grace of an app that is being closed
local STUCK = 1     -- seconds for an answer then

local Backplane = {}
Backplane.__index = Backplane

local Place = {}
Place.__index = Place

local OPTIONS = {
  host = check.text, port = check.peers_port, path = check.path, username = check.string, password = check.string,
  prefix = check.text, waiting = check.whole(0), waiting_bytes = check.whole(0),
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

local function new(options)
  options = check.options("redis", options, OPTIONS)
  if options.path and (options.host or options.port) then error("redis: give a path, or host and port", 0) end
  if options.username and not options.password then error("redis: a username needs a password", 0) end
  link.load()
  return setmetatable({ options = options, prefix = options.prefix or "eventstream" }, Backplane)
end

--- A backplane for eventstream.new. It connects by itself, and again when it is cut; nothing is asked of Redis before
--- the app is made.
---@param options eventstream.RedisOptions?
function M.new(options)
  return (check.call(new, options))
end

-- --- A place of an app ---

--- Called by eventstream.new.
function Backplane:attach(app)
  if self.app then error("new: a backplane is for one app; make another one", 0) end
  self.app = app
  local token = core.handover.draw()
  local home = setmetatable({
    app = app, options = self.options, prefix = self.prefix, token = token,
    terms = {}, order = {}, epoch = token, connects = 0,
    known = 0, begins_at = 0,       -- the highest number that Redis has told; where the term begins
    seen = 0, seen_epoch = token,   -- the highest that was more than a beginning, and its term
    bounds_of = {}, windows = setmetatable({}, { __mode = "k" }), state = "disconnected",
  }, Place)
  for _, name in ipairs { "state", "channels", "done", "control", "news", "nodes" } do
    home[name .. "_key"] = self.prefix .. ":" .. name
  end
  home.link = link.new(self.options, {
    up = function(run) home:hello(run) end,
    down = function(why) home:down(why) end,
  })
  home.publisher = publisher.new(home, self.options)
  home.losses = losses.new(home)
  home.reader = reader.new(home)
  home.presence = presence.new(home)
  app._core:join(token .. "-0")
  app._hooks.relay = function(...) return home:relay(...) end
  app._hooks.prepare = function(...) return home:prepare(...) end
  app._hooks.total = function(...) return home.presence:total(...) end
  app._hooks.names = function(...) return home.presence:names(...) end
  home.timer = timer.new(function() home:tick() end)
  home.timer:wait(1)
  home.link.again = timer.after(0, function() home.link:connect() end)
  return home
end

function Place:key(what, channel) return self.prefix .. ":" .. what .. ":" .. channel end

--- What a channel keeps, as its options say it in this second: events, milliseconds (0: any age); and its flush.
function Place:bounds(name)
  local bounds = self.bounds_of[name]
  if not bounds then
    local history, _, seconds, flush = channels.bounds(self.app._channels, name)
    bounds = { history, seconds > 0 and math.ceil(seconds * 1000) or NO_LIMIT_MS, flush }
    self.bounds_of[name] = bounds
  end
  return bounds[1], bounds[2], bounds[3]
end

--- Calls a function of the script's; its error is reported.
function Place:call_back(fn, ...)
  local arguments = { n = select("#", ...), ... }
  local function trace(failure) return { tostring(failure), debug.traceback("", 2) } end
  local ok, failure = xpcall(function() fn((unpack or table.unpack)(arguments, 1, arguments.n)) end, trace)
  if not ok then self.app._hooks.report(failure[1], failure[2]) end
end

function Place:where()
  return self.options.path or ("%s:%d"):format(self.options.host or "127.0.0.1", self.options.port or 6379)
end

function Place:tell(state, message)
  if self.state == state and self.told == message then return end
  self.state, self.told = state, message
  if self.options.on_state then return self:call_back(self.options.on_state, state, message) end
  place.tell(("redis at %s: %s"):format(self:where(), message and message .. "; it is tried again" or "connected"))
end

function Place:tick()
  if self.dead then return end
  self.timer:wait(1)
  self.bounds_of = {}
  self.publisher:forget()
  if not self.over then
    self.presence:tell()
    self.reader:tick()
    if self.link.ready then self.losses:tell_all() end
  end
  self.link:check()
end

-- --- The link comes and goes ---

--- Adds to what app:stats() tells.
function Place:stats(stats)
  stats.backplane_connected = self.link.ready and 1 or 0
  stats.backplane_waiting = self.publisher:count()
  stats.backplane_connects = self.connects
end

--- Why nothing can be asked of Redis.
function Place:away() return "redis is away" .. (self.told and ": " .. self.told or "") end

function Place:down(why)
  self.publisher:reset()
  self.reader:reset()
  if not self.over then self:tell("disconnected", why) end
end

-- Takes part in the term that this run of Redis is in, or begins it.
function Place:hello(run)
  if not self.over then self.known = math.max(self.known, core.handover.sequence(self.app._core)) end
  if self.known > self.begins_at then -- else it has seen nothing but this term's beginning
    self.seen_epoch, self.seen = self.epoch, self.known
  end
  self.link:script("commands", "hello", { self.state_key }, { run, core.handover.draw(), ("%.0f"):format(LEAP), TERMS,
    ("%.0f"):format(self.seen), ("%.0f"):format(self.known) }, function(reply, message)
      if message == "closed" then return end
      if not reply then return self.link:drop(message) end
      self.skew = tonumber(reply[3]) - os.time() * 1000
      self:greeted(tonumber(reply[1]), reply[2], tonumber(reply[4]) or 0, reply[5])
    end)
end

-- The terms: which ones there were, and up to which number the next one has each.
function Place:take_terms(text)
  self.terms, self.order = {}, {}
  for nonce, stop in text:gmatch "(%x+):?(%d*)" do
    self.order[#self.order + 1] = nonce
    self.terms[nonce] = stop ~= "" and tonumber(stop) or math.huge
    self.epoch = nonce
  end
  if not self.over then core.handover.set_epoch(self.app._core, self.epoch .. "-0") end
end

function Place:greeted(number, terms, start, lost)
  self.link:begun()
  self.connects = self.connects + 1
  self:take_terms(terms)
  self.begins_at = start
  if self.over then return self.publisher:flush() end
  if self.begun then
    self.losses:learn(lost, self.seen_epoch, self.seen)
    self.reader:lapse()
  else -- nobody has subscribed yet: of what was, only losses are ours, for those who come back with what is older
    self.begun = true
    self.losses:pass(lost)
    self.app._core:pass(number)
    self.reader.control = number
  end
  self:tell "connected"
  self.presence:reset()
  self.presence:tell()
  self.publisher:flush()
  self.reader:read()
end

--- What is no event could not be told.
function Place:refused(kind, name, message, packed)
  if kind == "loss" then
    self.losses:refused(packed)
  elseif kind == "close" then
    place.tell(("redis: %s was not closed: %s"):format(name, message))
  else
    self.presence:refused(name)
  end
end

-- --- What an app asks of it ---

--- What the core calls for each event that is published, and for a channel that is closed.
function Place:relay(name, kind, packed, except, callback, id)
  if self.over or callback and self.hurries and not self.link.ready then
    return self.publisher:refuse(callback, "closed")
  end
  return self.publisher:relay(name, kind, packed, except, callback, id)
end

function Place:tell_members(name) self.presence:tell_members(name) end
function Place:collect(name, set) self.presence:collect(name, set) end

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
      local read = self.reader.reading[name]
      if read then read.idle = 0 else missing_ = true end
    end
    local _, number, unknown = 0, 0, false
    if not plain and self.begun then _, number, unknown = self:translate(id) end
    unknown = unknown and not asked -- of a term that Redis has begun, and this process has not seen yet?
    if not missing_ and not unknown and number <= core.handover.sequence(self.app._core) then break end
    if not place.nginx and not core.in_handler() then
      for _, name in ipairs(names) do self.reader:want(name) end
      self.reader:poke()
      return nil, "not yet: with a backplane, a callback can only subscribe to what is read already"
    end
    if not waited then -- the head goes out, as subscribe promises, however long Redis takes
      waited = true
      local open_, message = stream:sleep(0)
      if not open_ then return nil, message end
    end
    local mine
    local fine, message = require("eventstream").await(function(resume)
      mine = resume
      self.reader:await(names, resume)
    end)
    if mine then self.reader:let_go(mine) end
    if not fine then return nil, message end
    for _, name in ipairs(names) do
      if self.reader.refused[name] then return nil, ("redis: %s: %s"):format(name, self.reader.refused[name]) end
    end
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

--- The app is being closed, and cuts who is not done after so many seconds: handlers that wait for a Redis that is
--- away, or stands still, are to have the time to answer.
function Place:closing(grace)
  local due = core.now() + grace * HURRY
  if self.over or grace <= 0 or self.hurry_at and self.hurry_at <= due then return end
  self.hurry_at = due
  timer.cancel(self.hurry)
  local function look()
    self.hurries = true
    if self.link.ready and self.link:waits(math.min(STUCK, grace * HURRY / 2)) then
      self.link:drop "it does not answer"
    end
    if not self.link.ready then self.publisher:let_go "closed" end
    self.hurry = timer.after(math.max(grace * (1 - HURRY) / 4, 0.001), look)
  end
  self.hurry = timer.after(grace * HURRY, look)
end

--- The app is closed: calls the function when what was published before has reached Redis, or has had its time.
function Place:closed(over)
  self.over, self.draining = true, true
  timer.cancel(self.hurry)
  self.link:end_reader()
  local patience
  local function finish()
    if self.dead then return end
    self.dead, self.draining, self.publisher.drained = true, false, nil
    timer.cancel(patience)
    timer.cancel(self.timer)
    self.publisher:give_up "closed"
    self.publisher:stop()
    self.reader:stop()
    self.presence:stop()
    self.link:close()
    over()
  end
  if self.link.ready then self.presence:leave() end
  if self.publisher:empty() and not self.link.ready then return finish() end
  patience = timer.after(link.PATIENCE, finish)
  self.publisher.drained = finish
  if not self.link.ready then return end
  self.publisher:flush()
  self.link:call("commands", { "PING" }, function() -- behind all that was said so far
    if not self.dead and self.publisher:empty() then finish() end -- else the last event's answer ends it
  end)
end

-- --- Inside nginx ---

--- Begins in a worker, which is another process than the one that made the app.
function Place:start() self.token = core.handover.draw() end

--- A round of the worker's driver: the seconds until it is to come again.
function Place.round()
  link.begin()
  return 3600
end

--- Each process runs its own intervals; there is nothing to be done before a worker ends.
function Place.leads() return true end
function Place.leave() end

return M
