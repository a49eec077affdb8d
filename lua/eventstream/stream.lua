-- The stream's methods that are decisions and not hot work; the others are the core's (csrc/lua/stream.c).
local core = require "eventstream.core"
local headers = require "eventstream.headers"

---@class eventstream.Stream
---@field closed boolean whether it is over
---@field last_event_id string? what the client says it had last: the header, else the query
---@field request eventstream.Request
---@field data any the script's own; dropped when the stream is over
---@field send fun(self: eventstream.Stream, event: eventstream.Event|string): true?, string? or nil and why
---@field comment fun(self: eventstream.Stream, text: string): true?, string? like send
---@field sleep fun(self: eventstream.Stream, seconds: number): true?, string? in its own handler only
---@field every fun(self: eventstream.Stream, seconds: number, fn: eventstream.Tick): eventstream.Interval
---@field after fun(self: eventstream.Stream, seconds: number, fn: eventstream.Tick): eventstream.Interval
---@field on_close fun(self: eventstream.Stream, fn: fun(reason: eventstream.Reason)) in order; late ones at once
---@field hold fun(self: eventstream.Stream): true?, string? stays open until it is closed
---@field flush fun(self: eventstream.Stream): true?, string? hands what is queued to the kernel now
---@field close fun(self: eventstream.Stream) after what was sent before, which has 5 s

---@alias eventstream.Tick fun(stream: eventstream.Stream)
---@alias eventstream.Reason "client"|"server"|"slow"|"timeout"|"expired"|"error"

---@type eventstream.Stream
local Stream = core.stream

local RESERVED = { ["content-type"] = true, date = true }

--- Sets a header of the head; the same name again replaces it. A list gives several lines.
---@param name string
---@param value string|number|(string|number)[]
---@return eventstream.Stream self
function Stream:header(name, value)
  local block = self:_lines()
  if not block then
    error(self.closed and "header: the stream is over"
      or "header: the head is sent already; set headers before the first send or sleep", 2)
  end
  local ok, lines = pcall(headers.lines, "header", name, value, RESERVED)
  if not ok then error(lines, 2) end
  self:_lines(headers.without(block, name) .. lines)
  return self
end

--- Answers with an ordinary response instead of a stream; the stream is over then. 204 tells a browser to stop; any
--- status but 200 ends its EventSource for good (WHATWG HTML, 9.2.3).
---@param status integer 200 to 599
---@param body string?
---@param fields table<string, string|number|(string|number)[]>?
function Stream:reject(status, body, fields)
  local block = self:_lines()
  if not block then
    if self.closed then return nil, "closed" end
    error("reject: the stream has begun; it can only be closed", 2)
  end
  local ok, code, lines, text = pcall(headers.answer, "reject", status, body, fields)
  if not ok then error(code, 2) end
  for name in pairs(fields or {}) do block = headers.without(block, name) end
  self:_answer(code, headers.without(block, "connection") .. lines, text)
  return true
end

return Stream
