--- A reader of event streams, written by WHATWG HTML, 9.2.6 "Interpreting an event stream", line by line, and by
-- nothing that the library does. encode_spec holds it against vectors that agree with Chromium, and the encoder
-- against it.

local M = {}

local REPLACEMENT = "\239\191\189" -- U+FFFD

-- The bytes that may follow a lead byte directly (Unicode 15, table 3-7), and how many follow in all.
local LEADS = {
  { 0xC2, 0xDF, 0x80, 0xBF, 1 }, { 0xE0, 0xE0, 0xA0, 0xBF, 2 }, { 0xE1, 0xEC, 0x80, 0xBF, 2 },
  { 0xED, 0xED, 0x80, 0x9F, 2 }, { 0xEE, 0xEF, 0x80, 0xBF, 2 }, { 0xF0, 0xF0, 0x90, 0xBF, 3 },
  { 0xF1, 0xF3, 0x80, 0xBF, 3 }, { 0xF4, 0xF4, 0x80, 0x8F, 3 },
}

local function lead_of(byte)
  for _, lead in ipairs(LEADS) do
    if byte >= lead[1] and byte <= lead[2] then return lead end
  end
end

-- How many bytes from `at` on are one character or one broken piece of it, and whether it is whole.
local function character(bytes, at)
  local byte = bytes:byte(at)
  if byte < 0x80 then return 1, true end
  local lead = lead_of(byte)
  if not lead then return 1, false end
  local least, most = lead[3], lead[4]
  for i = 1, lead[5] do
    local next_byte = bytes:byte(at + i)
    if not next_byte or next_byte < least or next_byte > most then return i, false end
    least, most = 0x80, 0xBF
  end
  return lead[5] + 1, true
end

--- UTF-8 decode without the BOM (Encoding, 4.1): what is no UTF-8 becomes U+FFFD, one for each broken piece.
---@param bytes string
---@return string
function M.decode(bytes)
  local out, at = {}, 1
  while at <= #bytes do
    local size, whole = character(bytes, at)
    out[#out + 1] = whole and bytes:sub(at, at + size - 1) or REPLACEMENT
    at = at + size
  end
  return table.concat(out)
end

-- The lines that are ended by CRLF, LF or CR; what follows the last end is no line.
local function lines_of(text)
  local lines, from = {}, 1
  while true do
    local at = text:find("[\r\n]", from)
    if not at then return lines end
    lines[#lines + 1] = text:sub(from, at - 1)
    from = at + (text:sub(at, at + 1) == "\r\n" and 2 or 1)
  end
end

---@class spec.Message
---@field type string
---@field data string
---@field last_event_id string

--- Reads a whole stream.
---@param bytes string
---@param raw? boolean  bytes that are no UTF-8 stay as they are
---@return spec.Message[] messages, { last_event_id: string, retry: string?, comments: string[] } rest
function M.read(bytes, raw)
  if bytes:sub(1, 3) == "\239\187\191" then bytes = bytes:sub(4) end
  local messages, rest = {}, { last_event_id = "", comments = {} }
  local data, kind, id = {}, "", "" -- data: its lines
  local function dispatch()
    rest.last_event_id = id
    if #data > 0 then
      messages[#messages + 1] =
        { type = kind == "" and "message" or kind, data = table.concat(data, "\n"), last_event_id = id }
    end
    data, kind = {}, ""
  end
  local fields = {
    event = function(value) kind = value end,
    data = function(value) data[#data + 1] = value end,
    id = function(value)
      if not value:find("\0", 1, true) then id = value end
    end,
    retry = function(value)
      if value:find "^[0-9]+$" then rest.retry = value end
    end,
  }
  for _, line in ipairs(lines_of(raw and bytes or M.decode(bytes))) do
    local colon = line:find(":", 1, true)
    if line == "" then
      dispatch()
    elseif colon == 1 then
      rest.comments[#rest.comments + 1] = line:sub(2)
    else
      local name, value = line, ""
      if colon then
        name, value = line:sub(1, colon - 1), line:sub(colon + 1)
        if value:sub(1, 1) == " " then value = value:sub(2) end
      end
      if fields[name] then fields[name](value) end
    end
  end
  return messages, rest
end

return M
