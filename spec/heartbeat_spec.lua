--- The heartbeat: a comment on a stream that is quiet, never later than the option says, none on one that is not, and
-- never within an event.

local net = require "spec.support.net"
local streams = require "spec.support.streams"
local uv = require "luv"
local wire = require "spec.support.wire"

local HEARTBEAT = 0.2 -- seconds
local NOISE = 0.08 -- how much later a loaded machine may see one
local BEAT = "4\r\n: \n\n\r\n" -- in its chunk

-- Collects the times, in seconds, at which a client got heartbeats.
local function beats(client)
  local times, before = {}, 0
  client.handle:read_stop()
  client.handle:read_start(function(_, bytes)
    client.received = client.received .. (bytes or "")
    local number = select(2, client.received:gsub(BEAT, ""))
    for _ = before + 1, number do times[#times + 1] = uv.hrtime() / 1e9 end
    before = number
  end)
  return times
end

local function count(client)
  return select(2, client.received:gsub(BEAT, ""))
end

local function seconds(app, length)
  local over
  app:after(length, function() over = true end)
  net.wait(function() return over end, "the time to pass")
end

-- Serves streams that are held at "/own", and subscribers of "news" at "/channel".
local function serve(options)
  options = options or {}
  options.heartbeat = options.heartbeat == nil and HEARTBEAT or options.heartbeat
  local held = {}
  local app, port = streams.serve(function(app)
    app:stream("/own", function(stream)
      held[#held + 1] = stream
      stream:hold()
    end)
    app:stream("/channel", function(stream)
      held[#held + 1] = stream
      stream:subscribe "news"
    end)
  end, options)
  return app, port, held
end

local function open(port, path)
  local client = net.connect(port):get(path)
  client:wait "\r\n\r\n%x+\r\n"
  return client
end

describe("heartbeat", function()
  after_each(streams.finish)

  for _, path in ipairs { "/own", "/channel" } do
    it(("comes on a quiet stream within its time, again and again: %s"):format(path), function()
      local _, port = serve()
      local client = open(port, path)
      local opened, times, gaps = uv.hrtime() / 1e9, beats(client), {}
      net.wait(function() return #times >= 11 end, "heartbeats")
      assert.is_true(times[1] - opened <= HEARTBEAT + NOISE)
      for i = 2, #times do gaps[#gaps + 1] = times[i] - times[i - 1] end
      table.sort(gaps)
      local story = ("%.3f to %.3f s"):format(gaps[1], gaps[#gaps])
      assert.is_true(gaps[5] <= HEARTBEAT + 0.01, story) -- in the middle: this machine's noise is not ours
      assert.is_true(gaps[#gaps] <= HEARTBEAT + NOISE, story)
      assert.is_true(gaps[5] >= HEARTBEAT * 0.7, story) -- and not all the time
    end)
  end

  it("does not come on a stream that sends", function()
    local app, port, held = serve()
    local client = open(port, "/own")
    held[1]:every(HEARTBEAT / 4, function(stream) stream:send "x" end)
    seconds(app, 1.5)
    assert.equal(0, count(client))
    assert.is_true(select(2, client.received:gsub("data: x", "")) >= 10)
  end)

  it("does not come on a subscriber that is published to", function()
    local app, port = serve()
    local clients = {}
    for i = 1, 5 do clients[i] = open(port, "/channel") end
    app:every(HEARTBEAT / 4, function() app:channel "news":publish "x" end)
    seconds(app, 1.5)
    for i = 1, 5 do
      assert.equal(0, count(clients[i]))
      assert.is_true(select(2, clients[i].received:gsub("data: x", "")) >= 10)
    end
  end)

  it("comes again once a busy stream has fallen silent", function()
    local app, port = serve()
    local client, published, last = open(port, "/channel"), 0, nil
    local interval
    interval = app:every(HEARTBEAT / 4, function()
      app:channel "news":publish "x"
      published, last = published + 1, uv.hrtime() / 1e9
      if published == 8 then interval:stop() end
    end)
    local times = beats(client)
    net.wait(function() return #times > 0 end, "a heartbeat")
    assert.equal(8, published)
    assert.is_true(times[1] - last <= HEARTBEAT + NOISE)
    assert.is_true(times[1] - last >= HEARTBEAT * 0.7)
  end)

  it("does not come at all where it is switched off", function()
    local app, port = serve { heartbeat = false }
    local own, subscriber = open(port, "/own"), open(port, "/channel")
    seconds(app, 3 * HEARTBEAT)
    assert.equal(0, count(own) + count(subscriber))
  end)

  -- The kernel took a part of an event from a reader that stopped; heartbeats fall due meanwhile, as a witness shows.
  for _, path in ipairs { "/own", "/channel" } do
    it(("never comes within an event: %s"):format(path), function()
      local app, port, held = serve {
        heartbeat = 0.1, limits = { backlog_bytes = 4 * 1024 * 1024 },
        channels = { news = { history_bytes = 64 * 1024 * 1024 } },
      }
      local client = open(port, path)
      local witness, data = net.connect(port):get "/own", ("0123456789abcdef"):rep(65536)
      witness:wait "\r\n\r\n%x+\r\n"
      local times = beats(witness)
      client:pause()
      for i = 1, 2 do -- each is more than the kernel takes of its own accord
        if path == "/own" then held[1]:send(i .. data) else app:channel "news":publish(i .. data) end
      end
      local from = #times
      net.wait(function() return #times >= from + 6 end, "the witness's heartbeats")
      local sent = app:stats().bytes_out
      assert.is_true(sent < 2 * #data, "the kernel took it all, and no event was half written")
      client:resume()
      net.wait(function() return count(client) > 0 end, "a heartbeat after it all")
      local events = {}
      local reader = wire.new(function(_, got) events[#events + 1] = got end)
      reader:feed(client.received) -- which raises where anything stands within an event
      assert.equal(2, #events)
      assert.is_true(events[1] == "1" .. data and events[2] == "2" .. data)
      assert.is_nil(client.received:sub(1, client.received:find("2" .. data, 1, true)):find(BEAT, 1, true))
    end)
  end

  for _, path in ipairs { "/own", "/channel" } do
    it(("is spread for streams that were opened together: %s"):format(path), function()
      local _, port = serve { heartbeat = 0.4 }
      local clients, first, all = {}, {}, 0
      for i = 1, 100 do clients[i] = net.connect(port) end
      for i = 1, 100 do clients[i]:get(path) end
      for i = 1, 100 do
        clients[i].handle:read_stop()
        clients[i].handle:read_start(function(_, bytes)
          clients[i].received = clients[i].received .. (bytes or "")
          if not first[i] and clients[i].received:find(BEAT, 1, true) then
            first[i], all = uv.hrtime() / 1e9, all + 1
          end
        end)
      end
      net.wait(function() return all == 100 end, "a heartbeat of each")
      table.sort(first)
      assert.is_true(first[95] - first[5] >= 0.04, ("within %.3f s"):format(first[95] - first[5]))
      for i = 1, 50 do -- no moment has half of them
        assert.is_true(first[i + 50] - first[i] >= 0.01, ("51 of 100 within %.4f s"):format(first[i + 50] - first[i]))
      end
    end)
  end
end)
