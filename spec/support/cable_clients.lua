--- The clients at a cable's other end: cable_clients.lua OWN_ADDRESS ADDRESS PORT PATH... Each reads all that comes.
-- Prints "reading PATH" when a stream has begun, and "over PATH" if it ends.
local uv = require "luv"

io.stdout:setvbuf "line"
for i = 4, #arg do
  local handle, path, received = uv.new_tcp(), arg[i], ""
  assert(handle:bind(arg[1], 0))
  assert(handle:connect(arg[2], tonumber(arg[3]), function(failure)
    assert(not failure, failure)
    handle:write(("GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"):format(path))
    handle:read_start(function(_, bytes)
      if not bytes then
        print("over " .. path)
        return handle:close()
      end
      if not received then return end
      received = received .. bytes
      if received:find("\r\n\r\n%x+\r\n.*\n\n\r\n") then
        received = nil
        print("reading " .. path)
      end
    end)
  end))
end
uv.run()
