--- A program's output as events, one a line. Each client gets a process of its own, which runs on luv's loop beside the
--- streams, waits while its client reads slowly, and ends when the client leaves.
-- Run it:  lua examples/with_luv.lua [PROGRAM ARGUMENT...]     (another port: PORT=9000 lua examples/with_luv.lua)
--          for example: lua examples/with_luv.lua tail -n 20 -F /var/log/syslog
-- See it:  curl -N http://127.0.0.1:8080/lines
-- End it:  Ctrl-C

local uv = require "luv"
local eventstream = require "eventstream"

local args = arg[1] and arg or { "sh", "-c", "while date; do sleep 1; done" }
local program = table.remove(args, 1)

-- Waits for the next bytes of a pipe; returns nil at the end of the pipe, or of the stream.
local function read(pipe)
  return eventstream.await(function(resume)
    pipe:read_start(function(_, bytes)
      pipe:read_stop()
      resume(bytes)
    end)
  end)
end

local app = eventstream.new()

app:stream("/lines", function(stream)
  local output = uv.new_pipe(false)
  local process, problem
  process, problem = uv.spawn(program, { args = args, stdio = { nil, output, 2 } }, function()
    process:close()
    process = nil
  end)
  if not process then
    output:close()
    return stream:reject(500, problem .. "\n", { ["Content-Type"] = "text/plain" })
  end
  stream:on_close(function()
    if process then process:kill "sigterm" end
    output:close()
  end)

  local rest, bytes = "", read(output)
  while bytes do
    rest = rest .. bytes
    for line in rest:gmatch "([^\n]*)\n" do stream:send(line) end
    rest = rest:match "[^\n]*$"
    bytes = read(output)
  end
  if rest ~= "" then stream:send(rest) end
  stream:send { event = "end", data = program }
end)

io.stdout:setvbuf "line"
local listener = assert(app:listen { port = tonumber(os.getenv "PORT" or 8080) })
print(("listening on http://%s:%d/lines"):format(listener.host, listener.port))
eventstream.run()
