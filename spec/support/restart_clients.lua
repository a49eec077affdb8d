-- The clients of restart_spec: restart_clients.lua PORT COUNT. They behave as browsers do: each comes back with its
-- last id after the time that it was told. Beside them a publisher posts numbers, one after another, each on a
-- connection of its own. Prints a line when all of them are connected, and whenever all came back, with how many did
-- in each second; at SIGTERM what went wrong.
local uv = require "luv"
local wire = require "spec.support.wire"

local PORT, COUNT = tonumber(arg[1]), tonumber(arg[2])
local POST_MS = 10 -- between two
local BUCKETS, BUCKET_MS = 12, 1000

local clients, failures, failed = {}, 0, {}
local wanted, arrived, left_first, came_back = 1, 0, nil, {}
local gaps, needed, events, posts, told_later, stopping = 0, 0, 0, 0, 0, false

local function fail(message, ...)
  failures = failures + 1
  message = message:format(...)
  failed[message] = (failed[message] or 0) + 1
end

local function round_over()
  local counts, more = {}, 0
  for i = 1, BUCKETS do counts[i] = 0 end
  for _, ms in ipairs(came_back) do
    local bucket = math.floor(ms / BUCKET_MS) + 1
    if counts[bucket] then counts[bucket] = counts[bucket] + 1 else more = more + 1 end
  end
  print(("all %d: %s and %d"):format(wanted, table.concat(counts, " "), more))
  io.stdout:flush()
  wanted, arrived, left_first, came_back = wanted + 1, 0, nil, {}
end

local function on_event(client, kind, data)
  if kind == "gap" then
    gaps = gaps + 1
    client.told = true
    return
  end
  local number = tonumber(data)
  events = events + 1
  if not number or client.seen and number <= client.seen then
    fail "an event twice, or out of order"
  elseif client.seen and number > client.seen + 1 then
    if client.told then needed = needed + 1 else fail "events lost in silence" end
  end
  client.seen, client.told = number, false
end

local connect

local function come_back(client)
  client.handle:close()
  left_first = left_first or uv.now()
  if stopping then return end
  client.timer:start(client.retry, 0, function() connect(client) end)
end

function connect(client)
  local handle = uv.new_tcp()
  local reader = wire.new(function(kind, data) on_event(client, kind, data) end, client.id)
  client.handle, client.number = handle, client.number + 1
  if client.number > 1 then came_back[#came_back + 1] = uv.now() - left_first end
  handle:connect("127.0.0.1", PORT, function(failure)
    if failure then
      fail("connect: %s", failure)
      return come_back(client)
    end
    local id = client.id and ("Last-Event-ID: %s\r\n"):format(client.id) or ""
    handle:write(("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n%s\r\n"):format(id))
    handle:read_start(function(err, bytes)
      if bytes then
        local ok, message = pcall(reader.feed, reader, bytes)
        if not ok then fail("%s", message) end
        client.id, client.retry = reader.last_event_id, reader.retry or client.retry
        if reader.blocks > 0 and client.number == wanted and not client.there then
          client.there = true
          arrived = arrived + 1
          if arrived == COUNT then
            for _, each in ipairs(clients) do each.there = false end
            round_over()
          end
        end
        return
      end
      if err then fail("read: %s", err) end
      if not err and not reader.whole then fail "an end without its last chunk" end
      come_back(client)
    end)
  end)
end

-- In crowds that the listener's queue holds.
local connecting = uv.new_timer()
connecting:start(0, 10, function()
  for _ = 1, math.min(50, COUNT - #clients) do
    clients[#clients + 1] = { number = 0, timer = uv.new_timer(), retry = 1000 }
    connect(clients[#clients])
  end
  if #clients == COUNT then connecting:close() end
end)

local pause = uv.new_timer()
local function post(number)
  local handle, received = uv.new_tcp(), ""
  local function again(message, ...)
    if message then fail(message, ...) end
    handle:close()
    if not stopping then pause:start(POST_MS, 0, function() post(message and number or number + 1) end) end
  end
  handle:connect("127.0.0.1", PORT, function(failure)
    if failure then return again("post: %s", failure) end
    local body, head = tostring(number), "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: "
    handle:write(head .. #body .. "\r\n\r\n" .. body)
    handle:read_start(function(err, bytes)
      if bytes then
        received = received .. bytes
      elseif received:find "^HTTP/1%.1 204 " then
        posts = posts + 1
        again()
      elseif received:find "^HTTP/1%.1 503 " and received:find "\nRetry%-After: %d+\r\n" then
        told_later = told_later + 1
        handle:close()
        pause:start(POST_MS, 0, function() post(number) end)
      else
        again("post: %s, %q", err or "ended", received)
      end
    end)
  end)
end
post(1)

local signal = uv.new_signal()
signal:start("sigterm", function()
  for message, times in pairs(failed) do print(("failure: %d x %s"):format(times, message)) end
  print(("events %d, posts %d and %d later, gaps %d, needed %d, failures %d"):format(events, posts, told_later, gaps,
    needed, failures))
  io.stdout:flush()
  os.exit(0)
end)
local deadline = uv.new_timer()
deadline:start(120000, 0, function() os.exit(1) end)

uv.run()
