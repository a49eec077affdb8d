--- One ordinary request over luv, for load clients: ask(port, "/start", function(body) end). Where the server closes
--- without a word, as one does whose client is too busy to ask in time, it is asked again.
local uv = require "luv"

local TRIES = 10

---@param port integer
---@param target string
---@param answered fun(body: string)
---@param tries integer? how many there were before
local function ask(port, target, answered, tries)
  tries = (tries or 0) + 1
  local handle, received = uv.new_tcp(), {}
  handle:connect("127.0.0.1", port, function(failure)
    assert(not failure, failure)
    handle:write(("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):format(target))
    handle:read_start(function(err, bytes)
      assert(not err, err)
      if bytes then
        received[#received + 1] = bytes
        return
      end
      handle:close()
      if #received == 0 and tries < TRIES then return ask(port, target, answered, tries) end
      local status, body = table.concat(received):match "^HTTP/1%.1 (%d+) .-\r\n\r\n(.*)$"
      assert(status == "200" or status == "204", table.concat(received))
      answered(body)
    end)
  end)
end

return ask
