-- Prints an event stream from anywhere, and comes back when it is cut.
local command = require "eventstream.command"

local M = {}

local HELP = [[
usage: eventstream tail [OPTIONS] URL           (without http:// in front, that is meant)

Prints the events of a stream as they come, and comes back as a browser does when it is cut, with the last id. Stops
when the server says that there is no more (204), or anything else but an event stream.

  --json                a line of JSON for each event: {"event":"message","data":"...","id":"..."}
  --exec COMMAND        runs a shell command for each event, one after another: its data (with --json the line) is the
                        command's input, EVENTSTREAM_EVENT and EVENTSTREAM_ID tell the rest. One that fails is told, and
                        the next one run
  --last-event-id ID    goes on behind that one
  --header 'NAME: TEXT' sent along; may be given again
  --data TEXT           sends it as a POST's body, each time; say what it is: --header 'Content-Type: application/json'
  --count N             stops after so many events
  --retry-status        comes back after 500, 502, 503 and 504, too
  --ca-file FILE        certificate authorities, in the place of the system's
  --quiet               does not say when it comes back

It exits with 0 when it stopped after --count or a 204, with 1 when the server wants no more of it, or a command failed;
with 2 for wrong arguments.
]]

local KNOWN = {
  json = true, exec = "value", ["last-event-id"] = "value", header = "values", data = "value", count = "value",
  ["retry-status"] = true, ["ca-file"] = "value", quiet = true, help = true,
}

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
  ["\t"] = "\\t" }

-- A text as JSON (RFC 8259, 7): the reader has seen to it that it is UTF-8.
local function quoted(text)
  return '"' .. text:gsub('[%z\1-\31\127"\\]', function(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function as_json(event)
  local id = event.id and ',"id":' .. quoted(event.id) or ""
  return ('{"event":%s,"data":%s%s}\n'):format(quoted(event.event), quoted(event.data), id)
end

-- As an event stream again, each event by itself. One that has no id any more says so: whoever reads it keeps the last.
local function text_writer()
  local last = ""
  return function(event)
    local lines = {}
    local id = event.id or ""
    if id:find "[%z\1-\31\127]" then id = "" end
    if id ~= "" then
      lines[1] = "id: " .. id
    elseif last ~= "" then
      lines[1] = "id:"
    end
    last = id
    if event.event ~= "message" then lines[#lines + 1] = "event: " .. event.event end
    for line in (event.data .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = "data: " .. line end
    return table.concat(lines, "\n") .. "\n\n"
  end
end

-- Runs the shell command with the event as its input; then(code) when it is over.
local function execute(uv, text, event, bytes, over)
  local input = uv.new_pipe(false)
  local env = {}
  for name, value in pairs(uv.os_environ()) do env[#env + 1] = name .. "=" .. value end
  env[#env + 1] = "EVENTSTREAM_EVENT=" .. event.event:gsub("%z", "")
  env[#env + 1] = "EVENTSTREAM_ID=" .. (event.id or "")
  local process, failure
  process, failure = uv.spawn("/bin/sh", { args = { "-c", text }, env = env, stdio = { input, 1, 2 } },
    function(code, signal)
      process:close()
      if not input:is_closing() then input:close() end
      over(code ~= 0 and code or signal ~= 0 and 128 + signal or 0)
    end)
  if not process then
    input:close()
    command.say("--exec: %s", failure)
    return over(127)
  end
  input:write(bytes, function() -- one that reads no input is fine, too
    if not input:is_closing() then input:close() end
  end)
end

local function headers_of(list)
  local headers
  for _, line in ipairs(list or {}) do
    local name, value = line:match "^([^:]+):%s*(.-)%s*$"
    if not name then command.misuse("--header must be 'NAME: TEXT', not '%s'", line) end
    headers = headers or {}
    local before = headers[name]
    if type(before) == "table" then
      before[#before + 1] = value
    else
      headers[name] = before and { before, value } or value
    end
  end
  return headers
end

local function whole(options, name)
  local text = options[name]
  local number = tonumber(text)
  if text and (not number or number % 1 ~= 0 or number < 1) then
    command.misuse("--%s must be a whole number, 1 or more, not '%s'", name, text)
  end
  return number
end

--- Runs `eventstream tail`; returns the exit code.
function M.run(arguments)
  local options, rest = command.parse(arguments, KNOWN, true)
  if options.help then
    io.stdout:write(HELP)
    return 0
  end
  local url = rest[1]
  if not url then command.misuse "tail: which address? (eventstream tail --help)" end
  if rest[2] then command.misuse("tail: one address, and not '%s', too", rest[2]) end
  if not url:find "^%a[%w+.-]*://" then url = "http://" .. url end
  local count, seen, code = whole(options, "count"), 0, 0
  local eventstream = require "eventstream"
  local found, uv = pcall(require, "luv")
  if options.exec and not found then
    command.say "tail: --exec needs luv: luarocks install luv"
    return 1
  end
  io.stdout:setvbuf "full" -- flushed with each event
  local write = options.json and as_json or text_writer()
  local source

  local function counted()
    seen = seen + 1
    if seen == count then source:close() end
  end

  local function on_event(event)
    local fine = io.stdout:write(write(event)) and io.stdout:flush()
    if not fine then return source:close() end -- whoever read it has gone
    counted()
  end

  local function run_all() -- one after another: the source waits
    local event = source:next() -- no for loop: Lua 5.1 cannot wait there
    while event do
      local thread = coroutine.running()
      local result
      execute(uv, options.exec, event, options.json and as_json(event) or event.data, function(status)
        result = status
        if coroutine.status(thread) == "suspended" then coroutine.resume(thread) end
      end)
      if not result then coroutine.yield() end
      if result ~= 0 then
        command.say("--exec: the command ended with %d", result)
        code = 1
      end
      counted()
      event = source:next() -- also of what came before the end
    end
  end

  local ok, failure = pcall(function()
    source = eventstream.connect(url, {
      headers = headers_of(options.header), body = options.data, last_event_id = options["last-event-id"],
      retry_status = options["retry-status"], ca_file = options["ca-file"],
      on_event = not options.exec and on_event or nil,
      on_error = function(message, seconds)
        if seconds and not options.quiet then return command.say("%s; again in %.1f s", message, seconds) end
        if seconds then return end
        local over = message:find "answered 204"
        if not over then code = 1 end
        if not (over and options.quiet) then command.say("%s", message) end
      end,
    })
  end)
  if not ok then
    if type(failure) == "table" then error(failure, 0) end
    command.misuse("tail: %s", (tostring(failure):gsub("^.-connect: ", "")))
  end
  if options.exec then coroutine.wrap(run_all)() end
  eventstream.run()
  return code
end

return M
