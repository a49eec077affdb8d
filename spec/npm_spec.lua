--- Random events, read by clients from npm: what was sent is what arrives.
-- The seed is printed; SEED=<seed> sends the same events again.

local eventstream = require "eventstream"
local json = require "dkjson"
local process = require "spec.support.process"
local readers = require "spec.support.readers"

local EVENTS = 400
local NAMES = { "ping", "Ping", "two words", "data", "a:b", ":colon", " space before", "naïve", "事件", "space after " }
local PIECES = { "a", "Z", "0", " ", "  ", ":", ": ", "\t", "\n", "\n\n", "\r", "\r\n", "\0", "\\", '"', "{}", "é", "…",
  "語", "😀", "\226\128\168", "\239\187\191", "\194\133", "data: ", "\ndata: x", "\nid: 1", "\nevent: admin",
  "\nretry: 1", "\n: comment" }
local ID_PIECES = { "a", "Z", "7", ":", "-", ".", "_", "é", "語", "/" }

-- `keeps_id`: an event without an id bears the one before it, as the standard wants. eventsource 4.1.1 leaves it
-- empty, and a parser has no memory of ids.
local CLIENTS = {
  { name = "eventsource" },
  { name = "eventsource-parser" },
  { name = "undici", keeps_id = true },
}

local function some(pieces, most)
  local list = {}
  for i = 1, math.random(0, most) do list[i] = pieces[math.random(#pieces)] end
  return table.concat(list)
end

local function corpus()
  local events = {}
  for i = 1, EVENTS do
    local event = { data = some(PIECES, 12) }
    if math.random() < 0.5 then event.event = NAMES[math.random(#NAMES)] end
    if math.random() < 0.5 then event.id = i .. some(ID_PIECES, 8) end
    if math.random() < 0.1 then event.comment = some(PIECES, 8) end
    if math.random() < 0.1 then event.retry = math.random(100, 9999) end
    if math.random() < 0.02 then event.data = event.data:rep(math.floor(20000 / (#event.data + 1))) end
    events[i] = event
  end
  events[math.random(EVENTS)].data = ("x"):rep(300000) -- more than the backlog holds
  return events
end

describe("npm clients", function()
  if not readers.node then
    return pending "read what was sent (node or the clients of spec/readers are not installed)"
  end

  local app, url

  before_each(function()
    app = eventstream.new { retry = 100 }
    local listener = assert(app:listen { port = 0 })
    url = ("http://127.0.0.1:%d/sse"):format(listener.port)
  end)

  after_each(function()
    process.kill_all()
    app:close()
  end)

  for _, client in ipairs(CLIENTS) do
    it(client.name .. " reads what was sent", function()
      local seed = tonumber(os.getenv "SEED") or os.time()
      io.write(("npm_spec, %s: SEED=%d\n"):format(client.name, seed))
      math.randomseed(seed)
      local events = corpus()
      app:stream("/sse", function(stream)
        for _, event in ipairs(events) do stream:send(event) end
        stream:send { event = "end", data = "" }
      end)

      local reader = readers.npm(client.name, url, NAMES)
      assert.equal(0, reader:wait_exit(), reader.stderr)
      local arrived = {}
      for line in reader.stdout:gmatch "[^\n]+" do
        local event = json.decode(line)
        assert.is_nil(event.error)
        if event.data then arrived[#arrived + 1] = event end
      end

      local id = ""
      for i, event in ipairs(events) do
        id = event.id or client.keeps_id and id or ""
        local data = event.data:gsub("\r\n", "\n"):gsub("\r", "\n")
        local expected = { event = event.event or "message", id = id, data = data }
        assert.same(expected, arrived[i], ("event %d, SEED=%d"):format(i, seed))
      end
      assert.equal(#events, #arrived)
    end)

    if client.name ~= "eventsource-parser" then
      it(client.name .. " comes back with its Last-Event-ID", function()
        local ids = {}
        app:stream("/sse", function(stream)
          ids[#ids + 1] = stream.last_event_id or "none"
          if #ids == 2 then return stream:send { event = "end", data = "" } end
          stream:send { id = "room 1:7", data = "before" }
        end)
        local reader = readers.npm(client.name, url)
        assert.equal(0, reader:wait_exit(), reader.stderr)
        assert.same({ "none", "room 1:7" }, ids)
      end)
    end
  end
end)
