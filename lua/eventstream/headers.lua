-- Header lines and ordinary answers, checked: nothing that a script passes on can split an answer (RFC 9110, 5.5).
local check = require "eventstream.check"
local json = require "eventstream.json"

local M = {}

-- The core writes these itself, from what it knows.
local OURS = { ["content-length"] = true, ["transfer-encoding"] = true }

--- Whether a header can have that name: a token (RFC 9110, 5.1).
function M.is_name(name)
  return type(name) == "string" and name:find "^[%w!#$%%&'*+%-.^_`|~]+$" ~= nil
end

local function line_of(who, name, value, reserved)
  if not M.is_name(name) then
    local shown = type(name) == "string" and ("'%s'"):format(name) or "a " .. type(name)
    error(("%s: header name must be a token, not %s"):format(who, shown), 0)
  end
  if OURS[name:lower()] or (reserved and reserved[name:lower()]) then
    error(("%s: header '%s' is written by the server"):format(who, name), 0)
  end
  if type(value) == "number" then value = tostring(value) end
  if type(value) ~= "string" then
    error(("%s: header '%s' must be a string, a number or a list of them, not %s"):format(who, name, type(value)), 0)
  end
  if value:find("[%z\1-\8\10-\31\127]") then
    error(("%s: header '%s' must not contain control characters"):format(who, name), 0)
  end
  return ("%s: %s\r\n"):format(name, value)
end

--- The lines of one header; a list gives several.
---@param who string for messages
---@param name string
---@param value string|number|(string|number)[]
---@param reserved table<string, boolean>? more names that the server writes itself
---@return string
function M.lines(who, name, value, reserved)
  if type(value) ~= "table" then return line_of(who, name, value, reserved) end
  local lines = {}
  for i, one in ipairs(value) do lines[i] = line_of(who, name, one, reserved) end
  return table.concat(lines)
end

--- A block of lines without those of one header.
---@param block string
---@param name string
---@return string
function M.without(block, name)
  local kept = block:gsub("[^\r\n]+\r\n", function(line)
    if line:match("^[^:]+"):lower() == name:lower() then return "" end
  end)
  return kept
end

local MANAGED = { connection = true, date = true }

--- Makes what a handler returned (status, body, headers; or a string or a table; or nothing) into what the core
--- sends. Raises without a position: the caller adds the one that helps.
---@return integer status, string lines, string body
function M.result(who, status, body, headers)
  if status == nil and body == nil and headers == nil then return 204, "", "" end
  if body == nil and (type(status) == "string" or type(status) == "table") then status, body = 200, status end
  return M.answer(who, status, body, headers)
end

--- The same for what names its status.
function M.answer(who, status, body, headers)
  if type(status) ~= "number" or status % 1 ~= 0 or status < 200 or status > 599 then
    local hint = status == true and " (with a backplane publish returns no id: its callback has it)" or ""
    if body ~= nil then hint = hint .. " (a handler returns body; or status, body, headers)" end
    error(("%s: status must be a whole number from 200 to 599, not %s%s"):format(who, check.show(status), hint), 0)
  end
  if body == nil then body = "" end
  if type(body) == "number" then body = tostring(body) end
  local kind = "text/plain; charset=utf-8"
  if type(body) == "table" then body, kind = json.encode(who, "body", body), "application/json" end
  if type(body) ~= "string" then
    error(("%s: body must be a string or a table, not %s"):format(who, type(body)), 0)
  end
  if headers ~= nil and type(headers) ~= "table" then
    error(("%s: headers must be a table, not %s"):format(who, type(headers)), 0)
  end
  local lines, typed = {}, body == ""
  for name, value in pairs(headers or {}) do
    lines[#lines + 1] = M.lines(who, name, value, MANAGED)
    typed = typed or name:lower() == "content-type"
  end
  if not typed then lines[#lines + 1] = ("Content-Type: %s\r\n"):format(kind) end
  return math.floor(status), table.concat(lines), body
end

return M
