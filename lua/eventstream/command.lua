-- The command: runs a script that defines an app, or reads a stream from anywhere.
local place = require "eventstream.place"

local M = {}

local HELP = [[
usage: eventstream [OPTIONS] SCRIPT [ARGUMENTS]   runs a script that returns an app
       eventstream tail [OPTIONS] URL             prints an event stream, and comes back when it is cut

  --host HOST     where to listen, in the place of what the script says
  --port PORT
  --watch         runs it anew when a file changes: its streams come back, and resume
  --help          this text; tail --help says more of that
  --version

The script ends with `return app:serve { port = 8080 }`. Options may also follow it; what begins with a hyphen and is
for the script stands behind `--`: eventstream app.lua -- --its-own. Ctrl-C ends it in order; twice, at once.
It exits with 0 at such an end, with 1 when the script fails or cannot listen, with 2 for wrong arguments.
]]

-- Raised by what parses arguments.
local Usage = {}

--- Ends the parsing: the arguments are wrong.
function M.misuse(message, ...)
  error(setmetatable({ message = message:format(...) }, Usage), 0)
end

--- Takes options off a list of arguments. known: name -> true (a flag) or "value" or "values" (a list). Returns the
--- options, and what follows: the first other argument and all behind it; with anywhere, options may stand behind it.
--- Behind "--" there are none: true then.
function M.parse(arguments, known, anywhere)
  local options, rest, i, ended = {}, {}, 1, false
  while i <= #arguments do
    local argument = arguments[i]
    local name, value = argument:match "^%-%-([%w-]+)=?(.*)$"
    if argument == "--" then
      ended = true
      for j = i + 1, #arguments do rest[#rest + 1] = arguments[j] end
      break
    elseif argument == "-h" then
      options.help = true
    elseif name then
      local kind = known[name]
      local attached = argument:find("=", 1, true)
      if not kind then M.misuse("unknown option --%s (a script's own stand behind `--`)", name) end
      if kind == true and attached then M.misuse("--%s takes no value", name) end
      if kind ~= true and not attached then
        i = i + 1
        value = arguments[i]
        if not value then M.misuse("--%s needs a value", name) end
      end
      if kind == "values" then
        options[name] = options[name] or {}
        table.insert(options[name], value)
      else
        options[name] = kind == true or value
      end
    elseif argument:find "^%-." then
      M.misuse("unknown option %s", argument)
    else
      rest[#rest + 1] = argument
      if not anywhere then
        for j = i + 1, #arguments do rest[#rest + 1] = arguments[j] end
        break
      end
    end
    i = i + 1
  end
  return options, rest, ended
end

--- Says something to who called the command.
function M.say(text, ...)
  place.tell(select("#", ...) > 0 and text:format(...) or text)
end

local function port_of(text)
  local port = tonumber(text)
  if not port or port % 1 ~= 0 or port < 0 or port > 65535 then
    M.misuse("--port must be a whole number from 0 to 65535, not '%s'", text)
  end
  return math.floor(port)
end

local KNOWN = { host = "value", port = "value", watch = true, help = true, version = true, control = "value" }

-- What --help and --version tell, in the place of a run; whether they did.
local function inform(options)
  if options.help then
    io.stdout:write(HELP)
  elseif options.version then
    print("eventstream " .. require("eventstream")._VERSION)
  end
  return options.help or options.version
end

local function serve(arguments)
  local options, rest, ended = M.parse(arguments, KNOWN)
  if inform(options) then return 0 end
  local script = table.remove(rest, 1)
  if not script then M.misuse "which script? (eventstream app.lua; eventstream --help)" end
  if not ended then -- options may follow the script, before its own arguments
    local more
    more, rest = M.parse(rest, KNOWN)
    for name, value in pairs(more) do options[name] = value end
    if inform(options) then return 0 end
  end
  if options.port then options.port = port_of(options.port) end
  if options.watch then return require("eventstream.command.watch").run(script, options, rest) end
  local here = require "eventstream.command.serve"
  if options.control then return require("eventstream.command.watch").child(here, script, options, rest) end
  return here.run(script, options, rest)
end

--- Runs the command; returns the exit code.
---@param arguments string[]
---@return integer
function M.main(arguments)
  local list = {}
  for i, argument in ipairs(arguments) do list[i] = argument end
  local run = serve
  if list[1] == "tail" then
    table.remove(list, 1)
    run = require("eventstream.command.tail").run
  end
  local ok, code = xpcall(function() return run(list) end, function(message)
    if getmetatable(message) == Usage then return message end
    return debug.traceback(tostring(message), 2)
  end)
  if ok then return code end
  if getmetatable(code) == Usage then
    M.say("%s", code.message)
    return 2
  end
  M.say("%s", code)
  return 1
end

return M
