-- Who may come in: the options `hosts`, `origins` and `trusted`.
local core = require "eventstream.core"

local M = {}

-- A list of at least one text that fits; else what it must be, and the culprit.
local function check_list(value, wanted, fits, named)
  if type(value) ~= "table" then return wanted end
  for key, each in pairs(value) do
    local is_item = type(key) == "number"
    if is_item and (type(each) ~= "string" or not fits(each)) then return wanted, each end
    if not is_item and key ~= named then return wanted, key end
  end
  if #value == 0 then return wanted end
end

-- A host, and perhaps a port. A "*" is the first label, and not a part of one: "*example.com" would be anybody's.
local function is_authority(text)
  if text:find "^%[[%x:%.]+%]:?%d*$" then return true end
  text = text:gsub("^%*%.", "", 1)
  return text:find "^[%w%-%._~]+$" or text:find "^[%w%-%._~]+:%d+$"
end

--- "example.com", "example.com:8080", "[::1]", "*.example.com"
function M.hosts(value)
  return check_list(value, "a list of hosts, as { 'example.com', '*.example.com', 'localhost:8080' }", function(text)
    return is_authority(text)
  end)
end

--- "https://example.com", "http://localhost:8080", "https://*.example.com", "null"
function M.origins(value)
  return check_list(value, "a list of origins without a path, as { 'https://example.com' }", function(text)
    local authority = text:match "^%a[%w+.-]*://(.+)$"
    return text == "null" or authority and is_authority(authority)
  end)
end

--- "10.0.0.0/8", "::1", "unix"; and the header in which they name their clients
function M.trusted(value)
  local wanted = "a list of addresses and networks, as { '127.0.0.1', '10.0.0.0/8', 'unix' }"
  local message, culprit = check_list(value, wanted, core.is_network, "header")
  if message then return message, culprit end
  local header = value.header
  if header == nil then return end
  if type(header) ~= "string" or not (header:lower() == "x-forwarded-for" or header:lower() == "forwarded") then
    return "a list whose header is 'X-Forwarded-For' (the default) or 'Forwarded'", header
  end
end

-- Whether one of a list is meant; "*." stands for any labels in front. Returns a function of a name and what may follow
-- it (":8080").
local function matcher(list)
  local exact, suffixes = {}, {}
  for _, text in ipairs(list) do
    local before, suffix = text:lower():match "^(.-)%*(%..+)$"
    if suffix then
      suffixes[#suffixes + 1] = { before = before, suffix = suffix }
    else
      exact[text:lower()] = true
    end
  end
  return function(text)
    if exact[text] then return true end
    for _, each in ipairs(suffixes) do
      local before, suffix = each.before, each.suffix
      local labels = text:sub(#before + 1, -#suffix - 1)
      if before .. labels .. suffix == text and labels:find "^[%w%-%._]+$" then return true end
    end
    return false
  end
end

local function host_checker(list)
  local listed = matcher(list)
  return function(host)
    host = host:lower()
    local name, port = host:match "^(.-)(:%d*)$"
    if not name or name:find("^%[[^%]]*$") then name, port = host, "" end
    name = name:gsub("%.$", "")
    return listed(name) or (port ~= "" and listed(name .. port))
  end
end

--- What `hosts` and `origins` say of a request: nothing, or a status and a text to refuse it with, and what refused it.
--- A target may name a host, too, which then counts instead of the header (RFC 9112, 3.2.2): both must be fine.
---@return (fun(request: eventstream.Request): integer?, string?, "host"|"origin"|nil)?
function M.new(options)
  local host_listed = options.hosts and host_checker(options.hosts)
  local origin_listed = options.origins and matcher(options.origins)
  if not host_listed and not origin_listed then return nil end
  return function(request)
    local headers = request.headers
    if host_listed then
      local target = request.target:match "^%a[%w+.-]*://([^/?#]*)"
      if not host_listed(headers.host or "") or (target and not host_listed(target)) then
        return 421, "this server is not for that host", "host" -- RFC 9110, 15.5.20
      end
    end
    local origin = headers.origin
    if origin_listed and origin and not origin_listed(origin:lower()) then
      return 403, "this origin is not allowed", "origin"
    end
  end
end

return M
