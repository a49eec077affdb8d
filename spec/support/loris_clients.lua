-- For loris_spec: argv: port, clients, milliseconds between two bytes. Each sends a request byte by byte, without
-- end. Prints how many got a 408, and when the first and the last was closed, in seconds since it was connected.
local uv = require "luv"

local port, count, pause = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3])
local clients, open, told, first, last = {}, 0, 0, math.huge, 0

local function closed(client)
  local age = (uv.hrtime() - client.start) / 1e9
  open, first, last = open - 1, math.min(first, age), math.max(last, age)
  if client.received:find "^HTTP/1.1 408 " then told = told + 1 end
  client.handle:close()
  client.gone = true
end

local function connect()
  local client = { handle = uv.new_tcp(), received = "" }
  clients[#clients + 1] = client
  client.handle:connect("127.0.0.1", port, function(failure)
    assert(not failure, failure)
    open = open + 1
    client.start = uv.hrtime()
    client.handle:write "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "
    client.handle:read_start(function(_, bytes)
      if bytes then client.received = client.received .. bytes else closed(client) end
    end)
  end)
end

-- In crowds that the listener's queue holds.
local connecting = uv.new_timer()
connecting:start(0, 10, function()
  for _ = 1, math.min(100, count - #clients) do connect() end
  if #clients == count then connecting:close() end
end)

local dripping = uv.new_timer()
dripping:start(pause, pause, function()
  for _, client in ipairs(clients) do
    if client.start and not client.gone then client.handle:try_write "x" end
  end
  if #clients == count and open == 0 and told > 0 then dripping:close() end
end)

local deadline = uv.new_timer()
deadline:start(60000, 0, function() error "they were not closed" end)
deadline:unref()

uv.run()
print(("%d of %d told, first %.2f, last %.2f"):format(told, count, first, last))
