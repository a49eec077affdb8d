-- JSON by lua-cjson, where it is installed.
local M = {}

local found, cjson = pcall(require, "cjson")

--- A value as JSON. Raises, at no position, what begins with who.
---@param who string
---@param what string what the value is, for messages
---@param value any
---@return string
function M.encode(who, what, value)
  if not found then error(("%s: %s is a table, which needs JSON: luarocks install lua-cjson"):format(who, what), 0) end
  local ok, encoded = pcall(cjson.encode, value)
  if not ok then error(("%s: %s cannot be written as JSON: %s"):format(who, what, encoded), 0) end
  return encoded
end

--- What a text says; or nil and why it says nothing.
---@param text string
---@return any, string?
function M.decode(text)
  if not found then error("json: it needs JSON: luarocks install lua-cjson", 0) end
  local ok, value = pcall(cjson.decode, text)
  if ok then return value end
  return nil, "the body is no JSON: " .. tostring(value)
end

return M
