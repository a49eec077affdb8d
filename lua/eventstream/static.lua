-- Files of a folder: app:static. What is asked for is opened below the folder by the core, which looks where it really
-- is; here stand the rules of HTTP around it (RFC 9110, 8.8, 13 and 14).
local check = require "eventstream.check"
local core = require "eventstream.core"

local M = {}

local TEXT = "; charset=utf-8"
local TYPES = {
  html = "text/html" .. TEXT, htm = "text/html" .. TEXT, css = "text/css" .. TEXT, js = "text/javascript" .. TEXT,
  mjs = "text/javascript" .. TEXT, txt = "text/plain" .. TEXT, md = "text/markdown" .. TEXT, csv = "text/csv" .. TEXT,
  xml = "text/xml" .. TEXT, ics = "text/calendar" .. TEXT, vtt = "text/vtt" .. TEXT, json = "application/json",
  map = "application/json", jsonl = "application/jsonl", webmanifest = "application/manifest+json",
  wasm = "application/wasm", pdf = "application/pdf", zip = "application/zip", gz = "application/gzip",
  rss = "application/rss+xml", atom = "application/atom+xml", svg = "image/svg+xml", png = "image/png",
  jpg = "image/jpeg", jpeg = "image/jpeg", gif = "image/gif", webp = "image/webp", avif = "image/avif",
  ico = "image/x-icon", bmp = "image/bmp", woff = "font/woff", woff2 = "font/woff2", ttf = "font/ttf",
  otf = "font/otf", mp3 = "audio/mpeg", ogg = "audio/ogg", wav = "audio/wav", flac = "audio/flac", opus = "audio/ogg",
  mp4 = "video/mp4", webm = "video/webm", mov = "video/quicktime",
}

local OPTIONS = {
  max_age = check.whole(0),
  index = check.or_false(check.path, "a file's name, or false"),
  types = function(value)
    if type(value) ~= "table" then return "a table, as { glb = 'model/gltf-binary' }" end
    for name, each in pairs(value) do
      if type(name) ~= "string" or not name:find "^%w+$" then return "a table by endings, without a dot", name end
      if type(each) ~= "string" or each:find "%c" then return "a table of media types", each end
    end
  end,
  hidden = check.boolean,
}

local DAYS = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }
local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }

-- As HTTP writes a date (RFC 9110, 5.6.7), whatever the locale.
local function date(seconds)
  local at = os.date("!*t", seconds)
  return ("%s, %02d %s %d %02d:%02d:%02d GMT"):format(DAYS[at.wday], at.day, MONTHS[at.month], at.year, at.hour, at.min,
    at.sec)
end

-- Days since 1970; a month 13 is the next year's first. Years begin in March here, so that leap days are their last.
local function days(year, month, day)
  if month <= 2 then year = year - 1 end
  local before = math.floor((153 * ((month + 9) % 12) + 2) / 5)
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400) + before + day - 719469
end

-- A year of two digits is at most 50 years ahead.
local function century(digits)
  local now = tonumber(os.date "!%Y")
  local year = now - now % 100 + digits
  return year > now + 50 and year - 100 or year
end

-- What a date of HTTP's says, in its form or in one of the two obsolete ones, in seconds since 1970; or nil (RFC 9110,
-- 5.6.7).
local function seconds_of(text)
  local day, name, year, hour, min, sec = text:match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if not day then
    day, name, year, hour, min, sec = text:match "^%a+, (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  end
  if not day then
    name, day, hour, min, sec, year = text:match "^%a%a%a (%a%a%a) ([%d ]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$"
  end
  local month
  for i, each in ipairs(MONTHS) do
    if each == name then month = i end
  end
  if not month then return end
  day, hour, min, sec = tonumber(day), tonumber(hour), tonumber(min), tonumber(sec)
  year = #year == 2 and century(tonumber(year)) or tonumber(year)
  local number = days(year, month, day)
  if day < 1 or number >= days(year, month + 1, 1) or hour > 23 or min > 59 or sec > 60 then return end
  return ((number * 24 + hour) * 60 + min) * 60 + sec
end

-- The path below the folder, or nil where no file can be meant. A rest that is empty or ends with "/" is a folder.
local function clean(rest, hidden)
  if rest:find "[%z\\]" then return end
  for segment in rest:gmatch "[^/]+" do
    if segment == ".." or segment == "." then return end
    if not hidden and segment:find "^%." and segment ~= ".well-known" then return end
  end
  if rest:find "//" or rest:sub(1, 1) == "/" then return end
  return rest
end

-- Whether a list of ETags has one, or "*" (RFC 9110, 13.1.2: weakly).
local function lists(field, tag)
  if field:find "^%s*%*%s*$" then return true end
  for each in field:gmatch '"[^"]*"' do
    if each == tag then return true end
  end
  return false
end

-- Whether a file that changed then has not changed since a header's date; nil where there is none, or it is no date.
local function is_since(field, seconds)
  local date_seconds = field and seconds_of(field)
  if date_seconds then return seconds <= date_seconds end
