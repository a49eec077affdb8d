--- Reads one connection's bytes as they come: an HTTP/1.1 head, the chunks of its body, and the event stream in them,
-- by RFC 9112 and WHATWG HTML, 9.2.6, and by nothing that the library does. For load clients: it is fast where a
-- block is an id and one line of data, and it raises an error at whatever it has no right to meet.
local M = {}

---@class spec.Wire
---@field last_event_id string?  as a browser keeps it: set when a block is whole, also when it has no data
---@field blocks integer         that are whole
---@field retry integer?         milliseconds, the last that was told
---@field whole boolean          the last chunk has come
local Wire = {}
Wire.__index = Wire

--- A reader. on_event(type, data, id) is called for each event, when its blank line has come.
---@param on_event fun(type: string, data: string, id: string?)
---@param last_event_id string?  of the connection before
---@return spec.Wire
function M.new(on_event, last_event_id)
  return setmetatable({ on_event = on_event, last_event_id = last_event_id, id = last_event_id, blocks = 0,
    comments = 0, rest = "", text = "", left = 0, headed = false, ends = false, whole = false }, Wire)
end

-- One block, line by line.
local function interpret(self, block)
  local kind, data = "message", nil
  for line in (block .. "\n"):gmatch "([^\n]*)\n" do
    local name, value = line:match "^([^:]*): ?(.*)$"
    if name == "" then
      self.comments = self.comments + 1
    elseif name == "data" then
      data = data and data .. "\n" .. value or value
    elseif name == "id" then
      self.id = value
    elseif name == "event" then
      kind = value
    elseif name == "retry" then
      if not value:find "^%d+$" then error("a retry that is no number: " .. value) end
      self.retry = tonumber(value)
    elseif line ~= "" then
      error(("a field that nobody wrote: %q"):format(line:sub(1, 200)))
    end
  end
  return kind, data
end

local function dispatch(self, text)
  if text:find("\r", 1, true) then error "a carriage return within the event stream" end
  local at = 1
  while true do
    local stop = text:find("\n\n", at, true)
    if not stop then break end
    local block, kind = text:sub(at, stop - 1), "message"
    local id, data = block:match "^id: ([^\n]*)\ndata: ([^\n]*)$"
    if id then
      self.id = id
    else
      kind, data = interpret(self, block)
    end
    self.last_event_id = self.id
    self.blocks = self.blocks + 1
    if data then self.on_event(kind, data, self.id) end
    at = stop + 2
  end
  return text:sub(at)
end

-- The head, when it has come; returns what follows it.
local function head(self, bytes)
  local stop = bytes:find("\r\n\r\n", 1, true)
  if not stop then return end
  local lines = bytes:sub(1, stop + 1):lower()
  if not lines:find "^http/1%.1 200 " then error("an answer that is no stream: " .. lines) end
  if not lines:find("\ncontent-type: text/event-stream", 1, true) then error("no event stream: " .. lines) end
  if not lines:find("\ntransfer-encoding: chunked\r\n", 1, true) then error("not chunked: " .. lines) end
  self.headed = true
  return bytes:sub(stop + 4)
end

--- Takes the bytes that came.
---@param bytes string
function Wire:feed(bytes)
  if self.rest ~= "" then bytes = self.rest .. bytes end
  if not self.headed then
    local body = head(self, bytes)
    self.rest = body and "" or bytes
    if not body then return end
    bytes = body
  end
  local at, size, pieces, left, ends = 1, #bytes, { self.text }, self.left, self.ends
  while at <= size do
    if left > 0 then -- within a chunk
      local stop = at + left - 1
      if stop > size then stop = size end
      pieces[#pieces + 1] = bytes:sub(at, stop)
      left = left - (stop - at + 1)
      ends = left == 0
      at = stop + 1
    elseif ends then
      if size - at < 1 then break end
      if bytes:sub(at, at + 1) ~= "\r\n" then error(("a chunk without its end: %q"):format(bytes:sub(at, at + 40))) end
      ends = false
      at = at + 2
    elseif self.whole then
      error(("bytes behind the last chunk: %q"):format(bytes:sub(at, at + 40)))
    else
      local stop = bytes:find("\n", at, true)
      if not stop then break end
      left = tonumber(bytes:match("^(%x+)\r\n", at) or "", 16)
      if not left then error(("no chunk's size: %q"):format(bytes:sub(at, at + 40))) end
      at = stop + 1
      if left == 0 then
        self.whole = true
        ends = true
      end
    end
  end
  self.left, self.ends, self.rest = left, ends, at == 1 and bytes or bytes:sub(at)
  self.text = dispatch(self, table.concat(pieces))
end

return M
