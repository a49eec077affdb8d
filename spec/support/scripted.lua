--- A server that says what a spec wants, byte by byte: for clients under test.

local uv = require "luv"

local M = {}
local servers, handles = {}, {}

--- Serves each connection by the next of the answers (the last one, for those that come later): a text, which is sent
--- when the request's head is there, and behind which the connection is closed; or a function(connection, request).
--- Returns the port and the list of requests, as texts.
function M.serve(answers)
  local server, requests, count = uv.new_tcp(), {}, 0
  assert(server:bind("127.0.0.1", 0))
  assert(server:listen(128, function()
    local handle = uv.new_tcp()
    server:accept(handle)
    handles[#handles + 1] = handle
    count = count + 1
    local answer, request = answers[math.min(count, #answers)], ""
    local connection = { handle = handle }
    function connection.send(text) handle:write(text) end
    function connection.close()
      if handle:is_closing() then return end
      handle:shutdown(function()
        if not handle:is_closing() then handle:close() end
      end)
    end
    handle:read_start(function(_, bytes)
      if not bytes then
        connection.gone = true
        return connection.close()
      end
      local had = request:find("\r\n\r\n", 1, true)
      request = request .. bytes
      local number = connection.number
      if had then
        requests[number] = request
        return
      end
      if not request:find("\r\n\r\n", 1, true) then return end
      connection.number = #requests + 1
      requests[connection.number] = request
      if type(answer) == "function" then return answer(connection, request) end
      connection.send(answer)
      connection.close()
    end)
  end))
  servers[#servers + 1] = server
  return server:getsockname().port, requests
end

--- An answer that is an event stream, up to its end.
function M.stream(body, lines)
  return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" .. (lines or "") .. "\r\n" .. (body or "")
end

function M.finish()
  for _, list in ipairs { servers, handles } do
    for i = #list, 1, -1 do
      if not list[i]:is_closing() then list[i]:close() end
      list[i] = nil
    end
  end
  uv.run "nowait" -- the handles' ends: luv crashes where Lua is closed before them
end

return M
