--- eventstream: Server-Sent Events for Lua scripts, on a C core.
---
--- Durations are seconds, except for `retry`, which is SSE's own field: milliseconds. Misuse raises an error that names
--- the argument; what the world does wrong returns nil and a message.
local App = require "eventstream.app"
local access_log = require "eventstream.access_log"
local check = require "eventstream.check"
local client = require "eventstream.client"
local core = require "eventstream.core"
local driver = require "eventstream.driver"
local json = require "eventstream.json"
local metrics = require "eventstream.metrics"
local place = require "eventstream.place"
require "eventstream.request"
require "eventstream.stream"

local M = { _VERSION = "0.1.0" }

local FIELDS = { "data", "event", "id", "retry", "comment" }

-- The header beats the query, whose spellings are those that polyfills use; an empty one is none.
local function last_event_id(request)
  local query = request.query
  for _, id in ipairs {
    request.headers["last-event-id"] or "", query.last_event_id or "", query.lastEventId or "",
    query.evs_last_event_id or "",
  } do
    if id ~= "" then return id end
  end
  return nil
end

core.setup {
  report = place.tell_error,
  last_event_id = last_event_id,
  unknown = function(what, name) return check.unknown(what, name, FIELDS) end,
  unknown_option = function(name, known) return check.unknown("option", name, { known }) end,
  blocked = function(seconds, request, traceback)
    place.tell(("%s has run for %.1f s, and holds up all the others; it is here:\n%s"):format(
      request and "the handler or a callback of " .. request or "a callback", seconds, traceback))
  end,
  json = function(value, who)
    local ok, encoded = pcall(json.encode, who, "data", value)
    if not ok then error(encoded, 3) end
    return encoded
  end,
}

---@class eventstream.Event
---@field data string|number|boolean|table? a table is written as JSON by lua-cjson
---@field event string? the type; not without data
---@field id string|number|false?
---@field retry integer? milliseconds
---@field comment string?

---@class eventstream.Channel
---@field name string
---@field id string the id that stands for its newest event: a `since` to go on from
---@field subscribers integer
---@field published integer events, since it was made
---@field closed boolean
---@field publish eventstream.PublishFunction the event's id (true for `id = false`), or nil and why
---@field streams fun(self: eventstream.Channel): eventstream.Stream[] of this process
---@field members fun(self: eventstream.Channel): string[] the names of those who are there, of all processes
---@field close fun(self: eventstream.Channel) after what was published before; drops its history

---@alias eventstream.PublishFunction fun(self: eventstream.Channel, event: eventstream.Event|string,
---  options: eventstream.Publish?): string|true|nil, string?

---@class eventstream.Publish
---@field except eventstream.Stream? this one does not get it

---@class eventstream.Interval
---@field stop fun(self: eventstream.Interval)

--- Makes an app.
---@type fun(options: eventstream.Options?): eventstream.App
M.new = App.new

--- The bytes of an event on the wire (WHATWG HTML, 9.2.5).
---@type fun(event: eventstream.Event|string|number|boolean): string
M.encode = core.encode

--- In any handler: calls the function with a `resume`, and waits until that is called; returns its arguments, or nil,
--- "closed" when the client or the stream is gone first.
---@type fun(start: fun(resume: fun(...: any))): ...
M.await = place.nginx and require("eventstream.openresty.client").await or core.await

--- Reads the event stream at an address, and comes back by itself when it is cut, as a browser's EventSource does
--- (WHATWG HTML, 9.2). Its events go to on_event, or wait for source:next().
---@type fun(url: string, options: eventstream.ConnectOptions?): eventstream.Source
M.connect = client.connect

--- What app:stats() counts, in Prometheus' text format; to be served as "text/plain; version=0.0.4".
---@param app eventstream.App
---@return string
function M.metrics(app)
  if getmetatable(app) ~= App then error("metrics: app must be an app, not " .. check.show(app), 2) end
  return metrics.text(app)
end

--- A function for app:on_answer that writes a line for each answer, in the combined format of Apache and nginx. Who
--- somebody is stands there where request.user is a text.
---@param file file*|fun(line: string) what the lines are written to, or given to
---@return fun(answer: eventstream.Answer)
function M.access_log(file)
  return (check.call(access_log.new, file))
end

--- For other loops than luv's: poll fd() for reading, at most timeout() seconds (nil: without end), then call turn(),
--- which returns how many times it called Lua.
M.loop = driver.loop or { fd = core.loop.fd, timeout = core.loop.timeout, turn = core.loop.turn }

local signals = 0

local function on_signal()
  signals = signals + 1
  if signals > 1 or not App.any_busy() then
    driver.stop()
  else
    App.close_all()
  end
end

--- Runs luv's loop, or the core's own where luv is not installed, until stop() or until every app is closed. SIGINT
--- and SIGTERM close the apps in order; a second one stops at once. Raises when there is nothing to do.
function M.run()
  if place.nginx then
    error("run: inside nginx its workers drive the streams; serve them with eventstream.openresty", 2)
  end
  if driver.turning() or driver.running() then
    error("run: the loop runs already; call run once, at the script's end", 2)
  end
  if not driver.alive() then
    local failure = App.last_failure()
    error("run: nothing to do: no app listens and no interval runs" .. (failure and " (" .. failure .. ")" or ""), 2)
  end
  signals = 0
  driver.run(on_signal)
end

--- Makes run() return when the running callback has.
function M.stop()
  driver.stop()
end

return M
