--- For specs of streams, handlers and intervals: servers whose scripts must not fail unless a spec expects it, and
-- scripts that run in a process of their own.
local net = require "spec.support.net"
local process = require "spec.support.process"

local M = {}
local served = {}

--- As net.serve; finish() fails when a script raised an error that the spec has not taken with errors().
function M.serve(define, options)
  local app, port, listener = net.serve(define, options)
  served[#served + 1] = app
  return app, port, listener
end

--- A server with one stream at "/", and a client whose request for it is under way.
function M.open(handler, options)
  local app, port = M.serve(function(app) app:stream("/", handler) end, options)
  return net.connect(port):get("/"), app, port
end

--- Waits for a number of script errors (default 1), and takes them: { message =, traceback =, stream = }, ...
function M.errors(app, count)
  net.wait(function() return #app.errors >= (count or 1) end, "errors of the script")
  local taken = {}
  for i = 1, #app.errors do taken[i], app.errors[i] = app.errors[i], nil end
  return unpack and unpack(taken) or table.unpack(taken) -- luacheck: ignore
end

--- Goes once to the server and back, so that it has had every turn that was due.
function M.round_trip(port)
  local client = net.connect(port):get("/nothing/here")
  client:wait "^HTTP/1.1 404 "
  client:close()
end

local WITHOUT_LUV = 'package.preload.luv = function() error "luv is hidden from this script" end '

--- Runs a text as a script of its own. Errors name its lines as "(command line):1:".
---@param text string
---@param luv? "without luv"
function M.script(text, luv)
  return process.lua { "-e", 'io.stdout:setvbuf "line" ' .. (luv and WITHOUT_LUV or "") .. text }
end

--- The same for a script that prints "port N" once it listens.
---@return spec.Process child, integer port
function M.server(text, luv)
  local child = M.script(text, luv)
  return child, tonumber((child:wait_line "^port (%d+)$"))
end

function M.finish()
  process.kill_all()
  net.finish()
  local apps, failures = served, {}
  served = {}
  for _, app in ipairs(apps) do
    for _, failure in ipairs(app.errors) do failures[#failures + 1] = failure.message .. failure.traceback end
  end
  assert(#failures == 0, "unexpected errors of the script: " .. table.concat(failures, "\n"))
end

return M
