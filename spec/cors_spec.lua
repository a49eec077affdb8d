--- The option `cors`: which pages of other origins may read what (Fetch Standard, 3.3).

local net = require "spec.support.net"
local pages = require "spec.support.pages"
local readers = require "spec.support.readers"

local HERE, THERE = "https://here.example", "https://there.example"

describe("cors", function()
  after_each(net.finish)

  local port

  local function serve(cors, more)
    local options = more or {}
    options.cors = cors
    port = select(2, net.serve(function(a)
      a:get("/plain", function() return "plain" end)
      a:post("/plain", function() return 201 end)
      a:get("/own", function() return 200, "own", { ["Access-Control-Allow-Origin"] = THERE, Vary = "Accept" } end)
      a:get("/fails", function() error "on purpose" end)
      a:stream("/news", function(stream) stream:send "a" end)
      a:route("OPTIONS", "/asked", function() return "asked" end)
      a:before(function(request)
        if request.query.refuse then return 401 end
      end)
    end, options))
  end

  -- Status, and the lines of interest.
  local function ask(method, path, origin, more)
    local lines = origin and { "Origin: " .. origin } or {}
    for _, line in ipairs(more or {}) do lines[#lines + 1] = line end
    local client = net.connect(port):request(method, path, lines)
    client:wait "\r\n\r\n"
    local head = client.received:match "^(.-\r\n)\r\n"
    client:close()
    local found, count = {}, {}
    for name, value in head:gmatch "\n([^:\r\n]+): ([^\r\n]*)" do
      name = name:lower()
      count[name] = (count[name] or 0) + 1
      local short = name:match "^access%-control%-(.*)$" or name == "vary" and name
      if short then found[short] = found[short] and found[short] .. ", " .. value or value end
    end
    assert((count["access-control-allow-origin"] or 0) <= 1, head)
    return tonumber(head:match "^HTTP/1.1 (%d+)"), found, head
  end

  local function seen(...)
    local _, found = ask(...)
    return found
  end

  it("writes nothing where it is not given", function()
    serve(nil)
    assert.same({}, seen("GET", "/plain", HERE))
    assert.same({}, seen("GET", "/news", HERE))
    assert.same({}, seen("OPTIONS", "/plain", HERE, { "Access-Control-Request-Method: GET" }))
  end)

  it("lets every page read, without credentials, where it is '*'", function()
    for _, cors in ipairs { "*", { origins = "*" } } do
      serve(cors)
      for _, path in ipairs { "/plain", "/news", "/none", "/fails", "/plain?refuse=1", "/news?refuse=1" } do
        assert.same({ ["allow-origin"] = "*" }, seen("GET", path, HERE), path)
        assert.same({ ["allow-origin"] = "*" }, seen("GET", path), path)
      end
      assert.same({ ["allow-origin"] = "*" }, seen("PUT", "/plain", HERE))
    end
  end)

  it("names only an origin that is listed, and says that the answer varies", function()
    serve { origins = { HERE, "https://*.wild.example" }, credentials = true }
    local here = { ["allow-origin"] = HERE, ["allow-credentials"] = "true", vary = "Origin" }
    for _, path in ipairs { "/plain", "/news", "/none", "/fails", "/plain?refuse=1", "/news?refuse=1" } do
      assert.same(here, seen("GET", path, HERE), path)
      assert.same({ vary = "Origin" }, seen("GET", path, THERE), path)
      assert.same({ vary = "Origin" }, seen("GET", path), path)
      assert.same({ vary = "Origin" }, seen("GET", path, "null"), path)
    end
    assert.equal("https://a.wild.example", seen("GET", "/news", "https://a.wild.example")["allow-origin"])
    assert.equal(nil, seen("GET", "/news", "https://evil.example/.wild.example")["allow-origin"])
  end)

  it("lets no origin be written into the answer that is no origin", function()
    serve { origins = { "https://*.wild.example" } }
    for _, origin in ipairs { "https://a\tb.wild.example", "https://a, https://b.wild.example",
      "https://a\r\n.wild.example" } do
      local status, found, head = ask("GET", "/plain", origin)
      assert.equal(nil, found["allow-origin"], head)
      assert(status == 200 or status == 400, status)
    end
  end)

  it("tells a page what it may read, and a script's own lines win", function()
    serve { origins = { HERE }, expose = { "X-One", "X-Two" } }
    assert.same({ ["allow-origin"] = HERE, ["expose-headers"] = "X-One, X-Two", vary = "Origin" },
      seen("GET", "/plain", HERE))
    assert.same({ ["allow-origin"] = THERE, vary = "Origin, Accept" }, seen("GET", "/own", HERE))
  end)

  it("answers a preflight, before anybody is asked who that is", function()
    serve { origins = { HERE }, credentials = true, headers = { "X-Mine" }, max_age = 5 }
    local status, found = ask("OPTIONS", "/plain?refuse=1", HERE,
      { "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-mine" })
    assert.equal(204, status)
    assert.same({ ["allow-origin"] = HERE, ["allow-credentials"] = "true", vary = "Origin", ["max-age"] = "5",
      ["allow-methods"] = "GET, HEAD, OPTIONS, POST",
      ["allow-headers"] = "Authorization, Cache-Control, Content-Type, Last-Event-ID, X-Mine" }, found)
    assert.equal(nil, seen("OPTIONS", "/plain", THERE, { "Access-Control-Request-Method: POST" })["allow-origin"])
    assert.equal(404, (ask("OPTIONS", "/none", HERE, { "Access-Control-Request-Method: GET" })))
    assert.equal(401, (ask("OPTIONS", "/plain?refuse=1", HERE)), "no preflight")
    assert.equal(200, (ask("OPTIONS", "/asked", HERE, { "Access-Control-Request-Method: GET" })), "the script's own")
  end)

  local function refused(bytes)
    local client = net.connect(port):send(bytes)
    client:wait "\r\n\r\n"
    local status, found = client:answer()
    client:close()
    return { status, found["access-control-allow-origin"], vary = found.vary }
  end

  it("also tells whom the server refuses before any script sees what was asked", function()
    local limits = { body_bytes = 10, header_bytes = 256, body_seconds = 0.1, header_seconds = 0.2 }
    local start = "POST /plain HTTP/1.1\r\nHost: a\r\nOrigin: " .. HERE .. "\r\n"
    local cases = {
      [408] = { start .. "Content-Length: 5\r\n\r\n", start .. "Content-Le" },
      [413] = { start .. "Content-Length: 11\r\n\r\n", start .. "Transfer-Encoding: chunked\r\n\r\nb\r\n" },
      [417] = { start .. "Expect: more\r\n\r\n" },
      [431] = { start .. "X: " .. ("x"):rep(300) },
      [400] = { start .. "X : y\r\n\r\n" },
    }
    local nameless = {
      [408] = { start }, -- the line might go on
      [414] = { "GET /" .. ("x"):rep(300) },
      [400] = { "GET / HTTP/1.1\r\nHost: a\r\nOrigin: " .. HERE .. "\n" },
    }
    serve({ origins = { HERE } }, { limits = limits })
    for status, requests in pairs(cases) do
      for _, request in ipairs(requests) do
        assert.same({ status, HERE, vary = "Origin" }, refused(request), request)
        assert.same({ status, vary = "Origin" }, refused((request:gsub(HERE, THERE, 1))), request)
      end
    end
    for status, requests in pairs(nameless) do
      for _, request in ipairs(requests) do assert.same({ status, vary = "Origin" }, refused(request), request) end
    end
    serve("*", { limits = limits })
    for _, list in ipairs { cases, nameless } do
      for status, requests in pairs(list) do assert.same({ status, "*" }, refused(requests[1]), requests[1]) end
    end
  end)

  it("also tells an EventSource that is sent away, which would end for good otherwise", function()
    serve({ origins = { HERE } }, { limits = { connections = 1 } })
    local other = net.connect(port):get "/news"
    other:wait "\r\n\r\n"
    local status, found = ask("GET", "/news", HERE, { "Accept: text/event-stream" })
    assert.equal(200, status)
    assert.same({ ["allow-origin"] = HERE, vary = "Origin" }, found)
  end)
end)

describe("cors in a browser", function()
  if not readers.chromium then return pending "lets pages read (chromium is not installed)" end

  lazy_setup(pages.launch)
  lazy_teardown(pages.quit)
  after_each(pages.finish)

  local cookies

  -- A page at another port, which is another origin, opens the stream.
  local function listen(cors, credentials)
    cookies = {}
    local _, there = pages.serve({}, function() end)
    if cors == "listed" then cors = { origins = { ("http://127.0.0.1:%d"):format(there) }, credentials = true } end
    local app, here = pages.serve({ cors = cors, retry = 100 }, function(stream, request)
      cookies[#cookies + 1] = request.cookies.user or "none"
      stream:send { id = tostring(#cookies), data = stream.last_event_id or "first" }
    end)
    app:get("/sign-in", function() return 204, nil, { ["Set-Cookie"] = "user=ada" } end)
    local page = pages.open(here, "sign-in-page")
    page:evaluate [[fetch("/sign-in")]]
    page:close()
    page = pages.open(there)
    page:evaluate(([[
      const source = new EventSource("http://127.0.0.1:%d/sse", { withCredentials: %s });
      source.onmessage = event => report({ data: event.data });
      source.onerror = () => report({ state: source.readyState });]]):format(here, tostring(credentials)))
    return page
  end

  it("lets a page of another origin read, and come back", function()
    local page = listen("*", false)
    page:wait_report { data = "first" }
    page:wait_report { data = "1" }
    assert.same("none", cookies[1])
  end)

  it("keeps a page from reading where nothing is said, or another origin is listed", function()
    for _, cors in ipairs { false, { origins = { "http://127.0.0.1:1" } } } do
      local page = listen(cors or nil, false)
      page:wait_report { state = pages.CLOSED }
      page:close()
    end
  end)

  it("keeps a page from reading with cookies where they are not allowed", function()
    listen("*", true):wait_report { state = pages.CLOSED }
  end)

  it("lets a page read with its user's cookies where it is listed", function()
    local page = listen("listed", true)
    page:wait_report { data = "first" }
    assert.same("ada", cookies[1])
  end)
end)
