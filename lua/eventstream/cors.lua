-- The option `cors`: which pages of other origins may read the answers (Fetch Standard, 3.3). The core writes the lines
-- of every answer, also of those that no script makes; what a preflight asks is answered here.
local check = require "eventstream.check"
local guard = require "eventstream.guard"
local headers = require "eventstream.headers"

local M = {}

-- What an EventSource that reconnects, or a fetch that reads a stream, may send beside what needs no leave.
local HEADERS = { "Authorization", "Cache-Control", "Content-Type", "Last-Event-ID" }
local MAX_AGE = 600 -- seconds for which a browser need not ask again

local function names(value)
  if type(value) ~= "table" then return "a list of header names" end
  for _, name in ipairs(value) do
    if not headers.is_name(name) then return "a list of header names", name end
  end
end

local FIELDS = {
  origins = function(value)
    if value ~= "*" then return guard.origins(value) end
  end,
  credentials = check.boolean,
  headers = names,
  expose = names,
  max_age = check.whole(0),
}

function M.option(value)
  if value ~= "*" and type(value) ~= "table" then
    return "'*' or a table, as { origins = { 'https://example.com' }, credentials = true }"
  end
end

--- Checks what a table says; raises without a position.
function M.check(who, value)
  if type(value) ~= "table" then return end
  check.options(who, value, FIELDS, "cors.")
  local origins = value.origins
  if origins == nil then error(who .. ": cors.origins is missing: '*' or a list of them", 0) end
  if not value.credentials then return end
  if origins == "*" then error(who .. ": cors.credentials need a list of cors.origins, not '*': all sites", 0) end
  for _, origin in ipairs(origins) do
    if origin == "null" then error(who .. ": cors.credentials and the origin 'null', which any page can have", 0) end
  end
end

--- Tells the core, and returns the lines by which a preflight for a route with those methods is answered.
---@return (fun(methods: string[]): string)
function M.new(app_core, option)
  if option == "*" then option = { origins = "*" } end
  local exposed = option.expose and #option.expose > 0 and table.concat(option.expose, ", ") or nil
  if option.origins == "*" then
    app_core:cors(nil, 0, false, exposed)
  else
    app_core:cors(table.concat(option.origins, "\0") .. "\0", #option.origins, option.credentials or false, exposed)
  end
  local allowed = {}
  for _, list in ipairs { HEADERS, option.headers or {} } do
    for _, name in ipairs(list) do allowed[#allowed + 1] = name end
  end
  local rest = ("Access-Control-Allow-Headers: %s\r\nAccess-Control-Max-Age: %d\r\n"):format(
    table.concat(allowed, ", "), option.max_age or MAX_AGE)
  return function(methods)
    return ("Access-Control-Allow-Methods: %s\r\n"):format(table.concat(methods, ", ")) .. rest
  end
end

return M
