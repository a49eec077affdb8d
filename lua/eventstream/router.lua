-- Which route a path belongs to. A literal segment beats a parameter (":name"), a parameter beats a rest ("*"), and
-- the first segment decides before the second. Segments are percent-decoded after the path is split, so that "%2F"
-- separates nothing.
local M = {}
M.__index = M

function M.new()
  return setmetatable({ root = { literals = {} } }, M)
end

local function decode(segment)
  if not segment:find("%", 1, true) then return segment end
  local bad
  local decoded = segment:gsub("%%(%x?%x?)", function(hex)
    if #hex < 2 or hex == "00" then
      bad = true
      return nil
    end
    return string.char(tonumber(hex, 16))
  end)
  if bad then return nil end
  return decoded
end

-- Splits without relying on how gmatch treats empty matches.
local function split(path)
  local segments, from = {}, 2
  while true do
    local slash = path:find("/", from, true)
    segments[#segments + 1] = path:sub(from, slash and slash - 1)
    if not slash then return segments end
    from = slash + 1
  end
end

--- Adds a route for a method. Raises without a position.
---@param method string
---@param pattern string
---@param route table
function M:add(who, method, pattern, route)
  if type(pattern) ~= "string" or pattern:sub(1, 1) ~= "/" then
    error(("%s: path must be a string that starts with '/', not %s"):format(who, tostring(pattern)), 0)
  end
  local node, names = self.root, {}
  local segments = split(pattern)
  for i, segment in ipairs(segments) do
    local first = segment:sub(1, 1)
    if first == ":" then
      names[#names + 1] = segment:sub(2)
      if segment == ":" then error(("%s: path '%s' has a parameter without a name"):format(who, pattern), 0) end
      node.parameter = node.parameter or { literals = {} }
      node = node.parameter
    elseif segment == "*" then
      if i < #segments then error(("%s: path '%s' goes on after '*'"):format(who, pattern), 0) end
      names[#names + 1] = "*"
      node.rest = node.rest or { literals = {} }
      node = node.rest
    else
      node.literals[segment] = node.literals[segment] or { literals = {} }
      node = node.literals[segment]
    end
  end
  node.routes = node.routes or {}
  if node.routes[method] then error(("%s: there is a route for %s %s already"):format(who, method, pattern), 0) end
  node.routes[method] = { route = route, names = names, pattern = pattern }
end

local function find(node, segments, i, values)
  if i > #segments then return node.routes and node or nil end
  local literal = node.literals[segments[i]]
  local found = literal and find(literal, segments, i + 1, values)
  if found then return found end
  local count = #values
  if node.parameter and segments[i] ~= "" then
    values[count + 1] = segments[i]
    found = find(node.parameter, segments, i + 1, values)
    if found then return found end
  end
  for k = #values, count + 1, -1 do values[k] = nil end
  if node.rest then
    values[count + 1] = table.concat(segments, "/", i)
    return node.rest
  end
  return nil
end

--- The routes of a path: a table method -> entry, and the values of its parameters; or nil, and whether the path is
--- malformed.
---@param path string
---@return table?, any
function M:match(path)
  local segments = split(path)
  for i, segment in ipairs(segments) do
    local decoded = decode(segment)
    if not decoded then return nil, true end
    segments[i] = decoded
  end
  local values = {}
  local node = find(self.root, segments, 1, values)
  if not node then return nil, false end
  return node.routes, values
end

--- The parameters of a request as a table.
function M:params(method, path)
  local routes, values = self:match(path)
  local params = {}
  local entry = routes and (routes[method] or (method == "HEAD" and routes.GET))
  if entry then
    for i, name in ipairs(entry.names) do params[name] = values[i] end
  end
  return params
end

return M
