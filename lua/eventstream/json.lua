-- JSON by lua-cjson, where it is installed.
local M = {}

local found, cjson = pcall(require, "cjson")

-- What a script sets of these for lua-cjson holds for request:json, too; the second one is OpenResty's.
local SHARED = { "decode_max_depth", "decode_array_with_array_mt" }

local strict

-- For what others send: unless it is told otherwise lua-cjson reads NaN, Infinity and 0x1F, too. The instance is ours,
-- as a script may want that of its own.
local function decoder()
  if not strict then
    strict = cjson.new()
    strict.decode_invalid_numbers(false)
  end
  for _, name in ipairs(SHARED) do
    if cjson[name] then strict[name](cjson[name]()) end
  end
  return strict.decode
end

-- Whether all numbers are such that JSON can say them: 1e999 is read as what it cannot. Without calls of itself, as how
-- deep values nest is the client's to choose.
local function is_finite(value)
  local pending, count = { { value } }, 1
  while count > 0 do
    local each = pending[count]
    pending[count], count = nil, count - 1
    for _, inner in next, each do
      if type(inner) == "table" then
        count = count + 1
        pending[count] = inner
      elseif inner == math.huge or inner == -math.huge then
        return false
      end
    end
  end
  return true
end

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
  local ok, value = pcall(decoder(), text) -- called from C: its message has no place of ours in front
  if not ok then return nil, "the body is no JSON: " .. tostring(value) end
  if not is_finite(value) then return nil, "the body is no JSON: a number is too large" end
  return value
end

return M
