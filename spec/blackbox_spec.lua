--- What the library promises, seen over HTTP from outside, wherever the app lives: each test runs in every house.

local uv = require "luv"
local json = require "dkjson"
local blackbox = require "spec.support.blackbox"
local channels = require "spec.support.channels"
local houses = require "spec.support.houses"
local process = require "spec.support.process"
local readers = require "spec.support.readers"
local scripted = require "spec.support.scripted"

local numbers = channels.numbers
local ID = "^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%-%d+$"

-- A vector's strings have one character per byte.
local function bytes_of(text)
  return (text:gsub("[\194\195][\128-\191]", function(pair)
    return string.char((pair:byte(1) - 0xC0) * 64 + pair:byte(2) - 0x80)
  end))
end

local function event_of(value)
  if type(value) == "string" then return bytes_of(value) end
  local event = {}
  for field, content in pairs(value) do event[field] = type(content) == "string" and bytes_of(content) or content end
  return event
end

local vectors = {}
for line in io.lines "spec/vectors/encode.jsonl" do
  local vector = json.decode(line)
  if vector.bytes then
    vectors[#vectors + 1] = { name = vector.name, event = event_of(vector.event), bytes = bytes_of(vector.bytes) }
  end
end

local last = 0

-- A name that no other test has.
local function unique(prefix)
  last = last + 1
  return prefix .. last
end

-- Lines that a house has no reason to print: errors of scripts that were not raised on purpose, and of nginx.
local function is_strange(line)
  if line:find "^script error: " then return not line:find "on purpose" end
  if line:find "^eventstream: " then return not line:find "listening on" end
  return line:find "%[error%]" or line:find "%[crit%]" or line:find "%[alert%]" or line:find "%[emerg%]"
end

-- The house's own versions of what the tests do most.
local function at(house)
  local here = { house = house }

  function here.ask(...) return blackbox.ask(house, ...) end
  function here.open(...) return blackbox.open(house, ...) end
  function here.publish(...) return blackbox.publish(house, ...) end
  function here.count(...) return blackbox.count(house, ...) end
  function here.tell(...) return blackbox.tell(house, ...) end
  function here.replay(...) return blackbox.replay(house, ...) end
  function here.connect() return blackbox.connect(house) end
  function here.of_each_worker(connect) return blackbox.of_each_worker(house, connect) end

  --- A stream and all that it sends until it ends, without the first block.
  function here.sent(target)
    local client = here.open(target):finish()
    assert.is_true(client.proper)
    return client:behind_retry(), client
  end

  --- A subscriber, once it gets what is published.
  function here.join(channel, query, last_id)
    return here.open(("/events?to=%s%s"):format(channel, query or ""), last_id):wait "\nid: "
  end

  --- Subscribers on every worker, at least four.
  function here.join_all(channel)
    local list = here.of_each_worker(function() return here.join(channel) end)
    while #list < 4 do list[#list + 1] = here.join(channel) end
    return list
  end

  --- A new channel to which 1 .. n were published, and their ids. Nobody listened, who might still need what is old.
  function here.published(n, prefix)
    local name, ids = unique(prefix or "news"), {}
    for i = 1, n do ids[i] = select(2, here.publish(name, { tostring(i) }))[1] end
    return name, ids
  end

  --- On every worker, a client with that id gets that result and these events.
  function here.assert_replay(result, list, channel, last_id, query)
    here.of_each_worker(function()
      local got, data, client = here.replay(channel, last_id, query)
      assert.same({ result, list }, { got, data })
      return client
    end)
  end

  --- A reader of what a stream will have to tell, and the query that makes it.
  function here.reports()
    local key = unique "key"
    return here.join("report:" .. key), "report=" .. key
  end

  return here
end

local function test_heads(here)
  describe("a stream begins", function()
    it("with status 200, the type of event streams and no cache", function()
      local client = here.open "/hold"
      assert.equal(200, client.status)
      assert.equal("text/event-stream", client.headers["content-type"])
      assert.matches("no-cache", client.headers["cache-control"], 1, true)
      assert.equal("no", client.headers["x-accel-buffering"])
      assert.is_nil(client.headers["content-length"])
      assert.equal("chunked", client.framing)
    end)

    it("with a first block at once, which tells when to come back", function()
      assert.matches("^retry: %d+\n\n$", here.open("/hold").body)
    end)

    it("with a time to come back that differs between clients, within [retry, 1.5 retry]", function()
      local seen, count = {}, 0
      for _ = 1, 20 do
        local retry = tonumber(here.open("/hold").body:match "^retry: (%d+)\n\n")
        assert.is_true(retry >= 2000)
        assert.is_true(retry <= 3000)
        if not seen[retry] then seen[retry], count = true, count + 1 end
      end
      assert.is_true(count > 5)
    end)

    it("with the headers that its handler sets", function()
      local client = here.open "/header"
      assert.same({ "1" }, client.fields["x-one"])
      assert.same({ "a", "b" }, client.fields["x-two"])
    end)

    it("for HTTP/1.0 without chunks", function()
      local client = here.connect():raw("GET /sent HTTP/1.0\r\nHost: house.test\r\n\r\n"):finish()
      assert.same({ 200, "close" }, { client.status, client.framing })
      assert.equal("data: 1\n\ndata: 2\n\ndata: 3\n\n", client:behind_retry())
    end)

    it("for HEAD with its head alone, and runs no handler", function()
      local report, query = here.reports()
      local head = here.ask("HEAD", "/ran?" .. query)
      assert.same({ 200, "text/event-stream", "" }, { head.status, head.headers["content-type"], head.rest })
      here.sent("/ran?" .. query)
      assert.same({ "ran" }, report:wait_data "ran")
    end)
  end)
end

local function test_frames(here)
  describe("sends the contract's bytes:", function()
    for _, vector in ipairs(vectors) do
      it(vector.name, function()
        local client = here.ask("POST", "/send", nil, blackbox.events { vector.event })
        assert.equal(200, client.status)
        assert.equal(vector.bytes, (client.body:gsub("^retry: %d+\n\n", "")))
      end)
    end
  end)

  it("publishes the contract's bytes", function()
    local name, events, bytes = unique "news", {}, {}
    for _, vector in ipairs(vectors) do
      local event = type(vector.event) == "table" and vector.event or { data = vector.event }
      if event.id == nil then event.id = false end
      if event.id ~= "" then events[#events + 1], bytes[#bytes + 1] = event, vector.bytes end
    end
    local client = here.join(name)
    local before = #client.body
    here.publish(name, events)
    here.publish(name, { { id = false, data = "end" } })
    client:wait "data: end\n\n"
    assert.equal(table.concat(bytes) .. "data: end\n\n", client.body:sub(before + 1))
  end)

  it("sends a table as JSON", function()
    if not pcall(require, "cjson") then return pending "lua-cjson is not installed" end
    assert.equal("data: [1,2,3]\n\n", (here.sent "/json"))
  end)
end

local function test_sending(here)
  local ONE_TO_THREE = "data: 1\n\ndata: 2\n\ndata: 3\n\n"

  describe("a stream sends", function()
    it("in its handler, and ends when that returns", function()
      assert.equal(ONE_TO_THREE, (here.sent "/sent"))
    end)

    it("in an interval", function() assert.equal(ONE_TO_THREE, (here.sent "/every")) end)
    it("in a loop around sleep", function() assert.equal(ONE_TO_THREE, (here.sent "/sleep")) end)
    it("after a time", function() assert.equal("data: first\n\ndata: second\n\n", (here.sent "/after")) end)

    it("what it awaited", function()
      assert.equal(("data: word7\n\n"):rep(3), (here.sent "/await"))
    end)

    it("what another request told it", function()
      local key = unique "key"
      local client = here.connect():request("GET", "/await/word?key=" .. key)
      here.tell(key, "hello")
      client:finish()
      assert.equal("data: heard hello\n\n", client:behind_retry())
    end)

    it("comments", function()
      assert.equal(": two\n: lines\n\ndata: x\n\n", (here.sent "/comment"))
    end)

    it("more than fits the backlog, in order: send waits", function()
      assert.same(numbers(4000), select(2, here.sent "/much"):data_of "^(%d+)x+$")
    end)

    it("more than fits the backlog to a client that reads late", function()
      local client = here.open "/much"
      client:pause()
      here.sent "/sent"
      client:resume()
      assert.same(numbers(4000), client:finish():data_of "^(%d+)x+$")
    end)

    it("an event that is larger than the backlog", function()
      assert.equal(("data: %s\n\n"):format(("x"):rep(300000)), (here.sent "/large"))
    end)

    it("at once what it flushes", function()
      local key = unique "key"
      local client = here.open("/flushed?key=" .. key):wait "data: now\n\n"
      here.tell(key, "go")
      client:finish()
    end)

    it("a comment whenever it was silent for a heartbeat", function()
      local began = uv.hrtime()
      local client = here.open "/hold"
      client:wait "\n\n:"
      local first = (uv.hrtime() - began) / 1e9
      process.wait(function() return #client:blocks() >= 3 end, nil, "two heartbeats")
      local blocks = client:blocks()
      assert.matches("^:[^\n]*\n$", blocks[2])
      assert.equal(blocks[2], blocks[3])
      assert.is_true(first > 0.5)
      assert.is_true(first < 2.5)
    end)
  end)

  describe("reads another stream", function()
    after_each(scripted.finish)

    local function upstream()
      return scripted.serve { scripted.stream "id: 1\nevent: one\ndata: a\n\n", scripted.stream "data: b\n\n",
        "HTTP/1.1 204 Over\r\n\r\n" }
    end

    it("in a handler that waits for its events", function()
      local port, requests = upstream()
      local bytes = here.sent(("/relay?id=0&url=http://127.0.0.1:%d/"):format(port))
      assert.equal("data: one a 1\n\ndata: message b 1\n\ndata: the server answered 204: it has nothing more\n\n",
        bytes)
      assert.matches("\r\nLast%-Event%-ID: 0\r\n", requests[1])
      assert.matches("\r\nLast%-Event%-ID: 1\r\n", requests[2])
    end)

    it("and publishes it", function()
      local port, to = upstream(), unique "relay"
      local client = here.join(to)
      here.ask("POST", ("/relay?to=%s&url=http://127.0.0.1:%d/"):format(to, port))
      client:wait "\nevent: one\ndata: a\n\n"
      client:wait "\nevent: end\ndata: the stream ended\n\n"
      client:close()
    end)
  end)

  it("an interval that is stopped fires no more", function()
    assert.equal("data: 1\n\ndata: 2\n\ndata: end\n\n", (here.sent "/stop"))
  end)

  it("stream.data is kept from callback to callback", function()
    assert.equal("data: count 3\n\n", (here.sent "/data"))
  end)

  it("stream:hold keeps a stream open, and close delivers what was sent before it", function()
    local name = unique "name"
    local client = here.open("/hold?name=" .. name)
    here.tell(name, "word")
    client:finish()
    local wanted = {}
    for i = 1, 30 do wanted[i] = "word" .. i end
    assert.is_true(client.proper)
    assert.same(wanted, client:data())
  end)
end

local function test_fan_out(here)
  local house = here.house

  it("all its workers answer", function()
    local seen = {}
    for _, client in ipairs(here.of_each_worker(function() return here.publish(unique "news", { "x" }) end)) do
      seen[client.headers["x-worker"]] = true
    end
    local count = 0
    for _ in pairs(seen) do count = count + 1 end
    assert.equal(house.workers, count)
  end)

  describe("what is published reaches", function()
    it("every subscriber once and in order, whoever publishes", function()
      local name = unique "news"
      local subscribers = here.join_all(name)
      here.count(name, 30)
      for _, client in ipairs(subscribers) do assert.same(numbers(30), client:wait_data "30") end
    end)

    it("every subscriber in the same order where many publish at once", function()
      local name = unique "news"
      local subscribers, publishers = here.join_all(name), {}
      for i = 1, 6 do publishers[i] = here.connect() end
      for i, client in ipairs(publishers) do
        local events = {}
        for j = 1, 20 do events[j] = ("%d of %d"):format(j, i) end
        client:request("POST", "/publish?to=" .. name, nil, blackbox.events(events))
      end
      for _, client in ipairs(publishers) do assert.equal(200, client:finish().status) end
      here.publish(name, { "end" })
      local order = subscribers[1]:wait_data "end"
      assert.equal(121, #order)
      for _, client in ipairs(subscribers) do assert.same(order, client:wait_data "end") end
      local next_of = {}
      for i = 1, 120 do
        local j, publisher = order[i]:match "^(%d+) of (%d+)$"
        assert.equal((next_of[publisher] or 0) + 1, tonumber(j))
        next_of[publisher] = tonumber(j)
      end
    end)

    it("every subscriber, 2,000 in one callback", function()
      local name = unique "news"
      local subscribers = here.join_all(name)
      assert.equal(204, here.ask("POST", ("/burst?count=2000&to=%s"):format(name)).status)
      for _, client in ipairs(subscribers) do assert.same(numbers(2000), client:wait_data "2000") end
    end)

    it("the subscribers of its channel only", function()
      local one, other = unique "news", unique "news"
      local client = here.join(one)
      here.publish(other, { "not mine" })
      here.publish(one, { "mine" })
      assert.same({ "mine" }, client:wait_data "mine")
    end)

    it("all but the stream that is left out", function()
      local name = unique "news"
      local others = here.join_all(name)
      local client = here.open("/except?to=" .. name)
      assert.same({ "all" }, client:wait_data "all")
      here.publish(name, { "end" })
      assert.same({ "all", "end" }, client:wait_data "end")
      for _, other in ipairs(others) do assert.same({ "all but one", "all", "end" }, other:wait_data "end") end
    end)

    it("streams of several channels merged, in the order of publishing", function()
      local names = { unique "news", unique "news", unique "news" }
      local subscribers = here.join_all(table.concat(names, ","))
      for i = 1, 12 do here.publish(names[i % 3 + 1], { tostring(i) }) end
      for _, client in ipairs(subscribers) do assert.same(numbers(12), client:wait_data "12") end
    end)

    it("no stream that has unsubscribed", function()
      local one, other, name = unique "news", unique "news", unique "name"
      local client = here.open(("/unsubscribe?to=%s,%s&from=%s&name=%s"):format(one, other, one, name)):wait "\nid: "
      here.publish(one, { "before" })
      client:wait_data "before"
      here.tell(name, "go")
      client:wait_data "unsubscribed: true"
      here.publish(one, { "not mine" })
      here.publish(other, { "mine" })
      assert.same({ "before", "unsubscribed: true", "mine" }, client:wait_data "mine")
    end)
  end)

  describe("ids", function()
    it("are EPOCH-SEQUENCE, ascending, of one epoch", function()
      local _, ids = here.published(20)
      local epoch, number = nil, 0
      for _, id in ipairs(ids) do
        assert.matches(ID, id)
        local this, sequence = id:match "^(%x+)%-(%d+)$"
        assert.equal(epoch or this, this)
        assert.is_true(tonumber(sequence) > number)
        epoch, number = this, tonumber(sequence)
      end
    end)

    it("are what publish returns, as far as it knows them", function()
      local name = unique "news"
      local client = here.join(name)
      local _, ids = here.publish(name, { "1", "2" })
      client:wait_data "2"
      for i, message in ipairs((client:messages())) do
        if ids[i] ~= "true" then assert.equal(message.last_event_id, ids[i]) end
      end
    end)

    it("that a script gives are sent as given", function()
      local name = unique "news"
      local client = here.join(name)
      here.publish(name, { { id = "order 7", data = "x" }, { id = 8, data = "y" } })
      client:wait_data "y"
      assert.matches("id: order 7\ndata: x\n\nid: 8\ndata: y\n\n", client.body, 1, true)
    end)

    it("are not on events that shall have none", function()
      local name = unique "news"
      local client = here.join(name)
      here.publish(name, { { id = false, data = "x" } })
      client:wait_data "x"
      assert.equal("data: x\n", client:blocks()[3])
    end)
  end)

  describe("channel:close", function()
    it("ends the streams that have nothing else, and they get what was published before", function()
      local name = unique "news"
      local subscribers = here.join_all(name)
      here.count(name, 3)
      assert.equal(204, here.ask("POST", "/close?to=" .. name).status)
      for _, client in ipairs(subscribers) do
        assert.same(numbers(3), client:finish():data())
        assert.is_true(client.proper)
      end
    end)

    it("leaves the streams that have another channel", function()
      local one, other = unique "news", unique "news"
      local client = here.join(one .. "," .. other)
      here.ask("POST", "/close?to=" .. one)
      here.publish(other, { "mine" })
      assert.same({ "mine" }, client:wait_data "mine")
    end)

    it("drops the history: who comes back is told of a gap, and gets what is new", function()
      local name, ids = here.published(3)
      here.ask("POST", "/close?to=" .. name)
      here.assert_replay("gap", { "gap:" .. name }, name, ids[1])
      local client = here.join(name)
      here.publish(name, { "new" })
      assert.same({ "new" }, client:wait_data "new")
    end)
  end)

  describe("hooks", function()
    it("tell who comes, also the newcomer, and who leaves", function()
      local name = unique "hooks:"
      local ann = here.join(name, "&name=ann"):wait "event: came\ndata: ann\n\n"
      local bob = here.join(name, "&name=bob"):wait "event: came\ndata: bob\n\n"
      ann:wait "event: came\ndata: bob\n\n"
      bob:close()
      ann:wait "event: left\ndata: bob\n\n"
      assert.same({ "came:ann", "came:bob", "left:bob" }, ann:data())
    end)

    it("tell who has unsubscribed", function()
      local one, other, name = unique "hooks:", unique "news", unique "name"
      local watching = here.join(one, "&name=watching")
      here.open(("/unsubscribe?to=%s,%s&from=%s&name=%s"):format(one, other, one, name))
      here.tell(name, "go")
      watching:wait(("event: left\ndata: %s\n\n"):format(name))
    end)
  end)

  if house.workers == 1 then
    it("app:streams, channel:streams and channel.subscribers tell who is there", function()
      local one, other, name = unique "news", unique "news", unique "name"
      here.join(one, "&name=" .. name)
      here.join(one, "&name=" .. name)
      here.join(one)
      here.join(other, "&name=" .. name)
      assert.equal("3 2 3", here.ask("GET", ("/count?to=%s&name=%s"):format(one, name)).body)
    end)
  end
end

local function test_resume(here)
  describe("a client resumes", function()
    it("behind its Last-Event-ID", function()
      local name, ids = here.published(5)
      here.assert_replay("resumed", { "3", "4", "5" }, name, ids[2])
    end)

    it("behind the newest with nothing", function()
      local name, ids = here.published(5)
      here.assert_replay("resumed", {}, name, ids[5])
    end)

    for _, key in ipairs { "last_event_id", "lastEventId", "evs_last_event_id" } do
      it("behind the query's " .. key, function()
        local name, ids = here.published(5)
        here.assert_replay("resumed", { "4", "5" }, name, nil, ("&%s=%s"):format(key, ids[3]))
      end)
    end

    it("behind the header's id where the query has another", function()
      local name, ids = here.published(5)
      here.assert_replay("resumed", { "5" }, name, ids[4], "&last_event_id=" .. ids[1])
    end)

    it("behind subscribe's since, whatever it had", function()
      local name, ids = here.published(5)
      here.assert_replay("resumed", { "4", "5" }, name, ids[1], "&since=" .. ids[3])
    end)

    it("with since = live from now on", function()
      local name, ids = here.published(5)
      here.assert_replay("live", {}, name, ids[1], "&since=live")
    end)

    it("with the ids that it had, each with its event", function()
      local name, ids = here.published(5)
      local _, _, client = here.replay(name, ids[2])
      for i, message in ipairs((client:messages())) do
        assert.equal(ids[math.min(i + 2, 5)], message.last_event_id)
      end
    end)

    it("by the id of the first block, if it was cut before its first event", function()
      local name, ids = here.published(5)
      local client = here.join(name, nil, ids[2])
      local id = client:blocks()[2]:match "^id: (%S+)\n$"
      client:reset()
      assert.equal(ids[2], id)
      here.assert_replay("resumed", { "3", "4", "5" }, name, id)
    end)

    it("live by the first block's id of a stream that has had nothing", function()
      local name = here.published(2)
      local client = here.join(name)
      local id = client:blocks()[2]:match "^id: (%S+)\n$"
      client:reset()
      here.count(name, 3, 4)
      here.assert_replay("resumed", { "3", "4" }, name, id)
    end)

    it("several channels by one id", function()
      local names = { unique "news", unique "news", unique "news" }
      local all = table.concat(names, ",")
      local client = here.join(all)
      for i = 1, 9 do here.publish(names[i % 3 + 1], { tostring(i) }) end
      client:wait_data "9"
      local id = client:messages()[4].last_event_id
      client:reset()
      here.assert_replay("resumed", numbers(5, 9), all, id)
    end)

    it("one channel by an id of another", function()
      local name, other = unique "news", unique "news"
      local client = here.join(name .. "," .. other)
      here.publish(name, { "before" })
      here.publish(other, { "between" })
      here.publish(name, { "after" })
      client:wait_data "after"
      here.assert_replay("resumed", { "after" }, name, client:messages()[2].last_event_id)
    end)

    it("by an id that a script gave", function()
      local name, id = unique "news", unique "order "
      here.publish(name, { "1", { id = id, data = "2" }, "3" })
      here.publish(name, { { id = id .. "+", data = "4" } })
      here.assert_replay("resumed", { "3", "4" }, name, id)
      here.assert_replay("resumed", {}, name, id .. "+")
    end)

    it("without the events that have no id", function()
      local name, ids = here.published(2)
      here.publish(name, { { id = false, data = "for those who are there" } })
      here.publish(name, { "3" })
      here.assert_replay("resumed", { "2", "3" }, name, ids[1])
    end)

    it("in its first group of subscriptions only: a later one starts live", function()
      local one, ids = here.published(3)
      local other = here.published(3)
      local client = here.open(("/groups?first=%s&second=%s"):format(one, other), ids[1]):wait "event: result\n"
      here.publish(other, { "new" })
      assert.same({ "2", "3", "result:live", "new" }, client:wait_data "new")
    end)

    it("again and again while others publish, without a loss and without a repeat", function()
      local name, ids = here.published(1)
      local seen, id = {}, ids[1]
      for round = 1, 20 do
        local client = here.connect():request("GET", "/events?to=" .. name, { "Last-Event-ID: " .. id })
        here.count(name, round * 2, round * 2 + 1)
        client:head():wait_data(round % 3 == 0 and round * 2 + 1 or round * 2)
        for _, message in ipairs((client:messages())) do seen[#seen + 1] = message.data end
        id = client:last_id()
        client:reset()
      end
      assert.same(numbers(2, #seen + 1), seen)
      assert.is_true(#seen >= 39)
    end)

    it("and goes on live with no hole and no repeat where the two meet", function()
      local name, ids = here.published(1)
      here.ask("POST", ("/burst?count=300&to=%s"):format(name))
      local publisher, client = here.connect(), here.connect()
      client:request("GET", "/events?to=" .. name, { "Last-Event-ID: " .. ids[1] })
      for i = 301, 400 do
        publisher:request("POST", "/publish?to=" .. name, nil, blackbox.events { tostring(i) }):finish()
      end
      assert.same(numbers(400), client:wait_data "400")
    end)
  end)

  describe("a newcomer gets", function()
    it("what comes from now on", function()
      local name = here.published(5)
      here.assert_replay("live", {}, name)
    end)

    it("the newest n", function()
      local name = here.published(5)
      here.assert_replay("live", { "3", "4", "5" }, name, nil, "&newcomer=3")
    end)

    it("all that is kept", function()
      local name = here.published(5, "short:")
      here.assert_replay("live", { "3", "4", "5" }, name, nil, "&newcomer=all")
    end)

    it("the same with an empty Last-Event-ID", function()
      local name = here.published(5)
      local client = here.open(("/events?result=1&newcomer=2&to=%s"):format(name), { "Last-Event-ID:" })
      assert.same({ "4", "5", "result:live" }, client:wait_data "live")
    end)

    it("no more than it missed where it has an id", function()
      local name, ids = here.published(5)
      here.assert_replay("resumed", { "5" }, name, ids[4], "&newcomer=all")
    end)
  end)

  describe("a gap is told", function()
    local function after(id, ...)
      local name, ids = here.published(...)
      here.assert_replay("gap", { "gap:" .. name, "1", "2" }, name, type(id) == "function" and id(ids) or id)
    end

    local function number(text)
      return function(ids) return ids[1]:match "^%x+%-" .. text end
    end

    it("of an id that is unknown", function() after("never", 2) end)
    it("of an id from the future", function() after(number "999999999", 2) end)
    it("of an id beyond all numbers", function() after(number(("9"):rep(60)), 2) end)
    it("of an id of another epoch", function() after(("0"):rep(16) .. "-1", 2) end)
    it("of an id without a number", function() after(number "", 2) end)
    it("of an id with a bad number", function() after(number "1x", 2) end)
    it("of an id that is long", function() after(("x"):rep(500), 2) end)
    it("of an id of bytes that are no text", function() after("\255\254", 2) end)

    it("of an id behind which events were evicted, and what is kept follows", function()
      local name, ids = here.published(6, "short:")
      here.assert_replay("gap", { "gap:" .. name, "4", "5", "6" }, name, ids[2])
    end)

    it("not where the next event is the oldest that is kept", function()
      local name, ids = here.published(6, "short:")
      here.assert_replay("resumed", { "4", "5", "6" }, name, ids[3])
    end)

    it("of a given id that was evicted", function()
      local name = unique "short:"
      here.publish(name, { { id = "given to " .. name, data = "0" } })
      here.count(name, 5)
      here.assert_replay("gap", { "gap:" .. name, "3", "4", "5" }, name, "given to " .. name)
    end)

    it("with on_gap = live without what is kept", function()
      local name = here.published(2)
      here.assert_replay("gap", { "gap:" .. name }, name, "never", "&on_gap=live")
    end)

    it("of each of several channels, before their merged replay", function()
      local one, other = here.published(1), here.published(2)
      here.assert_replay("gap", { "gap:" .. one, "gap:" .. other, "1", "1", "2" }, one .. "," .. other, "never")
    end)

    it("as an event gap with the channel's name, then the id alone, then what is kept", function()
      local name, ids = here.published(5, "short:")
      local _, _, client = here.replay(name, "never")
      assert.equal(("event: gap\ndata: %s\n\nid: %s\n\n"):format(name, ids[2])
        .. ("id: %s\ndata: 3\n\nid: %s\ndata: 4\n\nid: %s\ndata: 5\n\n"):format(ids[3], ids[4], ids[5])
        .. "event: result\ndata: gap\n\n", client:behind_retry())
    end)

    it("once: the id behind it resumes", function()
      local name = here.published(6, "short:")
      local client = here.join(name, nil, "never")
      local id = client:blocks()[3]:match "^id: (%S+)\n$"
      client:reset()
      here.assert_replay("resumed", { "4", "5", "6" }, name, id)
    end)
  end)
end

local function test_slow_readers(here)
  -- One event of 50 KB by each request, 1 .. n, until done(); returns n.
  local function publish_until(name, done)
    local n = 0
    repeat
      n = n + 1
      assert(n <= 1000, "nothing became of the reader")
      here.publish(name, { tostring(n) }, "&pad=50000")
    until done(n)
    return n
  end

  local function wait_number(client, n)
    return client:wait(("data: %d%s\n\n"):format(n, (" "):rep(50000)))
  end

  describe("a reader that stops reading", function()
    it("is disconnected, told as slow, and resumes what it has missed", function()
      local report, query = here.reports()
      local name = unique "late:"
      local other, client = here.join(name), here.join(name, "&" .. query)
      client:pause()
      local n = publish_until(name, function() return report.body:find("closed", 1, true) end)
      assert.same({ "closed slow" }, report:wait_data "closed slow")
      client:resume()
      client:wait_end()
      assert.is_false(client.whole)
      local back = wait_number(here.join(name, nil, client:last_id()), n)
      local all = client:data()
      local before = #all
      for _, data in ipairs(back:data()) do all[#all + 1] = data end
      if all[before + 1] == "gap:" .. name and here.house.workers > 1 then
        -- until another worker's report of it was here, more than the history was published
        assert.same(numbers(before), { (table.unpack or unpack)(all, 1, before) })
        assert.same(numbers(tonumber(all[before + 2]), n), { (table.unpack or unpack)(all, before + 2) })
      else
        assert.same(numbers(n), all)
      end
      assert.same(numbers(n), wait_number(other, n):data()) -- the others did not notice
    end)

    it("with slow = skip is told of a gap, and goes on at the newest", function()
      local name = unique "skip:"
      local client = here.join(name)
      client:pause()
      local n = publish_until(name, function(n) return n == 250 end)
      client:resume()
      here.publish(name, { "end" })
      local list = client:wait_data "end"
      local gaps, before = 0, 0
      for i = 1, #list - 1 do
        if list[i] == "gap:" .. name then
          gaps = gaps + 1
        else
          assert.is_true(tonumber(list[i]) > before)
          before = tonumber(list[i])
        end
      end
      assert.is_true(gaps >= 1)
      assert.is_true(#list - 1 - gaps < n)
      assert.is_nil(client.failure)
    end)

    it("and has nothing to read is left alone", function()
      local name = unique "late:"
      local client = here.join(name)
      client:pause()
      here.count(name, 5)
      client:resume()
      assert.same(numbers(5), client:wait_data "5")
    end)
  end)
end

local function test_ends(here)
  local SOON = 1 -- seconds

  local WAYS = {
    ["with FIN"] = function(client) client:close() end,
    ["with FIN on its side"] = function(client) client:shutdown() end,
    ["with RST"] = function(client) client:reset() end,
    ["with FIN behind a few bytes"] = function(client) client:send("GET / HT"):shutdown() end,
    ["with FIN behind many bytes"] = function(client) client:send(("x"):rep(20000)):shutdown() end,
    ["with FIN behind another request"] = function(client)
      client:send("GET /text HTTP/1.1\r\nHost: house.test\r\n\r\n"):shutdown()
    end,
    ["with RST behind many bytes"] = function(client) client:send(("x"):rep(20000)):reset() end,
  }

  for kind, target in pairs { ["holds"] = "/hold?", ["subscribes"] = "/events?to=quiet&" } do
    describe("on_close of a stream that " .. kind .. " says client when that leaves", function()
      for way, leave in pairs(WAYS) do
        it(way, function()
          local report, query = here.reports()
          local client = here.open(target .. query)
          leave(client)
          local left = uv.hrtime()
          assert.same({ "closed client" }, report:wait_data "closed client")
          assert.is_true((uv.hrtime() - left) / 1e9 < SOON)
        end)
      end

      it("with FIN behind bytes that came with its request", function()
        local report, query = here.reports()
        local request = ("GET %s%s HTTP/1.1\r\nHost: house.test\r\n\r\n"):format(target, query)
        local client = here.connect():raw(request .. ("x"):rep(5000)):head():wait "\n\n"
        client:shutdown()
        local left = uv.hrtime()
        assert.same({ "closed client" }, report:wait_data "closed client")
        assert.is_true((uv.hrtime() - left) / 1e9 < SOON)
      end)
    end)
  end

  it("bytes behind a stream's request do not disturb it", function()
    local name = unique "news"
    local client = here.join(name)
    client:send "GET /text HTTP/1.1\r\nHost: house.test\r\n\r\n"
    here.count(name, 3)
    assert.same(numbers(3), client:wait_data "3")
  end)

  it("a handler whose client leaves gets nil, closed from sleep, and then ends", function()
    local report, query = here.reports()
    here.open("/loop?" .. query):wait("data: tick\n\n"):close()
    report:wait_data "closed client"
    here.publish("report:" .. query:match "=(.*)", { "end" })
    assert.same({ "sleep closed", "closed client", "end" }, report:wait_data "end")
  end)

  it("on_close says server when the script closes", function()
    local report, query = here.reports()
    local name = unique "name"
    local client = here.open(("/hold?name=%s&%s"):format(name, query))
    here.tell(name, "word")
    assert.same({ "closed server" }, report:wait_data "closed server")
    client:finish()
  end)

  it("on_close says server when the handler returns", function()
    local report, query = here.reports()
    here.sent("/sleep?" .. query)
    assert.same({ "closed server" }, report:wait_data "closed server")
  end)
end

local function test_errors(here)
  describe("an error", function()
    it("before the head of a GET answers 200, tells when to come back, and ends", function()
      local client = here.ask("GET", "/error")
      assert.same({ 200, "text/event-stream" }, { client.status, client.headers["content-type"] })
      assert.matches("^retry: %d+\n\n$", client.body)
      assert.is_true(client.proper)
    end)

    it("before the head of a POST answers 500", function()
      assert.equal(500, here.ask("POST", "/error/post").status)
    end)

    it("in a plain handler answers 500, and tells nothing of it", function()
      local client = here.ask("GET", "/error/plain")
      assert.equal(500, client.status)
      assert.is_nil(client.body:find "purpose")
    end)

    for what, target in pairs { ["behind the head"] = "/error/late?", ["in an interval"] = "/error/interval?" } do
      it(what .. " ends its stream, and on_close says error", function()
        local report, query = here.reports()
        local client = here.open(target .. query):finish()
        assert.same({ "before" }, client:data())
        assert.same({ "closed error" }, report:wait_data "closed error")
      end)
    end

    it("is told to on_error", function()
      local before = #here.house.process.lines
      here.ask("GET", "/error")
      process.wait(function()
        for i = before + 1, #here.house.process.lines do
          if here.house.process.lines[i]:find "^script error: .*on purpose" then return true end
        end
      end, nil, "the error's line")
    end)

    it("of one stream does not disturb another", function()
      local name = unique "news"
      local client = here.join(name)
      here.of_each_worker(function() return here.open "/error/late" end)
      here.count(name, 3)
      assert.same(numbers(3), client:wait_data "3")
    end)
  end)
end

local function test_posts(here)
  it("answers a POST token by token", function()
    local key = unique "key"
    local client = here.connect():request("POST", "/tokens?key=" .. key, nil, "one two three")
    for _, token in ipairs { "one", "two", "three" } do
      client:head():wait(("event: token\ndata: %s\n\n"):format(token))
      here.tell(key, "more")
    end
    client:finish()
    assert.same({ "token:one", "token:two", "token:three", "done:" }, client:data())
  end)

  it("ends a POST's stream when its handler returns", function()
    local key = unique "key"
    local client = here.connect():request("POST", "/tokens?key=" .. key, nil, "one two three")
    client:head():wait "data: one\n\n"
    here.tell(key, "enough")
    assert.same({ "token:one" }, client:finish():data())
  end)
end

local function test_requests(here)
  -- Each of these lines is among what the handler saw.
  local function assert_seen(body, ...)
    for _, line in ipairs { ... } do assert.matches("\n" .. line .. "\n", "\n" .. body .. "\n", 1, true) end
  end

  describe("a handler sees the request's", function()
    it("method, target, path, version, client and body", function()
      local body = here.ask("GET", "/request?a=%201").body
      assert_seen(body, "method GET", "target /request?a=%201", "path /request", "version 1.1", "remote 127.0.0.1",
        "body ")
    end)

    it("other methods", function()
      assert_seen(here.ask("PUT", "/request", nil, "text").body, "method PUT", "body text")
      assert_seen(here.ask("DELETE", "/request").body, "method DELETE", "body ")
    end)

    it("query, decoded; of a repeated key the last value, and all", function()
      local body = here.ask("GET", "/request?a=1&b=x%20y&a=2&c=%C3%A9+z&d&e=").body
      assert_seen(body, "query a = 2", "query b = x y", "query c = \195\169 z", "query d = ", "query e = ",
        "query_all a = 1|2", "query_all b = x y")
    end)

    it("headers, in any case; repeated ones joined", function()
      local body = here.ask("GET", "/request", { "X-Own: one", "x-OWN: two", "Accept: text/event-stream" }).body
      assert_seen(body, "header x-own = one, two", "header X-OWN = one, two", "header host = house.test",
        "header accept = text/event-stream")
    end)

    it("lack of headers", function()
      assert_seen(here.ask("GET", "/request").body, "header x-own = nil", "header accept = nil")
    end)

    it("cookies", function()
      assert_seen(here.ask("GET", "/request", { 'Cookie: session=a1; theme="dark"; x=' }).body, "cookies session = a1",
        "cookies x = ")
    end)

    it("parameters, decoded behind the split of its path", function()
      local body = here.ask("GET", "/request/a%2Fb/and/c%20d%3Fe+f").body
      assert_seen(body, "params first = a/b", "params second = c d?e+f", "path /request/a%2Fb/and/c%20d%3Fe+f")
    end)

    it("rest of the path", function()
      assert_seen(here.ask("GET", "/files/a/b%2Fc//d.txt").body, "params * = a/b/c//d.txt")
    end)

    it("body on a stream of a POST", function()
      local client = here.ask("POST", "/stream/request?a=1", nil, "two words")
      assert_seen(table.concat(client:data(), "\n"), "method POST", "body two words", "query a = 1")
    end)

    it("everything on a stream", function()
      local client = here.open("/stream/request/a%2Fb?a=1&a=2", { "X-Own: one", "Cookie: a=b" }):finish()
      assert_seen(client:data()[1], "method GET", "path /stream/request/a%2Fb", "params name = a/b", "query a = 2",
        "query_all a = 1|2", "header X-OWN = one", "cookies a = b", "remote 127.0.0.1")
    end)

    it("Last-Event-ID, of any bytes", function()
      local id = "\226\128\166 \195\169"
      assert.equal(("data: %s\n\n"):format(id), here.open("/last", id):finish():behind_retry())
      assert.equal("data: x/y\n\n", (here.sent "/last?lastEventId=x%2Fy"))
      assert.equal("data: none\n\n", (here.sent "/last"))
    end)

    it("body of any bytes", function()
      local bytes = {}
      for i = 0, 255 do bytes[i + 1] = string.char(i) end
      local all = table.concat(bytes):rep(300)
      assert.is_true(here.ask("POST", "/body", nil, all).body == all)
    end)

    it("body in chunks", function()
      local head = "POST /body HTTP/1.1\r\nHost: house.test\r\nTransfer-Encoding: chunked\r\n\r\n"
      local client = here.connect():raw(head .. "5\r\nfirst\r\n", "POST")
      client:send "7\r\n second\r\n":send "0\r\n\r\n"
      assert.equal("first second", client:finish().body)
    end)

    it("body that waits for 100 Continue", function()
      local client = here.connect():request("POST", "/body", { "Expect: 100-continue", "Content-Length: 4" })
      client:wait_continue()
      assert.is_nil(client.status)
      assert.equal("text", client:send("text"):finish().body)
    end)

    it("body up to the limit", function()
      local client = here.ask("POST", "/size", nil, ("x"):rep(100000))
      assert.same({ 200, "100000" }, { client.status, client.body })
    end)
  end)

  it("a body above the limit is refused by its length", function()
    assert.equal(413, here.connect():request("POST", "/size", { "Content-Length: 100001" }):head().status)
  end)

  it("a body above the limit is refused when it comes in chunks", function()
    local client = here.connect():request("POST", "/size", { "Transfer-Encoding: chunked" })
    for _ = 1, 2 do client:send(("%x\r\n%s\r\n"):format(60000, ("x"):rep(60000))) end
    client:send "0\r\n\r\n"
    assert.equal(413, client:head().status)
  end)
end

local function test_answers(here)
  -- Status, type and body of a GET.
  local function answer(target)
    local client = here.ask("GET", target)
    return { client.status, client.headers["content-type"], client.body }, client
  end

  describe("a plain handler answers", function()
    it("a string as text", function()
      assert.same({ 200, "text/plain; charset=utf-8", "text" }, (answer "/text"))
    end)

    it("an empty string without a type", function() assert.same({ 200, nil, "" }, (answer "/empty")) end)
    it("nothing as 204", function() assert.same({ 204, nil, "" }, (answer "/nothing")) end)

    it("status, body and headers, several of one name too", function()
      local got, client = answer "/answer"
      assert.same({ 201, "application/json", "{}" }, got)
      assert.same({ { "1" }, { "a=1", "b=2; Path=/" } }, { client.fields["x-one"], client.fields["set-cookie"] })
    end)

    it("any status", function()
      for _, status in ipairs { 200, 206, 299, 302, 404, 418, 499, 500, 503, 599 } do
        assert.same({ status, "x" }, { answer("/status/" .. status)[1], answer("/status/" .. status)[3] })
      end
    end)

    it("after it has waited", function() assert.equal("later", (answer "/later")[3]) end)

    it("a client that has closed its side", function()
      local client = here.connect():request("GET", "/later")
      client:shutdown()
      assert.equal("later", client:finish().body)
    end)

    it("1 MB of any bytes", function()
      local client = here.ask("GET", "/bytes")
      local bytes = {}
      for i = 0, 255 do bytes[i + 1] = string.char(i) end
      assert.is_true(client.proper)
      assert.is_true(client.body == table.concat(bytes):rep(4096))
    end)

    it("HEAD with its head alone", function()
      local client = here.ask("HEAD", "/text")
      assert.same({ 200, "text/plain; charset=utf-8", "" },
        { client.status, client.headers["content-type"], client.body .. client.rest })
      assert.is_true((client.headers["content-length"] or "4") == "4")
    end)

    it("HTTP/1.0", function()
      local client = here.connect():raw("GET /text HTTP/1.0\r\nHost: house.test\r\n\r\n"):finish()
      assert.same({ 200, "text" }, { client.status, client.body })
      client:wait_end()
    end)

    it("several requests on one connection", function()
      local client = here.connect()
      for _ = 1, 3 do
        assert.equal("text", client:request("GET", "/text"):finish().body)
        assert.equal("{}", client:request("GET", "/answer"):finish().body)
        assert.equal("3", client:request("POST", "/size", nil, "abc"):finish().body)
        assert.equal(204, client:request("GET", "/nothing"):finish().status)
        assert.equal(200, client:request("HEAD", "/text"):finish().status)
        assert.equal(404, client:request("GET", "/none"):finish().status)
      end
    end)

    it("several requests that came at once", function()
      local client = here.connect()
      client:raw(("GET /text HTTP/1.1\r\nHost: x\r\n\r\n"):rep(2) .. "GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.equal("text", client:finish().body)
      assert.equal("text", client:next():finish().body)
      assert.equal("later", client:next():finish().body)
    end)

    it("a stream on a connection that has had an answer", function()
      local client = here.connect()
      client:request("GET", "/text"):finish()
      client:request("GET", "/sent"):finish()
      assert.equal("data: 1\n\ndata: 2\n\ndata: 3\n\n", client:behind_retry())
    end)
  end)

  describe("a stream is rejected", function()
    it("with status, body and headers", function()
      local got, client = answer "/reject"
      assert.same({ 401, "text/plain; charset=utf-8", "who are you?" }, got)
      assert.same({ { "Basic" }, { "a=1", "b=2" } }, { client.fields["www-authenticate"], client.fields["set-cookie"] })
    end)

    it("with 204, which has no body", function() assert.same({ 204, nil, "" }, (answer "/reject/204")) end)
    it("after its handler has waited", function() assert.equal(403, (answer "/reject/later")[1]) end)
  end)

  describe("a path", function()
    it("that no route has answers 404", function() assert.equal(404, here.ask("GET", "/none").status) end)

    it("that is malformed answers 400", function()
      assert.equal(400, here.ask("GET", "/request/%zz/and/x").status)
    end)

    it("goes to a literal segment rather than to a parameter", function()
      assert.equal("literal", here.ask("GET", "/request/literal/and/literal").body)
    end)

    for _, case in ipairs {
      { "POST", "/text", "GET, HEAD, OPTIONS" }, { "DELETE", "/hold", "GET, HEAD, OPTIONS" },
      { "GET", "/send", "OPTIONS, POST" }, { "POST", "/request", "DELETE, GET, HEAD, OPTIONS, PUT" },
    } do
      it(("answers %s of %s with 405, and says what is allowed"):format(case[1], case[2]), function()
        local client = here.ask(case[1], case[2])
        assert.same({ 405, case[3] }, { client.status, client.headers.allow })
      end)
    end

    it("answers OPTIONS with what is allowed", function()
      local client = here.ask("OPTIONS", "/hold")
      assert.same({ 204, "GET, HEAD, OPTIONS", "" }, { client.status, client.headers.allow, client.body })
    end)
  end)
end

local function test_guards(here)
  describe("app:before", function()
    for _, target in ipairs { "/guarded", "/guarded/stream", "/guarded/none" } do
      it("refuses who asks for " .. target, function()
        local client = here.ask("GET", target)
        assert.same({ 401, "who are you?", "Basic" },
          { client.status, client.body, client.headers["www-authenticate"] })
      end)
    end

    it("refuses HEAD of a stream, too", function() assert.equal(401, here.ask("HEAD", "/guarded/stream").status) end)

    it("lets others through, with what it learned", function()
      assert.equal("ann", here.ask("GET", "/guarded?user=ann").body)
      assert.matches("\n\ndata: ann\n\n$", here.ask("GET", "/guarded/stream?user=ann").body)
      local head = here.ask("HEAD", "/guarded/stream?user=ann")
      assert.same({ 200, "text/event-stream" }, { head.status, head.headers["content-type"] })
      assert.equal(404, here.ask("GET", "/guarded/none?user=ann").status)
    end)

    it("that fails lets nobody in", function()
      assert.equal(500, here.ask("GET", "/guarded?fails=1&user=ann").status)
      assert.matches("^retry: %d+\n\n$", here.ask("GET", "/guarded/stream?fails=1&user=ann").body)
    end)
  end)

  it("a request that names another host is refused with 421", function()
    local client = here.connect():raw("GET /text HTTP/1.1\r\nHost: evil.test\r\n\r\n"):finish()
    assert.equal(421, client.status)
  end)

  it("a page of another origin is refused with 403", function()
    assert.equal(403, here.ask("GET", "/text", { "Origin: https://evil.test" }).status)
    assert.equal(200, here.ask("GET", "/text", { "Origin: https://good.test" }).status)
  end)

  it("a page of a listed origin may read, and is told so before it asks", function()
    for _, target in ipairs { "/text", "/sent", "/nowhere" } do
      local headers = here.ask("GET", target, { "Origin: https://good.test" }).headers
      assert.equal("https://good.test", headers["access-control-allow-origin"], target)
      assert.equal("true", headers["access-control-allow-credentials"])
      assert.equal("Origin", headers.vary)
      assert.equal(nil, here.ask("GET", target).headers["access-control-allow-origin"])
    end
    local asked = here.ask("OPTIONS", "/sent", { "Origin: https://good.test", "Access-Control-Request-Method: GET" })
    assert.equal(204, asked.status)
    assert.matches("GET, HEAD", asked.headers["access-control-allow-methods"])
    assert.matches("Last%-Event%-ID", asked.headers["access-control-allow-headers"])
  end)

  it("files are served, and none outside their folder", function()
    local file = assert(io.open("spec/support/blackbox_app.lua", "rb"))
    local text = file:read "*a"
    file:close()
    local answer = here.ask("GET", "/static/blackbox_app.lua")
    assert.equal(text, answer.body)
    assert.equal("application/octet-stream", answer.headers["content-type"])
    assert.equal(tostring(#text), answer.headers["content-length"])
    local part = here.ask("GET", "/static/blackbox_app.lua", { "Range: bytes=4-11" })
    assert.same({ 206, text:sub(5, 12) }, { part.status, part.body })
    local tag = answer.headers.etag
    assert.equal(304, here.ask("GET", "/static/blackbox_app.lua", { "If-None-Match: " .. tag }).status)
    for _, target in ipairs { "/static/..%2fblackbox_spec.lua", "/static/%2e%2e/blackbox_spec.lua", "/static/none" } do
      local status = here.ask("GET", target).status
      assert(status == 404 or status == 400, target .. " " .. status)
    end
  end)

  it("a trusted proxy tells who its client is", function()
    local body = here.ask("GET", "/request", { "X-Forwarded-For: 6.6.6.6, 203.0.113.9" }).body
    assert.matches("\nremote 203.0.113.9\n", "\n" .. body, 1, true)
  end)

  it("a stream expires", function()
    local report, query = here.reports()
    local client = here.ask("GET", "/expire?after=0.1&" .. query)
    assert.is_true(client.proper)
    assert.same({ "closed expired" }, report:wait_data "closed expired")
    assert.equal(200, here.ask("GET", "/expire?after=-1").status)
  end)
end

local function test_readers(here)
  local function url(target) return ("http://127.0.0.1:%d%s"):format(here.house.port, target) end

  it("curl reads a stream to its end", function()
    local curl = process.spawn("curl", { "-sSN", "--noproxy", "*", "--max-time", "60", url "/sent" })
    assert.equal(0, curl:wait_exit(), curl.stderr)
    assert.matches("^retry: %d+\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n$", curl.stdout)
  end)

  for _, name in ipairs { "eventsource", "eventsource-parser", "undici" } do
    it(name .. " from npm reads what was published", function()
      if not readers.node then return pending "node or the clients of spec/readers are not installed" end
      local channel = unique "news"
      here.publish(channel, { "1", { event = "note", data = "two\nlines" }, { event = "end", data = "" } })
      local client = readers.npm(name, url("/events?newcomer=all&to=" .. channel), { "note" })
      assert.equal(0, client:wait_exit(), client.stderr)
      local arrived = {}
      for line in client.stdout:gmatch "[^\n]+" do
        local event = json.decode(line)
        assert.is_nil(event.error)
        if event.data then
          assert.matches(ID, event.id)
          arrived[#arrived + 1] = { event.event, event.data }
        end
      end
      assert.same({ { "message", "1" }, { "note", "two\nlines" } }, arrived)
    end)
  end
end

for _, house in ipairs(houses.all) do
  describe("in " .. house.name, function()
    if house.missing then return pending(house.missing) end
    local here = at(house)

    setup(function() house:open "blackbox_app" end)

    teardown(function()
      local code = house:close()
      local strange = {}
      for _, line in ipairs(house.process.lines) do
        if is_strange(line) then strange[#strange + 1] = line end
      end
      assert.same({}, strange)
      assert.equal(0, code)
    end)

    after_each(blackbox.finish)

    test_heads(here)
    test_frames(here)
    test_sending(here)
    test_fan_out(here)
    test_resume(here)
    test_slow_readers(here)
    test_ends(here)
    test_errors(here)
    test_posts(here)
    test_requests(here)
    test_answers(here)
    test_guards(here)
    test_readers(here)
  end)
end
