--- A crowd for fair_spec: fair_clients.lua PORT COUNT. Prints "ready" when all have subscribed, and "done wrong=N
-- events=N reads=N" when the channel's event "end" has come to each.
local crowd = require "spec.support.crowd"
local uv = require "luv"

local PORT, COUNT = tonumber(arg[1]), tonumber(arg[2])
local PATIENCE = 20 -- seconds after the end

local clients, waiting, events, reads, wrong, reference = {}, COUNT, 0, 0, 0, nil

local function complain(what, ...)
  wrong = wrong + 1
  if wrong <= 10 then print("wrong " .. what:format(...)) end
end

local function missing()
  for i, client in ipairs(clients) do
    if client.ended then return ("client %d was disconnected"):format(i) end
    if client.bytes ~= reference then
      return ("client %d has %d of %s bytes"):format(i, client.bytes, tostring(reference))
    end
  end
end

local function finish()
  local timer, tries = uv.new_timer(), 0
  timer:start(0, 10, function()
    tries = tries + 1
    reference = clients[1].bytes
    local example = missing()
    if example and tries < PATIENCE * 100 then return end
    if example then complain("%s", example) end
    print(("done wrong=%d events=%d reads=%d"):format(wrong, events, reads))
    os.exit(0)
  end)
end

-- One checks for all: the others' bytes are counted.
local function on_event(_, kind, data)
  if kind == "end" then return finish() end
  events = events + 1
  if tonumber(data:match "^%d+") ~= events then complain("%q behind %d", data, events - 1) end
end

io.stdout:setvbuf "line"
pcall(uv.os_setpriority, 0, 5) -- who measures beside it must get the processor at once
for number = 1, COUNT do
  clients[number] = crowd.client({ port = PORT, target = "/events", number = number, checks = number == 1,
    on_event = on_event }, function()
    waiting = waiting - 1
    if waiting == 0 then print "ready" end
  end)
end
local count = clients[1].on_read
clients[1].on_read = function(failure, bytes)
  reads = reads + 1
  count(failure, bytes)
end
uv.run()
