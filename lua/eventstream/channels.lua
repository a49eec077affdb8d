-- Channels by name: their options, by name and by pattern, and the functions that are told of subscribers.
local check = require "eventstream.check"

local M = {}

local AUTO = -1        -- as the core knows it
local REMEMBERED = 1000 -- names whose own options outlive their channels

local DEFAULTS = {
  history = 1000, history_bytes = 1048576, history_seconds = 300, slow = "disconnect", flush = "auto",
}

local OPTIONS = {
  history = check.whole(0),
  history_bytes = check.whole(0),
  history_seconds = check.optional_seconds,
  slow = function(value)
    if value ~= "disconnect" and value ~= "skip" then return '"disconnect" or "skip"' end
  end,
  flush = function(value)
    if value ~= "auto" and check.duration(value) then return '"auto", 0 or a number of seconds up to ten years' end
  end,
}

local function check_name(who, name)
  if type(name) ~= "string" or name == "" then
    error(("%s: name must be a string that is not empty, not %s"):format(who, check.show(name)), 0)
  end
  return name
end

-- "room:*" as the pieces that a name must have, in their order, and how much that is: the more, the closer it fits.
local function compile(name, options)
  local pieces, literal = {}, 0
  for piece in (name .. "*"):gmatch "([^*]*)%*" do
    pieces[#pieces + 1] = piece
    literal = literal + #piece
  end
  return { name = name, pieces = pieces, literal = literal, options = options }
end

-- Each piece at its first place behind the one before: if any way fits, this one does. Lua's own patterns would try all
-- ways, and names may come from clients.
local function fits(pattern, name)
  local pieces = pattern.pieces
  local first, last = pieces[1], pieces[#pieces]
  local at, stop = #first + 1, #name - #last -- what lies between the two
  if stop < #first or name:sub(1, #first) ~= first or name:sub(stop + 1) ~= last then return false end
  for i = 2, #pieces - 1 do
    local from, to = name:find(pieces[i], at, true)
    if not from or to > stop then return false end
    at = to + 1
  end
  return true
end

local function copy(options)
  local own = {}
  for name, value in pairs(options) do own[name] = value end
  return own
end

--- Checks the option `channels` of new, and makes what find() takes.
---@param options table<string, eventstream.ChannelOptions>?
function M.new(options)
  local named, patterns = {}, {}
  for name, own in pairs(options or {}) do
    if type(name) == "number" then
      error("new: channels must be a table of options by name, as { news = { history = 100 } }, not a list", 0)
    end
    check_name("new: channels", name)
    if type(own) ~= "table" then
      error(("new: channels[%s] must be a table, not %s"):format(check.show(name), check.show(own)), 0)
    end
    check.options("new", own, OPTIONS, ("channels[%s]."):format(check.show(name)))
    own = copy(own)
    if name:find("*", 1, true) then patterns[#patterns + 1] = compile(name, own) else named[name] = own end
  end
  table.sort(patterns, function(a, b)
    if a.literal ~= b.literal then return a.literal > b.literal end
    return a.name < b.name
  end)
  return { named = named, patterns = patterns, own = {}, order = {}, next = 1 }
end

-- What was said of this name in app:channel, for when the channel has gone and comes back. Bounded: the oldest name is
-- forgotten.
local function remember(self, name, options)
  if not self.own[name] then
    local forgotten = self.order[self.next]
    if forgotten then self.own[forgotten] = nil end
    self.order[self.next] = name
    self.next = self.next % REMEMBERED + 1
  end
  local own = {}
  for field in pairs(DEFAULTS) do
    own[field] = options[field]
    if own[field] == nil and self.own[name] then own[field] = self.own[name][field] end
  end
  self.own[name] = own
end

local function resolve(self, name)
  local configured = self.named[name]
  for i = 1, configured and 0 or #self.patterns do
    if fits(self.patterns[i], name) then
      configured = self.patterns[i].options
      break
    end
  end
  local resolved, own = {}, self.own[name]
  for field, default in pairs(DEFAULTS) do
    local value = default
    if configured and configured[field] ~= nil then value = configured[field] end
    if own and own[field] ~= nil then value = own[field] end
    resolved[field] = value
  end
  return resolved.history, resolved.history_bytes, resolved.history_seconds or 0, resolved.slow == "skip",
    resolved.flush == "auto" and AUTO or resolved.flush
end

--- What a channel of that name keeps: events, bytes, seconds (0: any); and its flush, in seconds (negative: "auto").
function M.bounds(self, name)
  local history, bytes, seconds, _, flush = resolve(self, name)
  return history, bytes, seconds, flush
end

--- The seconds that a channel's history can be old at most; nil: without end.
function M.longest_history(self)
  local longest = DEFAULTS.history_seconds
  for _, kind in ipairs { self.named, self.patterns, self.own } do
    for _, each in pairs(kind) do
      local seconds = (each.options or each).history_seconds
      if seconds == false then return nil end
      if seconds and seconds > longest then longest = seconds end
    end
  end
  return longest
end

--- The channel of that name, or nil.
function M.known(core, who, name)
  return core:channel(check_name(who, name))
end

--- The channel of that name, found or made. Options hold from now on, and for as long as the name is remembered.
function M.find(self, core, who, name, options)
  check_name(who, name)
  if options ~= nil then
    check.options(who, options, OPTIONS)
    remember(self, name, options)
  else
    local found = core:channel(name)
    if found then return found end
  end
  return core:channel(name, resolve(self, name))
end

return M
