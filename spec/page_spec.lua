--- app:page: what an app shows where the server refuses or fails.

local net = require "spec.support.net"
local eventstream = require "eventstream"

local HTML = { ["Content-Type"] = "text/html; charset=utf-8" }

describe("app:page", function()
  after_each(net.finish)

  local app, port

  local function serve(pages, options)
    app, port = net.serve(function(a)
      a:get("/text", function() return "text" end)
      a:get("/none", function() return 404, "the handler's own" end)
      a:get("/fails", function() error "on purpose" end)
      a:get("/waits", function()
        return (eventstream.await(function(resume) a:after(0, function() resume "waited" end) end))
      end)
      a:stream("/stream", function() error "on purpose" end)
      a:static("/files", "spec/vectors")
      a:before(function(request)
        if request.query.refuse then return 401, "refused" end
      end)
      for status, page in pairs(pages) do a:page(status, page) end
    end, options)
  end

  local function ask(method, target, lines)
    local client = net.connect(port):request(method, target, lines)
    local status, headers, body = client:take()
    client:close()
    return status, body, headers
  end

  it("stands for the server's own text, with its status and its lines", function()
    serve {
      [404] = function(request, status) return ("<h1>%d %s</h1>"):format(status, request.path), HTML end,
      [405] = function() return { error = "method" } end,
      [400] = function() return 302, "", { Location = "/" } end,
    }
    local status, body, headers = ask("GET", "/nowhere")
    assert.same({ 404, "<h1>404 /nowhere</h1>", HTML["Content-Type"] }, { status, body, headers["content-type"] })
    status, body = ask("GET", "/files/none")
    assert.same({ 404, "<h1>404 /files/none</h1>" }, { status, body })
    status, body, headers = ask("POST", "/text")
    assert.same({ 405, '{"error":"method"}', "application/json", "GET, HEAD, OPTIONS" },
      { status, body, headers["content-type"], headers.allow })
    status, body, headers = ask("GET", "/%zz")
    assert.same({ 302, "", "/" }, { status, body, headers.location })
  end)

  it("leaves what scripts answer", function()
    serve { [404] = function() return "page" end, [401] = function() return "page" end }
    assert.same({ 404, "the handler's own" }, { ask("GET", "/none"), (select(2, ask("GET", "/none"))) })
    assert.equal("refused", (select(2, ask("GET", "/nowhere?refuse=1"))))
    assert.equal("text", (select(2, ask("GET", "/text"))))
    assert.equal(200, (ask("GET", "/files/encode.jsonl")))
  end)

  it("is shown for a handler's error, which is reported", function()
    serve { [500] = function(request) return "sorry, " .. request.path end }
    local status, body = ask("GET", "/fails")
    assert.same({ 500, "sorry, /fails" }, { status, body })
    assert.equal(1, #app.errors)
    assert.matches("page_spec.lua:%d+: on purpose", app.errors[1].message)
    assert.matches("traceback", app.errors[1].traceback)
    net.connect(port):get("/stream"):wait "^HTTP/1%.1 200 .*retry: %d+" -- a stream's is another matter
    if _VERSION ~= "Lua 5.1" or rawget(_G, "jit") then assert.equal("waited", (select(2, ask("GET", "/waits")))) end
  end)

  it("that fails is reported, and answers 500", function()
    serve { [404] = function() error "the page" end, [500] = function() return print end }
    assert.equal(500, (ask("GET", "/nowhere")))
    assert.equal(500, (ask("GET", "/fails")))
    local told = {}
    for i, each in ipairs(app.errors) do told[i] = each.message:match "[^:]*$" end
    assert.same({ " the page", " on purpose", " body must be a string or a table, not function" }, told)
  end)

  it("is shown to who is refused by the options hosts and origins", function()
    serve({ [421] = function() return "host" end, [403] = function() return "origin" end },
      { hosts = { "localhost" }, origins = { "https://a.example" } })
    local status, body = ask("GET", "/text", { "Origin: https://b.example" })
    assert.same({ 403, "origin" }, { status, body })
  end)

  it("is for a status that is an error", function()
    serve {}
    for _, case in ipairs { { 200, print }, { "404", print }, { 404.5, print }, { 600, print }, { 404, "page" } } do
      local ok, message = pcall(app.page, app, case[1], case[2])
      assert.is_false(ok)
      assert.matches("page: ", message)
    end
  end)

  it("is for no status that only the answer to what is no whole request has", function()
    serve {}
    for _, status in ipairs { 408, 411, 413, 414, 417, 431, 501, 505 } do
      local line = debug.getinfo(1, "l").currentline + 1
      local ok, message = pcall(function() app:page(status, function() return "page" end) end)
      assert.is_false(ok)
      assert.equal(("spec/page_spec.lua:%d: page: %d is the answer to what is no whole request: there is none to show "
        .. "a page for"):format(line, status), (message:gsub("^%./", "")))
    end
  end)
end)
