--- A real EventSource: headless Chromium, one for the whole file, a page for each test.

local uv = require "luv"
local pages = require "spec.support.pages"
local process = require "spec.support.process"
local readers = require "spec.support.readers"

local CONNECTING, OPEN, CLOSED = pages.CONNECTING, pages.OPEN, pages.CLOSED

-- A server to be killed: a process of its own, which serves the same page.
local SERVER = ([[
  local eventstream = require "eventstream"
  local app = eventstream.new { retry = 100 }
  app:get("/", function() return 200, %q, { ["Content-Type"] = "text/html" } end)
  app:stream("/sse", function(stream)
    stream:send { id = os.getenv "NAME", data = "after " .. (stream.last_event_id or "nothing") }
    stream:hold()
  end)
  local listener = assert(app:listen { port = tonumber(os.getenv "PORT") })
  print("listening on " .. listener.port)
  io.stdout:flush()
  eventstream.run()
]]):format(pages.PAGE)

describe("chromium", function()
  if not readers.chromium then
    return pending "reads what is sent (chromium is not installed)"
  end

  lazy_setup(pages.launch)
  lazy_teardown(pages.quit)
  after_each(pages.finish)

  -- Opens a page whose /sse has that handler.
  local function serve(options, handler)
    local _, port = pages.serve(options, handler)
    return pages.open(port)
  end

  it("opens before the first event", function()
    local page = serve({}, function(stream) stream:hold() end)
    page:evaluate "listen()"
    assert.same({ open = true, state = OPEN }, page:wait_report { open = true })
    assert.same({}, page.problems)
  end)

  it("sees named and unnamed events, each where it belongs, in order", function()
    local sent = {
      { data = "unnamed" },
      { event = "ping", data = "named", id = "1" },
      { event = "unheard", data = "no listener" },
      { data = "the id stays" },
      { event = "Ping", data = "another name" },
      { event = "ping", data = "first\nsecond\r\nthird\rfourth\n" },
      { data = " leading space, colon: and … 😀 \226\128\168 語" },
      { data = "\nid: 9\nevent: admin" },
      { event = "ping", data = "" },
      { id = "…é 2", data = ("long "):rep(60000) },
    }
    local page = serve({}, function(stream)
      for _, event in ipairs(sent) do stream:send(event) end
      stream:hold()
    end)
    page:evaluate 'listen("ping")'
    page:wait_report { id = "…é 2" }
    assert.same({
      { open = true, state = OPEN },
      { event = "message", data = "unnamed", id = "" },
      { event = "ping", data = "named", id = "1" },
      { event = "message", data = "the id stays", id = "1" },
      { event = "ping", data = "first\nsecond\nthird\nfourth\n", id = "1" },
      { event = "message", data = " leading space, colon: and … 😀 \226\128\168 語", id = "1" },
      { event = "message", data = "\nid: 9\nevent: admin", id = "1" },
      { event = "ping", data = "", id = "1" },
      { event = "message", data = ("long "):rep(60000), id = "…é 2" },
    }, page.reports)
  end)

  it("comes back with its Last-Event-ID after the server closes", function()
    local ids = {}
    local page = serve({ retry = 100 }, function(stream)
      ids[#ids + 1] = stream.last_event_id or "none"
      stream:send { id = "é " .. #ids, data = "connection " .. #ids }
      if #ids == 3 then stream:hold() end
    end)
    page:evaluate "listen()"
    page:wait_report { data = "connection 3" }
    assert.same({ "none", "é 1", "é 2" }, ids)
    local states = {}
    for _, report in ipairs(page.reports) do
      if report.error then states[#states + 1] = report.state end
    end
    assert.same({ CONNECTING, CONNECTING }, states)
    assert.same({}, page.problems) -- the last chunk came: the browser saw no network error
  end)

  it("comes back with its Last-Event-ID after the server is killed and started again", function()
    local server = pages.start({ "-e", SERVER }, { PORT = "0", NAME = "first" })
    local page = pages.open(server.port)
    page:evaluate "listen()"
    page:wait_report { id = "first", data = "after nothing" }
    pages.kill(server)
    page:wait_report { error = true, state = CONNECTING }
    pages.start({ "-e", SERVER }, { PORT = server.port, NAME = "second" })
    page:wait_report { id = "second", data = "after first" }
  end)

  it("waits as long as retry says: the app's, then an event's", function()
    local left, waits = nil, {}
    local page = serve({ retry = 400 }, function(stream)
      if left then waits[#waits + 1] = (uv.hrtime() - left) / 1e6 end
      stream:on_close(function() left = uv.hrtime() end)
      stream:send "come back"
      if #waits == 1 then stream:send { retry = 1200 } end
      if #waits == 2 then stream:hold() end
    end)
    page:evaluate "listen()"
    process.wait(function() return #waits == 2 end)
    assert.is_true(waits[1] > 390 and waits[1] < 1200, waits[1] .. " ms") -- the app's is spread up to 1.5 times
    assert.is_true(waits[2] > 1190 and waits[2] < 2900, waits[2] .. " ms") -- by itself Chromium waits for 3 s
  end)

  it("stops at 204", function()
    local connections = 0
    local page = serve({ retry = 100 }, function(stream)
      connections = connections + 1
      if connections == 2 then return stream:reject(204) end
      stream:send "that is all"
    end)
    page:evaluate "listen()"
    page:wait_report { data = "that is all" }
    page:wait_report { error = true, state = CONNECTING }
    page:wait_report { error = true, state = CLOSED }
    assert.equal(2, connections)
  end)

  it("comes back after a handler's error", function()
    local connections = 0
    local page = serve({ retry = 100, on_error = function() end }, function(stream)
      connections = connections + 1
      if connections == 1 then error "the script's fault" end
      stream:send "well again"
      stream:hold()
    end)
    page:evaluate "listen()"
    page:wait_report { data = "well again" }
    assert.equal(2, connections)
  end)

  describe("on the page of ping.lua", function()
    it("shows the state, both kinds of events and the reconnects", function()
      local server = pages.start({ "examples/ping.lua" }, { PORT = "0" })
      local page = pages.open(server.port)
      page:wait 'document.querySelector("#state").innerText === "open"'
      page:wait 'document.querySelectorAll("#pings li").length >= 3'
      assert.matches("^%d%d:%d%d:%d%d%s*%d+$", page:evaluate 'document.querySelector("#pings li").innerText')
      assert.matches("^%d%d:%d%d:%d%d$", page:evaluate 'document.querySelector("#clock").innerText')
      assert.matches("welcome$", page:evaluate 'document.querySelector("#messages li").innerText')
      assert.equal("0", page:evaluate 'document.querySelector("#reconnects").innerText')
      assert.same({}, page.problems)

      pages.kill(server)
      page:wait 'document.querySelector("#state").innerText === "reconnecting"'
      server = pages.start({ "examples/ping.lua" }, { PORT = server.port })
      page:wait 'document.querySelector("#reconnects").innerText === "1"'
      page:wait 'document.querySelector("#state").innerText === "open"'
      page:wait 'document.querySelector("#messages li").innerText.endsWith("welcome back")'
      server:wait_line "came, last id %d+$"
    end)

    it("closes and opens its stream at the button", function()
      local server = pages.start({ "examples/ping.lua" }, { PORT = "0" })
      local page = pages.open(server.port)
      page:wait 'document.querySelector("#pings li")'
      page:evaluate 'document.querySelector("#toggle").click()'
      assert.equal("closed", page:evaluate 'document.querySelector("#state").innerText')
      server:wait_line "left after %d+ s %(client%)$"
      page:evaluate 'document.querySelector("#toggle").click()'
      page:wait 'document.querySelector("#state").innerText === "open"'
      assert.equal("0", page:evaluate 'document.querySelector("#reconnects").innerText')
    end)
  end)

  describe("on the page of tokens.lua", function()
    if not pcall(require, "cjson.safe") then return pending "reads an answer (lua-cjson is not installed)" end

    it("reads an answer with fetch, and stops one", function()
      local server = pages.start({ "examples/tokens.lua" }, { PORT = "0" })
      local page = pages.open(server.port)
      page:evaluate 'document.querySelector("#ask").click()'
      page:wait 'document.querySelector("#state").innerText.startsWith("done: ")'
      assert.matches('^You wrote "What is an event stream%?"%. .*sleeps%.$',
        (page:evaluate 'document.querySelector("#answer").innerText.trim()'))
      server:wait_line "^%d+ tokens sent %(server%)$"

      page:evaluate 'document.querySelector("#ask").click()'
      page:wait 'document.querySelector("#answer").innerText'
      page:evaluate 'document.querySelector("#ask").click()'
      page:wait 'document.querySelector("#state").innerText.startsWith("stopped after ")'
      server:wait_line "^%d+ tokens sent %(client%)$"
    end)
  end)
end)
