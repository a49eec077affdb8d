-- Where this runs: in a process of its own, or inside nginx's Lua module.
local M = {}

local ngx = rawget(_G, "ngx")

--- nginx's interface, or false.
M.nginx = type(ngx) == "table" and type(ngx.config) == "table" and ngx.config.subsystem == "http" and ngx or false

--- Whether the command runs the script: app:serve only returns the app then, and errors are told in one line.
M.command = false

--- Whether eventstream.test is there: app:serve only returns the app, so that a test can load a script as it stands.
M.tested = false

--- Tells the operator: on the standard error, or in nginx's error log. One write, so that lines of several processes
-- that share it stay whole.
---@param text string
function M.tell(text)
  if M.nginx then return ngx.log(ngx.ERR, "eventstream: ", text) end
  io.stderr:write("eventstream: " .. text .. "\n")
end

--- Tells of a script's error: under the command in one line, else with its traceback.
---@param message string
---@param traceback string
function M.tell_error(message, traceback)
  if M.command then return M.tell(require("eventstream.command.line").of(message, traceback)) end
  M.tell(traceback == "" and message or message .. "\n" .. traceback)
end

return M
