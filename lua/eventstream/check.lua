-- Checks of what scripts pass in. Each raises an error that names the argument, without a position: call() adds that of
-- the script's line.
local M = {}

local TEN_YEARS = 315360000 -- seconds

-- Levenshtein distance, small words only.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], best
    end
  end
  return row[#b]
end

--- The message for a name that is none of the known ones: "unknown option 'prot' (did you mean 'port'?)".
---@param what string
---@param name any
---@param known string[]
---@return string
function M.unknown(what, name, known)
  name = tostring(name)
  local best, least = nil, 3
  for _, candidate in ipairs(known) do
    local d = distance(name:lower(), candidate)
    if d < least and d < #name then best, least = candidate, d end
  end
  if best then return ("unknown %s '%s' (did you mean '%s'?)"):format(what, name, best) end
  table.sort(known)
  return ("unknown %s '%s' (there are: %s)"):format(what, name, table.concat(known, ", "))
end

local function fail(who, message, ...)
  error(who .. ": " .. message:format(...), 0)
end

--- Calls a function that raises without a position from a public function, and raises at the line that called that.
function M.call(f, ...)
  local ok, first, second, third = pcall(f, ...)
  if not ok then error(first, 3) end
  return first, second, third
end

--- Checks a table of options against a description: name -> function(value) that returns nil or what it must be.
---@param who string
---@param options table?
---@param rules table<string, fun(value: any): string?, any>
---@param prefix string?
---@return table
function M.options(who, options, rules, prefix)
  if options == nil then return {} end
  if type(options) ~= "table" then fail(who, "options must be a table, not %s", type(options)) end
  for name, value in pairs(options) do
    local rule = rules[name]
    if not rule then
      local known = {}
      for k in pairs(rules) do known[#known + 1] = k end
      local place = prefix and " in " .. prefix:gsub("%.$", "") or ""
      fail(who, "%s%s", M.unknown("option", name, known), place)
    end
    local wanted, culprit = rule(value) -- the culprit, where only a part of the value is wrong
    if wanted then
      if culprit == nil then culprit = value end
      fail(who, "%s%s must be %s, not %s", prefix or "", name, wanted, M.show(culprit))
    end
  end
  return options
end

--- A value as a message shows it: on one line, whatever a client wrote.
function M.show(value)
  if type(value) == "string" then
    return "'" .. value:gsub("[%z\1-\31\127]", function(byte) return ("\\x%02X"):format(byte:byte()) end) .. "'"
  end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return value == nil and "nil" or "a " .. type(value)
end

local function finite(value)
  return type(value) == "number" and value == value and value > -math.huge and value < math.huge
end

M.is_finite = finite

function M.string(value)
  if type(value) ~= "string" then return "a string" end
end

--- What a list of names may have: not empty, and nothing in it that could look like two.
function M.name(value)
  if type(value) ~= "string" or value == "" or value:find "[%z\1-\31\127]" then
    return "a string that is not empty, without control characters"
  end
end

--- Not empty, and without NUL.
function M.text(value)
  if type(value) ~= "string" or value == "" or value:find("%z") then return "a string that is not empty" end
end

--- A file's path: not empty, which would be an address of its own, and without NUL.
function M.path(value)
  if type(value) ~= "string" or value == "" or value:find("%z") then return "a path" end
end

function M.boolean(value)
  if type(value) ~= "boolean" then return "true or false" end
end

--- A socket that a service manager passed on: the first one, or that of a name.
function M.activated(value)
  if value ~= true and type(value) ~= "string" then return "true, or the name of a socket" end
end

--- What another rule takes, or false.
function M.or_false(rule, wanted)
  return function(value)
    if value ~= false and rule(value) then return wanted end
  end
end

function M.callable(value)
  if type(value) ~= "function" then return "a function" end
end

--- Seconds above 0.
function M.seconds(value)
  if not finite(value) or value <= 0 or value > TEN_YEARS then
    return "a number of seconds above 0, at most ten years"
  end
end

--- Seconds, 0 too.
function M.duration(value)
  if not finite(value) or value < 0 or value > TEN_YEARS then
    return "a number of seconds, 0 or more, at most ten years"
  end
end

--- Seconds above 0, or false for none.
M.optional_seconds = M.or_false(M.seconds, "a number of seconds above 0, at most ten years, or false")

--- A whole number from least on.
function M.whole(least)
  return function(value)
    if not finite(value) or value < least or value % 1 ~= 0 or value > 2 ^ 53 then
      local most = finite(value) and value > 2 ^ 53 and ", at most 2^53" or ""
      return ("a whole number, %d or more%s"):format(least, most)
    end
  end
end

local function port(least)
  return function(value)
    if not finite(value) or value < least or value > 65535 or value % 1 ~= 0 then
      return ("a whole number from %d to 65535"):format(least)
    end
  end
end

M.port = port(0)       -- to listen at: 0 is any
M.peers_port = port(1)  -- to connect to

return M
