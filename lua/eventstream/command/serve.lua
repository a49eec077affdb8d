-- Runs a script that returns an app, in this process.
local command = require "eventstream.command"
local line = require "eventstream.command.line"
local place = require "eventstream.place"

local M = {}

local function first_line(message)
  return (tostring(message):match "^[^\n]*")
end

--- Loads a script and runs it up to its `return app:serve`: the app and what it wants to listen on; or nil and why not.
---@param script string
---@param arguments string[]
---@return eventstream.App?, any
function M.load(script, arguments, options)
  local chunk, message = loadfile(script)
  if not chunk then return nil, first_line(message) end
  local own = { [0] = script }
  for i, argument in ipairs(arguments) do own[i] = argument end
  rawset(_G, "arg", own)
  place.command = true
  local eventstream = require "eventstream"
  local ran = false
  local run = eventstream.run
  eventstream.run = function()
    ran = true
    if options and (options.host or options.port) then
      command.say("%s listens by itself: --host and --port are for `return app:serve { ... }`", script)
    end
    return run()
  end
  local ok, app = xpcall(function() return chunk((unpack or table.unpack)(own)) end, function(failure)
    return line.of(tostring(failure), debug.traceback("", 2), script)
  end)
  eventstream.run = run
  if not ok then return nil, app end
  if getmetatable(app) ~= require "eventstream.app" then
    if ran then return nil, nil end
    return nil, ("%s returns no app: end it with `return app:serve { port = 8080 }`"):format(script)
  end
  return app, app._serves or {}
end

--- What to listen on: the script's word, but for the command line's.
function M.where(serves, options)
  local where = {}
  for name, value in pairs(serves) do where[name] = value end
  if options.port or options.host then where.path, where.fd, where.activated = nil, nil, nil end
  where.host, where.port = options.host or where.host, options.port or where.port
  if not (where.port or where.path or where.fd or where.activated) then where.port = 8080 end
  return where
end

--- Says what a listener listens on, once the loop runs: signals are heeded then.
function M.tell(app, listener)
  local text = listener.path or not listener.host and "a Unix socket"
    or (listener.host:find(":", 1, true) and "http://[%s]:%d/" or "http://%s:%d/"):format(listener.host, listener.port)
  app:after(0, function() command.say("listening on %s", text) end)
end

--- Runs it to its end; returns the exit code.
function M.run(script, options, arguments)
  local app, serves = M.load(script, arguments, options)
  if not app then
    if not serves then return 0 end -- it ran the loop itself
    command.say("%s", serves)
    return 1
  end
  local ok, listener, message = pcall(app.listen, app, M.where(serves, options))
  if not ok or not listener then
    command.say("%s", first_line(ok and message or listener))
    return 1
  end
  M.tell(app, listener)
  require("eventstream").run()
  return 0
end

return M
