--- The examples of channels as a newcomer meets them, as examples_spec: chat, ticker, finish and relay.

local channels = require "spec.support.channels"
local examples = require "spec.support.examples"
local process = require "spec.support.process"

local ask, curl, events, interrupt, post = examples.ask, examples.curl, examples.events, examples.interrupt,
  examples.post
local start, wait_event, wait_events = examples.start, examples.wait_event, examples.wait_events
local unpack = channels.unpack

-- The curl option by which a client comes back.
local function after(id)
  return ("-H 'Last-Event-ID: %s'"):format(id)
end

-- What a client has of a type so far: data, or another field.
local function list(client, kind, field)
  local found = {}
  for _, event in ipairs(events(client)) do
    if event.type == kind then found[#found + 1] = event[field or "data"] end
  end
  return found
end

local function last_id(client)
  local all = events(client)
  return all[#all].last_event_id
end

-- Leaves, wherever the stream is.
local function cut(client)
  client:kill "sigkill"
  client:wait_exit()
end

local function append(to, from)
  for _, value in ipairs(from) do to[#to + 1] = value end
  return to
end

describe("chat.lua", function()
  after_each(process.kill_all)

  local server, path

  local function begin()
    server, path = start "chat.lua", "/rooms/lobby?name=Ada"
  end

  local function say(text, to)
    assert.same({ 204, "" }, { ask(server, to or path, "--data-binary", text) })
  end

  it("shows a message to all in its room, and who is there as they come and leave", function()
    begin()
    local bob = curl(server, nil, { Ada = "Bob" })
    wait_event(bob, { type = "here", data = "Bob" })
    local ada = curl(server)
    wait_event(ada, { type = "here", data = "Ada\nBob" })
    local again = curl(server) -- a second page of hers
    wait_event(again, { type = "here", data = "Ada\nBob" })
    local zoe = curl(server, nil, { Ada = "Zoe", lobby = "attic" })
    wait_event(zoe, { type = "here", data = "Zoe" })

    assert.same({ 204, "" }, { post(server, { lobby = "attic", Hello = "Psst" }) })
    assert.equal("Ada\nPsst!", wait_event(zoe, { type = "message" }).data)
    assert.same({ 204, "" }, { post(server) })
    local message = wait_event(bob, { type = "message" })
    assert.equal("Ada\nHello!", message.data)
    assert.matches("^" .. channels.ID .. "$", message.last_event_id)
    assert.same(message, wait_event(ada, { type = "message" }))

    cut(again)
    wait_event(bob, { type = "here", data = "Ada\nBob" }) -- the other page is still there
    cut(ada)
    wait_event(bob, { type = "here", data = "Bob" })
    assert.same({ "Bob", "Ada\nBob", "Ada\nBob", "Ada\nBob", "Bob" }, list(bob, "here"))
    local _, without_id = bob.stdout:gsub("\n\nevent: here\n", "") -- no part of the history
    assert.equal(5, without_id)
    interrupt(server)
    assert.equal(0, bob:wait_exit(), bob.stderr) -- curl got the last chunk
  end)

  it("gives a newcomer the last 50 messages, and one who comes back what was missed", function()
    begin()
    local wanted, ada = {}, curl(server)
    wait_event(ada, { type = "here" })
    for i = 1, 55 do
      say(("message %d"):format(i))
      wanted[i] = ("Ada\nmessage %d"):format(i)
    end
    wait_event(ada, { data = wanted[55] })
    assert.same(wanted, list(ada, "message"))
    local ids = list(ada, "message", "last_event_id")

    local newcomer = curl(server, nil, { Ada = "Bob" })
    local back = curl(server, after(ids[52]), { Ada = "Cleo" })
    local there = curl(server, after(ids[55]), { Ada = "Dan" })
    for _, client in ipairs { newcomer, back, there } do wait_event(client, { type = "here" }) end
    say "and on"
    wanted[56] = "Ada\nand on"
    for client, first in pairs { [newcomer] = 6, [back] = 53, [there] = 56 } do
      wait_event(client, { data = "Ada\nand on" })
      assert.same({ unpack(wanted, first) }, list(client, "message"))
      assert.same({}, list(client, "gap"))
    end
    assert.same({ unpack(ids, 6) }, { unpack(list(newcomer, "message", "last_event_id"), 1, 50) })

    local lost = curl(server, after(ids[1]), { Ada = "Eve" }) -- 2 to 6 are gone
    wait_event(lost, { type = "here" })
    assert.equal("room:lobby", events(lost)[1].data)
    assert.equal("gap", events(lost)[1].type)
    assert.equal(50, #list(lost, "message"))
    interrupt(server)
  end)

  it("answers 400 without a name or a text", function()
    begin()
    for _, query in ipairs { "", "?name=", "?name=%20%09", "?name=%0D%0A%00", "?nam=Ada" } do
      assert.same({ 400, "say who you are: ?name=Ada\n" }, { ask(server, "/rooms/lobby" .. query) })
      local status = ask(server, "/rooms/lobby" .. query, "-d", "Hello!")
      assert.equal(400, status)
    end
    for _, text in ipairs { "", " ", "\r\n\t" } do
      assert.same({ 400, "a message has a ?name= and a body\n" }, { ask(server, path, "--data-binary", text) })
    end
    local client = curl(server)
    wait_event(client, { type = "here" })
    say "the first"
    wait_event(client, { data = "Ada\nthe first" })
    assert.equal(1, #list(client, "message"))
    interrupt(server)
  end)

  it("lets no name and no text become another event or another name", function()
    begin()
    local eve = "/rooms/lobby?name=Eve%0D%0A%0Aevent:%20here%0Ddata:%20Bob%00%1B%7F"
    local shown = "Eve   event: here data: Bob"
    local bob = curl(server, nil, { Ada = "Bob" })
    wait_event(bob, { type = "here" })
    local spy = process.spawn("curl", { "-sSN", "--noproxy", "*", ("http://127.0.0.1:%s%s"):format(server.port, eve) })
    wait_event(bob, { type = "here", data = "Bob\n" .. shown })
    say("one\n\nevent: here\ndata: nobody\r\rid: 9\r\n\r\nretry: 1\n", eve)
    say("<b>two</b>", "/rooms/lobby?name=" .. ("n"):rep(300))
    say("three", "/rooms/lobby?name=%20Zo%C3%AB%20")
    wait_event(bob, { data = "Zoë\nthree" })
    assert.same({ shown .. "\none\n\nevent: here\ndata: nobody\n\nid: 9\n\nretry: 1\n",
      ("n"):rep(100) .. "\n<b>two</b>", "Zoë\nthree" }, list(bob, "message"))
    assert.same({ "Bob", "Bob\n" .. shown }, list(bob, "here"))
    for _, id in ipairs(list(bob, "message", "last_event_id")) do assert.matches("^" .. channels.ID .. "$", id) end
    cut(spy)
    wait_event(bob, { type = "here", data = "Bob" })
    interrupt(server)
  end)
end)

describe("ticker.lua", function()
  after_each(process.kill_all)

  local ALL = { ["ACME,HOOLI"] = "ACME,GLOBEX,HOOLI,INITECH,STARK,TYRELL,WAYNE" }

  local function sequence(event)
    return tonumber((event.last_event_id:match "%d+$"))
  end

  -- Those of a client's events that are of the symbols.
  local function only(all, ...)
    local wanted, found = {}, {}
    for _, symbol in ipairs { ... } do wanted[symbol] = true end
    for _, event in ipairs(all) do
      if wanted[event.data:match "^%u+"] then found[#found + 1] = event end
    end
    return found
  end

  -- The first of a list, as many as another has.
  local function as_many(all, other)
    local found = {}
    for i = 1, #other do found[i] = all[i] end
    return found
  end

  it("merges the chosen symbols in the order of their publishing, for a client that comes back, too", function()
    local server = start "ticker.lua"
    local stays, leaves = curl(server, nil, ALL), curl(server, nil, ALL)
    local two, one = curl(server), curl(server, nil, { HOOLI = "ACME" })
    wait_events(leaves, 5)
    cut(leaves)
    local head = events(leaves)
    wait_events(stays, #head + 20) -- meanwhile prices move
    local missed = #events(stays)
    local back = curl(server, after(last_id(leaves)), ALL)
    local resumed = append(head, wait_events(back, missed - #head + 5))
    local chosen, single = wait_events(two, 10), wait_events(one, 5)
    local first, last = sequence(events(stays)[1]), 0
    for _, got in ipairs { resumed, chosen, single } do last = math.max(last, sequence(got[#got])) end
    local all = wait_events(stays, last - first + 1)

    for i, event in ipairs(all) do
      assert.equal("price", event.type)
      assert.matches("^%u+ %d+%.%d%d$", event.data)
      assert.matches("^" .. channels.ID .. "$", event.last_event_id)
      assert.equal(first + i - 1, sequence(event)) -- whatever the symbol
    end
    assert.same(as_many(all, resumed), resumed)
    assert.same(as_many(only(all, "ACME", "HOOLI"), chosen), chosen)
    assert.same(as_many(only(all, "ACME"), single), single)
    assert.is_true(#only(chosen, "ACME") > 0 and #only(chosen, "HOOLI") > 0)
    interrupt(server)
    for _, client in ipairs { stays, back, two, one } do assert.equal(0, client:wait_exit(), client.stderr) end
  end)

  it("lists its symbols, and answers 400 where none or an unknown one is chosen", function()
    local server = start "ticker.lua"
    assert.same({ 200, "ACME\nGLOBEX\nHOOLI\nINITECH\nSTARK\nTYRELL\nWAYNE" }, { ask(server, "/symbols") })
    for _, query in ipairs { "", "?symbols=", "?symbols=,", "?symbol=ACME" } do
      local status, body = ask(server, "/ticker" .. query)
      assert.equal(400, status)
      assert.matches("?symbols=ACME,HOOLI", body, 1, true)
    end
    for _, symbols in ipairs { "NONE", "ACME,NONE", "NONE,ACME", "acme", "ACME%20" } do
      assert.same({ 400, "no such symbol\n" }, { ask(server, "/ticker?symbols=" .. symbols) })
    end
    interrupt(server)
  end)
end)

describe("finish.lua", function()
  after_each(process.kill_all)

  local STEPS = 40

  local function progress(from, to)
    local steps = {}
    for i = from, to do steps[#steps + 1] = ("%d/%d"):format(i, STEPS) end
    return steps
  end

  local function assert_whole(client)
    assert.equal(0, client:wait_exit(), client.stderr) -- the server ended it
    assert.same(progress(1, STEPS), list(client, "progress"))
    assert.same({ "job 1 took 40 steps" }, list(client, "done"))
    assert.equal(STEPS + 1, #events(client))
    return last_id(client)
  end

  local function assert_rest(client, from)
    assert.equal(0, client:wait_exit(), client.stderr)
    assert.same(append(progress(from, STEPS), { "job 1 took 40 steps" }),
      append(list(client, "progress"), list(client, "done")))
    assert.same({}, list(client, "gap"))
    return last_id(client)
  end

  it("gives each client a job up to its end, also one that was cut, and then 204", function()
    local server = start "finish.lua"
    local stays, leaves, late = curl(server), curl(server), curl(server)
    assert.same({ 201, "2\n" }, { post(server) })
    local second = curl(server, nil, { ["/1$"] = "/2" })
    for _, number in ipairs { "3", "0", "01", "x", "1%20" } do
      assert.same({ 204, "" }, { ask(server, "/jobs/" .. number) })
    end
    wait_event(leaves, { data = "2/40" })
    cut(leaves)
    wait_event(late, { data = "3/40" })
    cut(late)
    wait_event(stays, { data = "5/40" }) -- at least two steps were missed
    local back = curl(server, after(last_id(leaves)))

    local last = assert_whole(stays)
    assert.equal(last, assert_rest(back, #events(leaves) + 1))
    assert.equal(last, assert_rest(curl(server, after(last_id(late))), #events(late) + 1)) -- back after the end
    assert.equal(last, assert_whole(curl(server))) -- new after the end
    for _ = 1, 2 do
      assert.same({ 204, "" }, { ask(server, "/jobs/1", "-H", "Last-Event-ID: " .. last) })
    end

    wait_event(second, { type = "done", data = "job 2 took 40 steps" })
    assert.equal(0, second:wait_exit(), second.stderr)
    assert.same(progress(1, STEPS), list(second, "progress"))
    assert.same({ 201, "3\n" }, { post(server) })
    local third = curl(server, nil, { ["/1$"] = "/3" })
    wait_event(third, { type = "progress", data = "1/40" })
    interrupt(server) -- with a job under way
    assert.equal(0, third:wait_exit(), third.stderr)
  end)
end)

describe("relay.lua", function()
  after_each(process.kill_all)

  it("asks once for all who look, tells them how it ends, and asks another API", function()
    local server = start "relay.lua"
    local first = curl(server)
    assert.same({ 201, "2\n" }, { post(server) })
    local second = curl(server, nil, { ["/1$"] = "/2" })
    wait_event(first, { type = "end", data = "" })
    assert.equal("You ask: What does a parrot say? I wonder, too.", table.concat(list(first, "token")))
    wait_event(second, { type = "end", data = "" })
    assert.equal("You ask: why? I wonder, too.", table.concat(list(second, "token")))
    local late = curl(server)
    wait_event(late, { type = "end", data = "" })
    assert.same(list(first, "token"), list(late, "token"))

    local other = start("relay.lua", ("http://127.0.0.1:%s/parrot"):format(server.port)) -- by the first one's parrot
    local there = curl(other)
    wait_event(there, { type = "end", data = "" })
    assert.same(list(first, "token"), list(there, "token"))
    local broken = start("relay.lua", ("http://127.0.0.1:%s/"):format(server.port))
    wait_event(curl(broken), { type = "end", data = "the server answered 405" })
    for _, client in ipairs { first, second, late, there } do cut(client) end
    for _, each in ipairs { server, other, broken } do interrupt(each) end
  end)
end)
