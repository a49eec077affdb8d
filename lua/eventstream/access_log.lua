-- The combined log format, which what reads logs understands:
--   203.0.113.9 - ada [27/Nov/2026:04:05:06 +0000] "GET /news HTTP/1.1" 200 5120 "https://a.example/" "Mozilla/5.0"
local check = require "eventstream.check"

local M = {}

local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }

-- What a client wrote must not end a field or a line, nor reach a terminal as a command.
local function quote(text)
  return '"' .. text:gsub('[%c"\\\127-\255]', function(byte) return ("\\x%02X"):format(byte:byte()) end) .. '"'
end

local function word(text)
  if type(text) ~= "string" or text == "" then return "-" end
  return (text:gsub('[%c%s"\\\127-\255]', function(byte) return ("\\x%02X"):format(byte:byte()) end))
end

local function date()
  local at = os.date "!*t" -- whatever the locale
  return ("%02d/%s/%d:%02d:%02d:%02d +0000"):format(at.day, MONTHS[at.month], at.year, at.hour, at.min, at.sec)
end

-- Who the script says that it is: a text, or what has one as its name.
local function user_of(request)
  local user = request.user
  return word(type(user) == "table" and user.name or user)
end

--- The line of an answer, without its end.
---@param answer eventstream.Answer
---@return string
function M.line(answer)
  local request = answer.request
  local headers = request.headers
  local asked = ("%s %s HTTP/%s"):format(request.method, request.target, request.version)
  return ("%s - %s [%s] %s %03d %d %s %s"):format(request.remote or "-", user_of(request), date(), quote(asked),
    answer.status, answer.bytes, quote(headers.referer or "-"), quote(headers["user-agent"] or "-"))
end

function M.new(file)
  if type(file) == "function" then
    return function(answer) file(M.line(answer)) end
  end
  if io.type(file) ~= "file" then
    error(("access_log: file must be an open file or a function, not %s"):format(check.show(file)), 0)
  end
  return function(answer)
    file:write(M.line(answer) .. "\n") -- one write, where the file is not buffered
    file:flush()
  end
end

return M
