-- The request's methods: what its body says. Its fields are the core's (csrc/lua/request.c).
local check = require "eventstream.check"
local core = require "eventstream.core"
local json = require "eventstream.json"

local PARTS = 1000 -- of one form

---@class eventstream.Request
---@field method string "GET"
---@field target string as sent
---@field path string of the target; only what must be is percent-encoded, so it is one text, however it was sent
---@field query table<string, string> decoded; of a repeated key the last value
---@field query_all table<string, string[]> decoded; all values
---@field headers table<string, string> looked up in any case; repeated ones joined
---@field cookies table<string, string>
---@field params table<string, string> of the route's path, decoded
---@field body string
---@field remote string? the client's address; nil on a Unix socket
---@field version string "1.1" or "1.0"
local Request = core.request

---@class eventstream.FormFile a file of a form
---@field filename string as the browser told it: not to be trusted as a path
---@field type string its media type, as the browser told it
---@field body string

local function check_self(request, who)
  if not core.is_request(request) then
    error(("%s: call it with a colon: request:%s()"):format(who, who), 0)
  end
end

-- The media type in small letters, and its parameters as they stand.
local function media_type(request)
  local kind, parameters = (request.headers["content-type"] or ""):match "^%s*([^;%s]*)%s*(.*)$"
  return kind:lower(), parameters
end

--- What a JSON body says (cjson.null for null); or nil and why it says nothing. The Content-Type must be JSON's: a page
--- of another site can send any other without being asked for leave.
---@return any value, string? message
function Request:json()
  check.call(check_self, self, "json")
  local kind = media_type(self)
  if kind ~= "application/json" and not kind:find "^application/[%w.!#$&^_-]+%+json$" then
    return nil, "the body is not sent as application/json"
  end
  return check.call(json.decode, self.body)
end

-- A quoted parameter, as browsers escape it (WHATWG HTML, "multipart/form-data").
local function parameter(line, name)
  local value = line:match(";%s*" .. name .. '="([^"]*)"')
  local escaped = { ["%22"] = '"', ["%0D"] = "\r", ["%0A"] = "\n" }
  return value and value:gsub("%%%x%x", escaped) or nil
end

local function trimmed(value)
  local stop = #value
  while value:find("^[ \t]", stop) do stop = stop - 1 end
  return value:sub(1, stop)
end

-- One part's name and value: a text, or a file.
local function part_of(head, body)
  local disposition, kind
  for line in (head .. "\r\n"):gmatch "(.-)\r\n" do
    local name, value = line:match "^([%w-]+):[ \t]*(.*)$" -- and no "(.-)%s*$": its time grows with the square
    if name and name:lower() == "content-disposition" then disposition = value end
    if name and name:lower() == "content-type" then kind = trimmed(value) end
  end
  if not disposition or not disposition:find "^[Ff][Oo][Rr][Mm]%-[Dd][Aa][Tt][Aa]%s*;" then return end
  local name, filename = parameter(disposition, "name"), parameter(disposition, "filename")
  if not name then return end
  if not filename then return name, body end
  return name, { filename = filename, type = kind or "text/plain", body = body }
end

-- The parts between the boundaries (RFC 2046, 5.1.1), or nil.
local function read_parts(text, boundary)
  local all, last, count = {}, {}, 0
  local delimiter = "\r\n--" .. boundary
  text = "\r\n" .. text
  local _, at = text:find(delimiter, 1, true)
  while at do
    if text:sub(at + 1, at + 2) == "--" then return last, all end
    local line_end = select(2, text:find("^[ \t]*\r\n", at + 1))
    local from, to = text:find(delimiter, line_end or at, true)
    if not line_end or not from or count == PARTS then return end
    local head, body = text:sub(line_end - 1, from - 1):match "^\r\n(.-)\r\n\r\n(.*)$"
    local name, value
    if head then name, value = part_of(head, body) end
    if not name then return end
    all[name] = all[name] or {}
    table.insert(all[name], value)
    last[name] = value
    count, at = count + 1, to
  end
end

--- What a form says, by name: of a repeated name the last value, and lists of all. A file is a table. Or nil and why
--- it says nothing.
---@return table<string, string|eventstream.FormFile>? fields, table<string, (string|eventstream.FormFile)[]>|string all
function Request:form()
  check.call(check_self, self, "form")
  local kind, parameters = media_type(self)
  if kind == "application/x-www-form-urlencoded" then return core.form(self.body) end
  if kind ~= "multipart/form-data" then return nil, "the body is no form" end
  local boundary = parameters:match '[Bb]oundary="([^"]+)"' or parameters:match '[Bb]oundary=([^;%s"]+)'
  if not boundary or #boundary > 70 then return nil, "the form has no boundary" end
  local last, all = read_parts(self.body, boundary)
  if not last then return nil, "the form is malformed" end
  return last, all
end
