--- What a browser's EventSource has of channels when it is cut and comes back by itself; and the pages of the examples
-- of channels.

local uv = require "luv"
local json = require "dkjson"
local channels = require "spec.support.channels"
local pages = require "spec.support.pages"
local process = require "spec.support.process"
local readers = require "spec.support.readers"

local CONNECTING, OPEN = pages.CONNECTING, pages.OPEN

-- A server to be killed, which has published two events when it listens.
local SERVER = ([[
  local eventstream = require "eventstream"
  local app = eventstream.new { retry = 100 }
  app:get("/", function() return 200, %q, { ["Content-Type"] = "text/html" } end)
  app:stream("/sse", function(stream) stream:subscribe("news", { newcomer = "all" }) end)
  for i = 1, 2 do app:channel("news"):publish(os.getenv "NAME" .. " " .. i) end
  return app:serve { port = tonumber(os.getenv "PORT") }
]]):format(pages.PAGE)

-- Stands between the browser and a server, and cuts streams: the first one when so many bytes of it have come through
-- as cuts[1] says, and so on, in turn by a FIN and by a RST. Streams behind the last cut live.
local function relay(port, cuts)
  local listener = uv.new_tcp()
  local self, handles = { streams = 0 }, { listener }
  assert(listener:bind("127.0.0.1", 0))
  assert(listener:listen(16, function()
    local near, far = uv.new_tcp(), uv.new_tcp()
    local left = math.huge
    handles[#handles + 1], handles[#handles + 2] = near, far
    local function finish(reset)
      if near:is_closing() then return end
      if reset then near:close_reset() else near:close() end
      far:close()
    end
    listener:accept(near)
    far:connect("127.0.0.1", port, function(failure)
      if failure then return finish(true) end
      near:read_start(function(_, bytes)
        if not bytes then return finish() end
        if bytes:find "^GET /sse " then
          self.streams = self.streams + 1
          left = cuts[self.streams] or math.huge
        end
        far:write(bytes)
      end)
      far:read_start(function(_, bytes)
        if not bytes then return finish() end
        near:write(#bytes < left and bytes or bytes:sub(1, left), function()
          if left <= 0 then finish(self.streams % 2 == 0) end
        end)
        left = left - #bytes
      end)
    end)
  end))
  self.port = listener:getsockname().port
  function self.close()
    for _, handle in ipairs(handles) do
      if not handle:is_closing() then handle:close() end
    end
  end
  return self
end

-- What the page's EventSource dispatched so far: "data", or "type:data".
local function seen(page)
  local list = {}
  for _, report in ipairs(page.reports) do
    if report.event then
      list[#list + 1] = report.event == "message" and report.data or report.event .. ":" .. report.data
    end
  end
  return list
end

local function close_streams(app)
  local streams = app:streams()
  assert(#streams > 0, "nothing to close")
  for _, stream in ipairs(streams) do stream:close() end
end

describe("chromium on channels", function()
  if not readers.chromium then
    return pending "comes back (chromium is not installed)"
  end

  lazy_setup(pages.launch)
  lazy_teardown(pages.quit)

  local line

  after_each(function()
    pages.finish()
    if line then line.close() end
    line = nil
  end)

  -- An app whose /sse subscribes to the names; app.came lists the id with which each client came, app.results what
  -- subscribe returned.
  local function serve(names, options, subscription)
    options = options or {}
    options.retry = 100
    local app, port
    app, port = pages.serve(options, function(stream)
      app.came[#app.came + 1] = stream.last_event_id or "none"
      app.results[#app.results + 1] = stream:subscribe(names, subscription)
    end)
    app.came, app.results = {}, {}
    return app, port
  end

  local function text(number) -- also what can be cut in the middle of a character and of a line
    return ("%d\n語 %s"):format(number, ("…"):rep(number % 40))
  end

  for _, names in ipairs { { "news" }, { "news", "weather" } } do
    -- Publishes on one or the other all the time, until over() is true; each event must have been seen once, in order.
    local function publish_until(app, page, over)
      local published = 0
      local function publish()
        published = published + 1
        local name = names[published % 3 == 0 and 2 or 1] or names[1]
        return app:channel(name):publish(text(published))
      end
      local interval = app:every(0.004, publish)
      process.wait(over)
      interval:stop()
      page:wait_report { id = publish() }
      local wanted = {}
      for number = 1, published do wanted[number] = text(number) end
      channels.assert_list(wanted, seen(page))
      local number = 0
      for _, report in ipairs(page.reports) do
        if report.event then
          number = number + 1
          assert.equal(number, tonumber(report.id:match "^%x+%-(%d+)$"))
        end
      end
    end

    describe(#names == 1 and "a channel" or "two channels", function()
      it("brings each event once and in order, though the server closes the stream again and again", function()
        local app, port = serve(names, nil, { newcomer = "all" })
        local page = pages.open(port)
        page:evaluate 'listen("gap")'
        page:wait_report { open = true }
        local closed = 0
        publish_until(app, page, function()
          if closed == 6 then return #app.came == 7 end
          if #app.came <= closed or #seen(page) < closed * 30 + 10 then return end
          closed = closed + 1
          close_streams(app)
        end)
        assert.same({ "live", "resumed", "resumed", "resumed", "resumed", "resumed", "resumed" }, app.results)
        local states = {}
        for _, report in ipairs(page.reports) do
          if report.error then states[#states + 1] = report.state end
        end
        assert.same({ 0, 0, 0, 0, 0, 0 }, states) -- it was cut six times, and came back by itself
      end)

      it("brings each event once and in order, though connections break anywhere", function()
        local app, port = serve(names, nil, { newcomer = "all" })
        local cuts = { 0, 100, 330, 400, 500, 501, 502, 503, 600, 777, 1234, 3000 }
        line = relay(port, cuts)
        local page = pages.open(line.port)
        page:evaluate 'listen("gap")'
        publish_until(app, page, function() return line.streams > #cuts end)
        local resumed = 0
        for _, result in ipairs(app.results) do
          assert.not_equal("gap", result)
          if result == "resumed" then resumed = resumed + 1 end
        end
        assert.is_true(resumed >= 8, resumed .. " of " .. #app.results)
      end)
    end)
  end

  it("resumes though it was cut before its first event", function()
    local app, port = serve("news") -- newcomers start live
    local page = pages.open(port)
    app:channel("news"):publish "before it came"
    page:evaluate 'listen("gap")'
    page:wait_report { open = true }
    close_streams(app)
    channels.publish(app:channel "news", 3) -- in the same turn: it cannot be back
    page:wait_report { data = "3" }
    assert.same({ "1", "2", "3" }, seen(page))
    assert.equal("none", app.came[1])
    assert.matches("^" .. channels.ID .. "$", app.came[2])
    assert.same({ "live", "resumed" }, app.results)
  end)

  it("sees a gap where more was published than is kept, then what is kept, and no gap again", function()
    local app, port = serve("news", { channels = { news = { history = 3 } } })
    local news, page = app:channel "news", pages.open(port)
    page:evaluate 'listen("gap")'
    page:wait_report { open = true }
    channels.publish(news, 1, 2)
    page:wait_report { data = "2" }
    close_streams(app)
    channels.publish(news, 3, 8)
    page:wait_report { data = "8" }
    close_streams(app)
    channels.publish(news, 9, 9)
    page:wait_report { data = "9" }
    assert.same({ "1", "2", "gap:news", "6", "7", "8", "9" }, seen(page))
    assert.same({ "live", "gap", "resumed" }, app.results)
  end)

  it("is told of a gap once, also if it is cut before anything follows", function()
    local app, port = serve("news", { channels = { news = { history = 3 } } }, { on_gap = "live" })
    local news, page = app:channel "news", pages.open(port)
    page:evaluate 'listen("gap")'
    page:wait_report { open = true }
    channels.publish(news, 1, 2)
    page:wait_report { data = "2" }
    close_streams(app)
    channels.publish(news, 3, 8)
    page:wait_report { event = "gap", data = "news" }
    close_streams(app)
    channels.publish(news, 9, 9)
    page:wait_report { data = "9" }
    assert.same({ "1", "2", "gap:news", "9" }, seen(page))
    assert.same({ "live", "gap", "resumed" }, app.results)
  end)

  it("sees a gap of the channel that has one, and merges what is kept of both", function()
    local app, port = serve({ "short", "long" }, { channels = { short = { history = 2 } } })
    local short, long, page = app:channel "short", app:channel "long", pages.open(port)
    page:evaluate 'listen("gap")'
    page:wait_report { open = true }
    long:publish "0"
    page:wait_report { data = "0" }
    close_streams(app)
    for i = 1, 5 do
      short:publish("short " .. i)
      long:publish("long " .. i)
    end
    page:wait_report { data = "long 5" }
    assert.same({ "0", "gap:short", "long 1", "long 2", "long 3", "short 4", "long 4", "short 5", "long 5" },
      seen(page))
  end)

  it("sees a gap when the server was killed and started again: ids of an earlier epoch", function()
    local server = pages.start({ "-e", SERVER }, { PORT = "0", NAME = "first" })
    local page = pages.open(server.port)
    page:evaluate 'listen("gap")'
    page:wait_report { data = "first 2" }
    pages.kill(server)
    page:wait_report { error = true, state = CONNECTING }
    pages.start({ "-e", SERVER }, { PORT = server.port, NAME = "second" })
    page:wait_report { open = true, state = OPEN }
    page:wait_report { data = "second 2" }
    assert.same({ "first 1", "first 2", "gap:news", "second 1", "second 2" }, seen(page))
  end)

  describe("on the page of chat.lua", function()
    local function wait_state(page, state)
      page:wait(('document.querySelector("#state").innerText === "%s"'):format(state))
    end

    local function wait_here(page, names)
      local list = '[...document.querySelectorAll("#here li")].map((each) => each.innerText).join()'
      page:wait(("%s === %s"):format(list, json.encode(names)))
    end

    -- Waits for the last message, and returns its class.
    local function wait_last(page, message)
      page:wait(('document.querySelector("#messages li:last-child")?.innerText === %s'):format(json.encode(message)))
      return page:evaluate 'document.querySelector("#messages li:last-child").className'
    end

    local function say(page, words)
      page:evaluate(('document.querySelector("#text").value = %s'):format(json.encode(words)))
      page:evaluate 'document.querySelector("#say").requestSubmit()'
    end

    it("two see each other and what they say, and one sees the other leave", function()
      local server = pages.start({ "examples/chat.lua" }, { PORT = "0" })
      local ada = pages.open(server.port)
      assert.is_true(ada:evaluate 'document.querySelector("#say").hidden')
      ada:evaluate 'document.querySelector("#name").value = "Ada"'
      ada:evaluate 'document.querySelector("#where").value = "a room & more/?"'
      ada:follow 'document.querySelector("#join").requestSubmit()'
      wait_state(ada, "open")
      wait_here(ada, "Ada")
      assert.equal("a room & more/?", ada:evaluate 'document.querySelector("#title").innerText')

      local bob = pages.open(server.port, "?name=Bob&room=a+room+%26+more%2F%3F")
      wait_here(bob, "Ada,Bob")
      wait_here(ada, "Ada,Bob")
      say(ada, "Hello, <b>Bob</b> & all")
      assert.equal("own", wait_last(ada, "Ada\nHello, <b>Bob</b> & all"))
      assert.equal("other", wait_last(bob, "Ada\nHello, <b>Bob</b> & all"))
      say(bob, "Hi")
      assert.equal("other", wait_last(ada, "Bob\nHi"))
      assert.equal("", ada:evaluate 'document.querySelector("#text").value')

      local newcomer = pages.open(server.port, "?name=Cleo&room=a+room+%26+more%2F%3F")
      wait_last(newcomer, "Bob\nHi")
      assert.equal(2, newcomer:evaluate 'document.querySelectorAll("#messages li").length')
      local elsewhere = pages.open(server.port, "?name=Dan&room=lobby")
      wait_here(elsewhere, "Dan")
      assert.equal(0, elsewhere:evaluate 'document.querySelectorAll("#messages li").length')
      wait_here(ada, "Ada,Bob,Cleo")
      newcomer:close()
      wait_here(bob, "Ada,Bob")
      bob:close()
      wait_here(ada, "Ada")
      for _, page in ipairs { ada, bob, newcomer, elsewhere } do assert.same({}, page.problems) end
    end)

    it("the newest message stays in sight, whatever takes its room, unless one reads older ones", function()
      local server = pages.start({ "examples/chat.lua" }, { PORT = "0" })
      local page = pages.open(server.port, "?name=Ada&room=lobby")
      page:call("Emulation.setDeviceMetricsOverride",
        { width = 390, height = 500, deviceScaleFactor = 1, mobile = true })
      local hidden = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
        .. '(document.querySelector("#messages"))'
      for number = 1, 12 do
        say(page, "message " .. number)
        wait_last(page, "Ada\nmessage " .. number)
      end
      page:wait(hidden .. " < 2")
      local height = page:evaluate 'document.querySelector("#messages").clientHeight'
      local bob = pages.open(server.port, "?room=lobby&name=" .. ("B"):rep(30))
      page:call "Page.bringToFront" -- a page behind another is not laid out
      wait_here(page, "Ada," .. ("B"):rep(30))
      assert.is_true(page:evaluate 'document.querySelector("#messages").clientHeight' < height) -- a line more of names
      page:wait(hidden .. " < 2")

      page:evaluate 'document.querySelector("#messages").scrollTop = 0'
      page:wait(hidden .. " > 100 && !atEnd")
      say(bob, "Are you still there?")
      wait_last(page, ("B"):rep(30) .. "\nAre you still there?")
      assert.equal(0, page:evaluate 'document.querySelector("#messages").scrollTop')
    end)

    it("one comes back when the server does, is told that messages are missing, and lost no text", function()
      local server = pages.start({ "examples/chat.lua" }, { PORT = "0" })
      local page = pages.open(server.port, "?name=Ada&room=lobby")
      wait_here(page, "Ada")
      pages.kill(server)
      wait_state(page, "reconnecting")
      say(page, "Is anybody there?")
      page:wait 'document.querySelector("#problem").innerText.startsWith("Not sent: ")'
      assert.equal("Is anybody there?", page:evaluate 'document.querySelector("#text").value')
      pages.start({ "examples/chat.lua" }, { PORT = server.port })
      wait_state(page, "open")
      assert.equal("note", wait_last(page, "Some messages are missing here."))
      page:evaluate 'document.querySelector("#say").requestSubmit()'
      wait_last(page, "Ada\nIs anybody there?")
      assert.equal("", page:evaluate 'document.querySelector("#problem").innerText')
    end)
  end)

  it("shows the chosen prices on the page of ticker.lua, and their course", function()
    local server = pages.start({ "examples/ticker.lua" }, { PORT = "0" })
    local page = pages.open(server.port)
    page:wait 'document.querySelectorAll("article").length === 4'
    page:wait 'document.querySelector("#state").innerText === "open"'
    page:wait [=[[...document.querySelectorAll("polyline")].every((line) => line.points.numberOfItems >= 3)]=]
    local texts = page:evaluate '[...document.querySelectorAll("article p")].map((each) => each.innerText)'
    for _, price in ipairs(texts) do assert.matches("^%d+%.%d%d[+-]%d+%.%d%d %%$", (price:gsub("−", "-"))) end
    assert.equal("ACME GLOBEX HOOLI INITECH",
      page:evaluate '[...document.querySelectorAll("h2")].map((each) => each.innerText).join(" ")')
    local first = page:evaluate 'document.querySelector("#ACME p").innerText'
    page:wait(('document.querySelector("#ACME p").innerText !== "%s"'):format(first)) -- it moves

    page:evaluate 'document.querySelectorAll("input:checked").forEach((box) => box.click())'
    assert.equal("closed", page:evaluate 'document.querySelector("#state").innerText')
    assert.equal(0, page:evaluate 'document.querySelectorAll("article").length')
    page:evaluate 'document.querySelector("input[value=WAYNE]").click()'
    page:wait 'document.querySelector("#state").innerText === "open"'
    page:wait 'document.querySelector("#WAYNE polyline").points.numberOfItems >= 3'
    assert.same({}, page.problems)

    pages.kill(server)
    page:wait 'document.querySelector("#state").innerText === "reconnecting"'
    page:evaluate "cards.WAYNE.prices.unshift(-1)"
    pages.start({ "examples/ticker.lua" }, { PORT = server.port })
    page:wait 'document.querySelector("#state").innerText === "open"'
    page:wait "cards.WAYNE.prices.length > 1 && cards.WAYNE.prices[0] > 0"
    assert.is_true(page:evaluate "cards.WAYNE.prices.length < KEPT") -- a gap: the course began anew
  end)

  it("follows jobs to their end on the page of finish.lua, and stops there", function()
    local server = pages.start({ "examples/finish.lua" }, { PORT = "0" })
    local page = pages.open(server.port)
    page:wait 'document.querySelector("#job-1").innerText.includes("stream: open")'
    page:wait 'document.querySelector("#job-1 progress").value >= 2'
    page:evaluate 'document.querySelector("#start").click()'
    page:wait 'document.querySelector("#job-2 progress")?.value >= 2'
    page:wait 'document.querySelector("#job-1").innerText.includes("done: job 1 took 40 steps")'
    page:wait 'document.querySelector("#job-1").innerText.includes("stream: closed for good")'
    page:wait 'document.querySelector("#job-2").innerText.includes("done: job 2 took 40 steps")'
    assert.is_true(page:evaluate '[...document.querySelectorAll("progress")].every((bar) => bar.value === bar.max)')
    assert.matches("done: job 1 took", (page:evaluate 'document.querySelector("#job-1").innerText'))
    assert.same({}, page.problems)

    local late = pages.open(server.port) -- after the end: all at once, then closed
    late:wait 'document.querySelector("#job-1").innerText.includes("stream: closed for good")'
    assert.matches("done: job 1 took 40 steps", (late:evaluate 'document.querySelector("#job-1").innerText'))
    assert.same({}, late.problems)
  end)

  it("shows answers on all pages of relay.lua", function()
    local server = pages.start({ "examples/relay.lua" }, { PORT = "0" })
    local page, other = pages.open(server.port), pages.open(server.port)
    other:wait 'document.querySelector("#answer-1")?.innerText.includes("What does a parrot say?")'
    page:evaluate '$("prompt").value = "and why?", $("form").requestSubmit()'
    for _, each in ipairs { page, other } do
      each:wait 'document.querySelector("#answer-2 p")?.textContent == "You ask: and why? I wonder, too."'
      each:wait 'document.querySelector("#answer-2 small").textContent == "done"'
      assert.same({}, each.problems)
    end
  end)
end)