end

-- Whether the client has it already (RFC 9110, 13.2.2).
local function is_fresh(headers, tag, seconds)
  local none_match = headers["if-none-match"]
  if none_match then return lists(none_match, tag) end
  return is_since(headers["if-modified-since"], seconds)
end

-- Whether what the client relies on is not there any more (RFC 9110, 13.1.1 and 13.1.4).
local function is_other(headers, tag, seconds)
  local match = headers["if-match"]
  if match then return not lists(match:gsub('W/"[^"]*"', ""), tag) end
  return is_since(headers["if-unmodified-since"], seconds) == false
end

-- The one range that is asked for: its first byte and its size; false where it is none of the file's; nil where the
-- whole is to be sent, as for several ranges (RFC 9110, 14.2).
local function range_of(headers, size, tag, changed)
  local field, condition = headers.range, headers["if-range"]
  if not field or (condition and condition ~= tag and condition ~= changed) then return end
  local first, last = field:match "^[Bb][Yy][Tt][Ee][Ss]%s*=%s*(%d*)%-(%d*)%s*$"
  if not first or (first == "" and last == "") or #first > 15 or #last > 15 then return end
  first, last = tonumber(first), tonumber(last)
  if not first then
    if last == 0 or size == 0 then return false end
    return math.max(size - last, 0), math.min(last, size)
  end
  if last and last < first then return end
  if first >= size then return false end
  return first, math.min(last or size - 1, size - 1) - first + 1
end

local function plain(status, lines, body)
  return status, "Content-Type: text/plain; charset=utf-8\r\n" .. (lines or ""), body .. "\n"
end

local REFUSED = { EACCES = 403, EPERM = 403, EMFILE = 503, ENFILE = 503, ENOMEM = 503, EIO = 500 }
local WHY = { [403] = "forbidden", [503] = "the server is full", [500] = "the file cannot be read" }

local function refuse(name)
  local status = REFUSED[name]
  if not status then return plain(404, nil, "not found") end
  return plain(status, status == 503 and "Retry-After: 5\r\n" or nil, WHY[status])
end

-- "/a" -> "/a/", with the query. One slash at the start, as two would name a host.
function M.redirect(request)
  local path, query = request.target:match "^([^?]*)(.*)$"
  path = path:gsub("^%a[%w+.-]*://[^/]*", ""):gsub("^[/\\]+", "/")
  return plain(301, ("Location: %s/%s\r\n"):format(path, query), "moved")
end

--- Checks what app:static was given, and returns what answers a request: function(request) -> status, lines, body.
---@param folder string
---@param options eventstream.StaticOptions?
function M.new(folder, options)
  if check.path(folder) then
    error(("static: folder must be a path, not %s"):format(check.show(folder)), 0)
  end
  options = check.options("static", options, OPTIONS)
  local readable, name = core.is_folder(folder)
  if not readable then error(("static: no files can be served from '%s' (%s)"):format(folder, name), 0) end
  local index = options.index == nil and "index.html" or options.index
  local age = options.max_age and ("max-age=%d"):format(options.max_age) or "no-cache" -- which asks each time, by ETag

  local function type_of(path)
    local ending = path:match "%.(%w+)$"
    ending = ending and ending:lower()
    return ending and (options.types and options.types[ending] or TYPES[ending]) or "application/octet-stream"
  end

  local function answer(request, path, file, size, seconds, nanoseconds)
    local headers = request.headers
    local tag, changed = ('"%x.%x-%x"'):format(seconds, nanoseconds, size), date(seconds)
    local lines = ("ETag: %s\r\nLast-Modified: %s\r\nCache-Control: %s\r\n"):format(tag, changed, age)
    if is_other(headers, tag, seconds) then
      file:close()
      return plain(412, nil, "it has changed")
    end
    if is_fresh(headers, tag, seconds) then
      file:close()
      return 304, lines, ""
    end
    lines = ("%sContent-Type: %s\r\nAccept-Ranges: bytes\r\n"):format(lines, type_of(path))
    local first, length
    if request.method == "GET" then first, length = range_of(headers, size, tag, changed) end
    if first == false then
      file:close()
      return plain(416, ("Content-Range: bytes */%d\r\n"):format(size), "no such range")
    end
    if not first then return 200, lines, file end
    file:range(first, length)
    return 206, ("%sContent-Range: bytes %d-%d/%d\r\n"):format(lines, first, first + length - 1, size), file
  end

  return function(request)
    local path = clean(request.params["*"] or "", options.hidden)
    if not path or request.path:find("%2F", 1, true) then return refuse() end -- no file has that in its name
    local is_folder = path == "" or path:sub(-1) == "/"
    if is_folder then
      if not index then return refuse() end
      path = path .. index
    end
    local file, size, seconds, nanoseconds = core.open_file(folder, path)
    if file then return answer(request, path, file, size, seconds, nanoseconds) end
    if size == "EISDIR" and index and not is_folder then return M.redirect(request) end
    return refuse(size)
  end
end

return M
