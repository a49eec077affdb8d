-- What Redis has lost, and who is told of it. Each loss lies before a term, and is told once in each process: to its
-- subscribers, before they get anything that lies behind it, and to whoever comes back with what is older. Redis keeps
-- them as "nonce:number;": before which term, and by which number that was told to all.
local core = require "eventstream.core"
local place = require "eventstream.place"

local ALL = 2 ^ 53 -- no id is newer

local M = {}

local Losses = {}
Losses.__index = Losses

--- Of a place: its app, terms and publisher.
function M.new(home)
  return setmetatable({
    home = home,
    told = {},       -- by nonce: whether that before the term was told here
    behind = {},     -- the numbers behind which some are to be told yet, in order
    unnumbered = {}, -- by nonce: those that have no number yet
    bound = 0,       -- the highest number of one
    due = {},        -- by nonce: those that are to be told to all
  }, Losses)
end

local function read(text)
  local list = {}
  for nonce, number in text:gmatch "(%x+):(%d+)" do list[#list + 1] = { nonce = nonce, number = tonumber(number) } end
  return list
end

-- Who comes back with an id from before a loss is told of it; with any, as long as it has no number.
local function set_bound(self, loss)
  self.unnumbered[loss.nonce] = not loss.number or nil
  self.bound = math.max(self.bound, loss.number or 0)
  self.home.app._core:bound(next(self.unnumbered) and ALL or self.bound)
end

-- Takes one: { nonce, number, behind = the number behind which it lies, if that is not read yet }. Whether it is new.
local function take(self, loss, here)
  set_bound(self, loss)
  if self.told[loss.nonce] then return false end
  self.told[loss.nonce] = true
  local at = loss.behind or loss.number
  if at <= here then
    self.home.app._core:lose(here)
  else
    self.behind[#self.behind + 1] = at
    table.sort(self.behind)
  end
  return true
end

--- Those that were before anybody subscribed here.
function Losses:pass(text)
  for _, loss in ipairs(read(text)) do
    self.told[loss.nonce] = true
    set_bound(self, loss)
  end
end

-- Forgets those before terms that nobody knows any more.
local function forget(self, list, order)
  local known = {}
  for _, loss in ipairs(list) do known[loss.nonce] = true end
  for _, nonce in ipairs(order) do known[nonce] = true end
  for nonce in pairs(self.told) do
    if not known[nonce] then self.told[nonce], self.unnumbered[nonce] = nil, nil end
  end
end

--- Learns of those that Redis knows; and of one that whoever began a term did not know of: seen is the highest number
--- that this process has seen, in the term `epoch`.
---@param text string
---@param epoch string? default: the term of now, of which all is known
---@param seen integer?
function Losses:learn(text, epoch, seen)
  local home, list = self.home, read(text)
  local here, order, places, listed = core.handover.sequence(home.app._core), home.order, {}, {}
  for i, nonce in ipairs(order) do places[nonce] = i end
  local own = places[epoch or home.epoch] or 0
  local function behind(i) return math.max(here, i > 1 and home.terms[order[i - 1]] or 0) end
  for _, loss in ipairs(list) do
    local i = places[loss.nonce]
    listed[loss.nonce] = true
    if i and i > own then loss.behind = behind(i) end
  end
  local nonce = order[own + 1]
  local knows_more = epoch and nonce and seen > 0 and (own == 0 or seen > home.terms[epoch])
  if knows_more and not listed[nonce] then
    list[#list + 1] = { nonce = nonce, behind = behind(own + 1) }
    self.due[nonce] = not self.told[nonce] or nil
  end
  local any = false
  for _, loss in ipairs(list) do any = take(self, loss, here) or any end
  if any then
    place.tell(("redis at %s: it has lost events, and subscribers are told of a gap"):format(home:where()))
  end
  if epoch then forget(self, list, order) end
  self:tell_all()
end

--- What an entry says of one. It has the number of the first that said so, whose entry may be gone, and what came
--- behind it read already.
function Losses:hear(packed, number)
  local nonce, first = packed:match "^(%x+):(%d+)$"
  if not nonce then return end
  take(self, { nonce = nonce, number = tonumber(first), behind = number }, core.handover.sequence(self.home.app._core))
end

--- Tells of those that lie behind what is below a number: it is what comes next.
function Losses:tell_before(number)
  while self.behind[1] and self.behind[1] < number do self.home.app._core:lose(table.remove(self.behind, 1)) end
end

--- Tells every process of those that this one knows.
function Losses:tell_all()
  local due = self.due
  self.due = {}
  for nonce in pairs(due) do self.home:relay("", "loss", nonce) end
end

--- One could not be told to all.
function Losses:refused(nonce) self.due[nonce] = true end

return M
