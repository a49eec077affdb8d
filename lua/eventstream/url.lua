-- http and https addresses: taken apart, and found from another one (RFC 3986).
local M = {}

local PORTS = { http = 80, https = 443 }

-- What may not stand in a request line is written by its bytes, as browsers do; what is written so already stays.
local function encoded(text)
  return (text:gsub("[^%w%-._~:/?#%[%]@!$&'()*+,;=%%]", function(c) return ("%%%02X"):format(c:byte()) end))
end

---@class eventstream.Url
---@field scheme "http"|"https"
---@field host string without the brackets of an IPv6 address
---@field port integer
---@field authority string as the Host header has it: the host, and the port where it is not the scheme's own
---@field target string the path and the query

--- Takes an address apart; or nil and what is wrong with it.
---@param text string
---@return eventstream.Url?, string?
function M.parse(text)
  local scheme, authority, target = text:match "^(%a[%w+.-]*)://([^/?#]*)([^#]*)"
  scheme = scheme and scheme:lower()
  if not PORTS[scheme] then return nil, "it must begin with http:// or https://" end
  if authority:find("@", 1, true) then return nil, "it must not contain a user; send an Authorization header" end
  local host, port = authority:match "^%[([%x:.]+)%]:?(%d*)$"
  if not host then
    local rest
    host, rest = authority:match "^([%w%-._~]+)(.*)$" -- in one step every digit would be tried as the port's first
    port = host and rest:match "^:?(%d*)$"
    host = port and host
  end
  if not host then return nil, "its host is none" end
  port = port == "" and PORTS[scheme] or tonumber(port)
  if port < 1 or port > 65535 then return nil, "its port is none" end
  local shown = host:find(":", 1, true) and "[" .. host .. "]" or host:lower()
  if port ~= PORTS[scheme] then shown = ("%s:%d"):format(shown, port) end
  if target:sub(1, 1) ~= "/" then target = "/" .. target end
  return { scheme = scheme, host = host:lower(), port = port, authority = shown, target = encoded(target) }
end

--- The address as a text.
---@param url eventstream.Url
---@return string
function M.text(url)
  return url.scheme .. "://" .. url.authority .. url.target
end

-- RFC 3986, 5.2.4
local function without_dots(path)
  local kept = {}
  local last
  for segment in path:gmatch "/([^/]*)" do
    last = segment
    if segment == ".." then
      kept[#kept] = nil
    elseif segment ~= "." then
      kept[#kept + 1] = segment
    end
  end
  local whole = "/" .. table.concat(kept, "/")
  if (last == "." or last == "..") and whole ~= "/" then whole = whole .. "/" end
  return whole
end

--- The address that a reference means beside another one; or nil and what is wrong with it.
---@param base eventstream.Url
---@param reference string
---@return eventstream.Url?, string?
function M.resolve(base, reference)
  if reference:find "^%a[%w+.-]*:" then return M.parse(reference) end
  if reference:find "^//" then return M.parse(base.scheme .. ":" .. reference) end
  reference = reference:gsub("#.*", "")
  local path, query = reference:match "^([^?]*)(.*)$"
  local base_path, base_query = base.target:match "^([^?]*)(.*)$"
  if path == "" then
    path, query = base_path, query ~= "" and query or base_query
  elseif path:sub(1, 1) ~= "/" then
    path = base_path:match "^(.*/)" .. path
  end
  return M.parse(base.scheme .. "://" .. base.authority .. without_dots(path) .. query)
end

--- Whether both are of one origin: what one may know, the other may.
function M.same_origin(a, b)
  return a.scheme == b.scheme and a.authority == b.authority
end

return M
