-- The events in what Redis replies, flat: a list with nine places for each, in the order of their numbers. (The module
-- eventstream.hiredis makes the same of a reply to XREAD, without the tables between.)
local M = {}

--- How many places an event has, and what is at which.
M.PLACES = 9
M.KEY, M.NUMBER, M.KIND, M.TIME, M.PROCESS, M.COUNT, M.BEFORE, M.PACKED, M.CHANNEL = 1, 2, 3, 4, 5, 6, 7, 8, 9

-- Appends an event: an entry's text, from a place on, and what it has beside that.
local function add_text(flat, at, key, number, text, first, name)
  local kind, time, process, count, before, from = text:match("^(%S*) (%d+) (%S*) (%d+) (%d+) ()", first)
  flat[at + 1], flat[at + 2], flat[at + 3], flat[at + 4] = key, number, kind or "?", tonumber(time) or -1
  flat[at + 5], flat[at + 6], flat[at + 7] = process or "", tonumber(count) or -1, tonumber(before) or -1
  flat[at + 8], flat[at + 9] = kind and text:sub(from) or "", name or false
end

-- Appends an entry, as XRANGE has it.
local function add(flat, at, key, number, raw)
  local fields = raw[2]
  if type(fields) ~= "table" then fields = {} end
  add_text(flat, at, key, number, fields[2] or "", 1, fields[4])
end

local function number_of(raw)
  local digits = type(raw) == "table" and type(raw[1]) == "string" and raw[1]:match "^(%d+)%-"
  return digits and #digits < 17 and tonumber(digits) or nil
end

--- Of a list of streams, as XREAD has it: { { key, entries }, ... }. What is no event of ours has the kind "?".
function M.flat(streams)
  local flat, at, list = {}, 0, {}
  for i, stream in ipairs(streams) do
    for _, raw in ipairs(stream[2]) do
      local number = number_of(raw)
      if number and #streams == 1 then
        add(flat, at, stream[1], number, raw)
        at = at + M.PLACES
      elseif number then
        list[#list + 1] = { number = number, order = i, key = stream[1], raw = raw }
      end
    end
  end
  table.sort(list, function(a, b)
    if a.number ~= b.number then return a.number < b.number end
    return a.order < b.order
  end)
  for _, each in ipairs(list) do
    add(flat, at, each.key, each.number, each.raw)
    at = at + M.PLACES
  end
  return flat
end

--- Of what the news tell of events: { { key, "number entry" }, ... }.
function M.told(list)
  for _, each in ipairs(list) do
    local number, from = each[2]:match "^(%d+) ()"
    each.number, each.from = tonumber(number) or math.huge, from
  end
  table.sort(list, function(a, b) return a.number < b.number end)
  local flat = {}
  for i, each in ipairs(list) do
    add_text(flat, (i - 1) * M.PLACES, each[1], each.number, each[2], each.from)
  end
  return flat
end

--- Several such lists as one.
function M.join(lists)
  if #lists == 1 then return lists[1] end
  local order, joined = {}, {}
  for _, flat in ipairs(lists) do
    for at = 0, #flat - M.PLACES, M.PLACES do
      order[#order + 1] = { flat = flat, at = at, number = flat[at + M.NUMBER] }
    end
  end
  table.sort(order, function(a, b) return a.number < b.number end)
  for i, each in ipairs(order) do
    for place = 1, M.PLACES do joined[(i - 1) * M.PLACES + place] = each.flat[each.at + place] end
  end
  return joined
end

return M
