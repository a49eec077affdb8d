--- app:static: files of a folder over HTTP, and none that lies outside it.

local net = require "spec.support.net"
local process = require "spec.support.process"
local uv = require "luv"

local LARGE = 48 * 1024 * 1024

describe("app:static", function()
  local root, app, port

  local function write(path, text)
    local file = assert(io.open(root .. "/" .. path, "wb"))
    file:write(text)
    file:close()
  end

  local function serve(options)
    app, port = net.serve(function(a)
      a:get("/api", function() return "api" end)
      a:static("/", root .. "/public", options)
      a:static("/under", root .. "/public")
    end)
  end

  before_each(function()
    root = uv.fs_mkdtemp(uv.os_tmpdir() .. "/eventstream-static-XXXXXX")
    for _, folder in ipairs { "public", "public/deep", "public/.git", "public/.well-known", "public-other" } do
      uv.fs_mkdir(root .. "/" .. folder, tonumber("755", 8))
    end
    write("secret.txt", "secret")
    write("public-other/near.txt", "secret")
    write("public/index.html", "<p>home")
    write("public/deep/index.html", "<p>deep")
    write("public/deep/a b.txt", "spaces")
    write("public/letters.txt", "abcdefghij")
    write("public/empty.css", "")
    write("public/.git/config", "secret")
    write("public/.well-known/security.txt", "contact")
    write("public/data.glb", "model")
    uv.fs_symlink(root .. "/secret.txt", root .. "/public/link.txt")
    uv.fs_symlink(root .. "/public-other", root .. "/public/near")
    uv.fs_symlink("deep/a b.txt", root .. "/public/inside.txt")
  end)

  after_each(function()
    process.kill_all()
    net.finish()
    process.spawn("rm", { "-rf", root }):wait_exit()
  end)

  local function ask(method, target, lines)
    local client = net.connect(port):request(method, target, lines)
    local status, headers, body = client:take(method == "HEAD" or nil)
    client:close()
    return status, headers, body
  end

  local function get(target, lines) return ask("GET", target, lines) end

  it("sends a file with its type, and no stream's headers", function()
    serve()
    local status, headers, body = get "/letters.txt"
    assert.equal(200, status)
    assert.equal("abcdefghij", body)
    assert.equal("text/plain; charset=utf-8", headers["content-type"])
    assert.equal("bytes", headers["accept-ranges"])
    assert.equal("no-cache", headers["cache-control"])
    assert.matches('^"%x+%.%x+%-a"$', headers.etag)
    assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", headers["last-modified"])
    for target, kind in pairs { ["/"] = "text/html; charset=utf-8", ["/empty.css"] = "text/css; charset=utf-8",
      ["/data.glb"] = "application/octet-stream" } do
      assert.equal(kind, (select(2, get(target)))["content-type"])
    end
  end)

  it("stands beside other routes, which win, and below a prefix", function()
    serve()
    assert.equal("api", (select(3, get "/api")))
    assert.equal("abcdefghij", (select(3, get "/under/letters.txt")))
    assert.equal("<p>home", (select(3, get "/under/")))
    local status, headers = get "/under?a=b"
    assert.same({ 301, "/under/?a=b" }, { status, headers.location })
    assert.equal(405, (ask("POST", "/letters.txt", nil)))
  end)

  it("has a folder's index, and redirects to it", function()
    serve()
    assert.equal("<p>home", (select(3, get "/")))
    assert.equal("<p>deep", (select(3, get "/deep/")))
    local status, headers = get "/deep?q=1"
    assert.same({ 301, "/deep/?q=1" }, { status, headers.location })
    assert.equal("spaces", (select(3, get "/deep/a%20b.txt")))
    assert.equal(404, (get "/letters.txt/"))
    assert.equal(200, (get "/deep/index.html"))
    assert.equal(404, (get "/deep%2Findex.html")) -- or a check of the path would be passed
    assert.equal(404, (get "/deep%2findex.html"))
  end)

  it("takes its options", function()
    serve { max_age = 60, index = false, types = { glb = "model/gltf-binary" }, hidden = true }
    local _, headers = get "/data.glb"
    assert.same({ "model/gltf-binary", "max-age=60" }, { headers["content-type"], headers["cache-control"] })
    assert.equal(404, (get "/"))
    assert.equal(404, (get "/deep"))
    assert.equal(200, (get "/.git/config"))
  end)

  it("answers HEAD without a body", function()
    serve()
    local client = net.connect(port):request("HEAD", "/letters.txt"):request("GET", "/letters.txt")
    local status, headers = client:take(true)
    assert.same({ 200, "10" }, { status, headers["content-length"] })
    assert.equal("abcdefghij", (select(3, client:take())))
  end)

  it("sends nothing that the client has already", function()
    serve()
    local _, headers = get "/letters.txt"
    for _, line in ipairs { "If-None-Match: " .. headers.etag, "If-None-Match: *",
      'If-None-Match: "other", W/' .. headers.etag, "If-Modified-Since: " .. headers["last-modified"] } do
      local client = net.connect(port):request("GET", "/letters.txt", { line })
      local status, fields = client:take(true)
      assert.equal(304, status, line)
      assert.equal(headers.etag, fields.etag)
      assert.equal(nil, fields["content-length"])
      client:close()
    end
    for _, line in ipairs { 'If-None-Match: "other"', "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT" } do
      assert.equal(200, (get("/letters.txt", { line })), line)
    end
    assert.equal(200, (get("/letters.txt",
      { 'If-None-Match: "other"', "If-Modified-Since: " .. headers["last-modified"] })), "the ETag decides")
    write("public/letters.txt", "changed")
    assert.equal(200, (get("/letters.txt", { "If-None-Match: " .. headers.etag })))
  end)

  it("keeps to what the client relies on", function()
    serve()
    local _, headers = get "/letters.txt"
    for line, wanted in pairs {
      ["If-Match: " .. headers.etag] = 200, ["If-Match: *"] = 200, ['If-Match: "other"'] = 412,
      ["If-Match: W/" .. headers.etag] = 412,
      ["If-Unmodified-Since: " .. headers["last-modified"]] = 200,
      ["If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"] = 412,
    } do
      assert.equal(wanted, (get("/letters.txt", { line })), line)
    end
  end)

  it("compares dates, and takes what is none for nothing", function()
    write("public/letters.txt", "abcdefghij")
    assert(uv.fs_utime(root .. "/public/letters.txt", 784111777, 784111777.5)) -- Sun, 06 Nov 1994 08:49:37 GMT
    serve()
    local function status_of(line)
      local client = net.connect(port):request("GET", "/letters.txt", { line })
      local status = client:take(true)
      client:close()
      return status
    end
    for date, age in pairs {
      ["Sun, 06 Nov 1994 08:49:37 GMT"] = 0, ["Sunday, 06-Nov-94 08:49:37 GMT"] = 0, ["Sun Nov  6 08:49:37 1994"] = 0,
      ["Sun, 06 Nov 1994 08:49:38 GMT"] = 1, ["Mon, 07 Nov 1994 00:00:00 GMT"] = 1, ["Sun Nov 13 08:49:37 1994"] = 1,
      ["Thu, 01 Dec 1994 00:00:00 GMT"] = 1, ["Sun, 01 Jan 1995 00:00:00 GMT"] = 1,
      ["Sat, 29 Feb 2020 00:00:00 GMT"] = 1, ["Fri, 31 Dec 9999 23:59:60 GMT"] = 1,
      ["Friday, 01-Jan-10 00:00:00 GMT"] = 1, ["Sun, 06 Nov 1994 08:49:36 GMT"] = -1,
      ["Sat, 05 Nov 1994 23:59:59 GMT"] = -1, ["Sunday, 06-Nov-94 08:49:36 GMT"] = -1,
      ["Mon, 31 Oct 1994 23:00:00 GMT"] = -1, ["Thu, 01 Jan 1970 00:00:00 GMT"] = -1,
      ["Tue, 29 Feb 1904 00:00:00 GMT"] = -1, ["Sat, 01 Jan 0000 00:00:00 GMT"] = -1,
    } do
      assert.equal(age >= 0 and 304 or 200, status_of("If-Modified-Since: " .. date), date)
      assert.equal(age >= 0 and 200 or 412, status_of("If-Unmodified-Since: " .. date), date)
    end
    for _, text in ipairs {
      "garbage", "", "0", "784111777", "*", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 CET",
      "Sun, 06 Now 1994 08:49:37 GMT", "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT",
      "Sun, 31 Nov 1994 08:49:37 GMT", "Wed, 29 Feb 1995 08:49:37 GMT", "Sun, 32 Dec 2094 08:49:37 GMT",
      "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:60:37 GMT", "Sun, 06 Nov 1994 08:49:61 GMT",
      "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z",
    } do
      assert.equal(200, status_of("If-Modified-Since: " .. text), text)
      assert.equal(200, status_of("If-Unmodified-Since: " .. text), text)
    end
  end)

  it("agrees with itself and with the system about dates", function()
    serve()
    for _, seconds in ipairs { 0, 951782400, 951868799, 951868800, 1078012800, 1704067199, 1704067200, 1709164800,
      4107542399, 4107542400 } do -- about leap days, and where there is none in 2100
      assert(uv.fs_utime(root .. "/public/letters.txt", seconds, seconds))
      for shift, wanted in pairs { [-1] = { 200, 412 }, [0] = { 304, 200 }, [1] = { 304, 200 } } do
        local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", seconds + shift)
        for i, name in ipairs { "If-Modified-Since", "If-Unmodified-Since" } do
          local client = net.connect(port):request("GET", "/letters.txt", { name .. ": " .. date })
          assert.equal(wanted[i], (client:take(true)), name .. ": " .. date)
          client:close()
        end
      end
    end
  end)

  it("takes no long time for a long header", function()
    app, port = net.serve(function(a) a:static("/", root .. "/public") end, { limits = { header_bytes = 131072 } })
    local gap, before = (" "):rep(60000), os.clock()
    for _, line in ipairs { "If-None-Match: a" .. gap .. "b", "If-Match: *" .. gap .. "b",
      "If-Modified-Since: Sun, 06 Nov 1994 " .. gap .. "GMT", "If-Modified-Since: " .. ("a"):rep(60000),
      "Range: bytes=" .. gap .. "1-" .. gap .. "x", "Range: bytes=" .. ("1"):rep(60000) } do
      net.connect(port):request("GET", "/letters.txt", { line }):wait "^HTTP/1.1 [24]%d%d "
    end
    assert.is_true(os.clock() - before < 1, os.clock() - before)
    assert.equal(304, (net.connect(port):request("GET", "/letters.txt", { "If-None-Match: \t* \t" }):take(true)))
  end)

  it("sends a range", function()
    serve()
    for range, wanted in pairs {
      ["bytes=0-0"] = { 206, "a", "bytes 0-0/10" }, ["bytes=3-5"] = { 206, "def", "bytes 3-5/10" },
      ["bytes=7-"] = { 206, "hij", "bytes 7-9/10" }, ["bytes=-2"] = { 206, "ij", "bytes 8-9/10" },
      ["bytes=8-100"] = { 206, "ij", "bytes 8-9/10" }, ["bytes=-100"] = { 206, "abcdefghij", "bytes 0-9/10" },
      ["bytes=10-"] = { 416, "no such range\n", "bytes */10" }, ["bytes=-0"] = { 416, "no such range\n", "bytes */10" },
      ["bytes=5-3"] = { 200, "abcdefghij" }, ["bytes=0-1,3-4"] = { 200, "abcdefghij" },
      ["bytes=a-b"] = { 200, "abcdefghij" }, ["lines=0-1"] = { 200, "abcdefghij" }, ["bytes=-"] = { 200, "abcdefghij" },
      ["bytes=0-99999999999999999999"] = { 200, "abcdefghij" },
    } do
      local status, headers, body = get("/letters.txt", { "Range: " .. range })
      assert.same(wanted, { status, body, headers["content-range"] }, range)
    end
    assert.equal(416, (get("/empty.css", { "Range: bytes=0-" })))
  end)

  it("sends a range only of what the client has a part of", function()
    serve()
    local _, headers = get "/letters.txt"
    local function status_if(condition)
      return (get("/letters.txt", { "Range: bytes=0-1", "If-Range: " .. condition }))
    end
    assert.equal(206, status_if(headers.etag))
    assert.equal(206, status_if(headers["last-modified"]))
    assert.equal(200, status_if '"other"')
    assert.equal(200, status_if("W/" .. headers.etag))
  end)

  it("has no way out of the folder", function()
    serve()
    for _, target in ipairs {
      "/../secret.txt", "/deep/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/%2e%2e%2fsecret.txt",
      "/deep/..%2f..%2f..%2fsecret.txt", "/..%5csecret.txt", "/..\\secret.txt", "/.%2e/secret.txt", "/link.txt",
      "/near/near.txt", "/near/", "/../public-other/near.txt", "//secret.txt", "/%2fetc/passwd", "/%2f%2fetc/passwd",
      "/.git/config", "/%2egit/config", "/deep/./a%20b.txt", "/letters.txt%00.html", "/none", "/" .. ("a/"):rep(300),
      "/" .. ("a"):rep(300),
    } do
      local status, _, body = get(target)
      assert(status == 404 or status == 400, target .. " " .. status)
      assert(not body:find "secret$" and not body:find "root:", target)
    end
    assert.equal("spaces", (select(3, get "/inside.txt")), "a link that stays inside")
    assert.equal("contact", (select(3, get "/.well-known/security.txt")))
  end)

  it("waits for nothing that is no file", function()
    process.spawn("mkfifo", { root .. "/public/pipe" }):wait_exit()
    serve()
    assert.equal(404, (get "/pipe"))
    uv.fs_symlink("/dev/zero", root .. "/public/zero")
    assert.equal(404, (get "/zero"))
  end)

  it("is refused where there is no folder", function()
    serve()
    for folder, message in pairs { [root .. "/none"] = "%(ENOENT%)", [root .. "/secret.txt"] = "%(ENOTDIR%)" } do
      local ok, failure = pcall(app.static, app, "/x", folder)
      assert.is_false(ok)
      assert.matches("static: no files can be served from '.*' " .. message, failure)
    end
    for _, case in ipairs { { "x", root }, { "/:a", root }, { "/x", 5 }, { "/y", root, { typs = {} } } } do
      assert.is_false((pcall(app.static, app, case[1], case[2], case[3])))
    end
  end)

  -- Bytes that tell where they are.
  local function write_large()
    local file = assert(io.open(root .. "/public/large.bin", "wb"))
    for at = 0, LARGE - 1, 16 do file:write(("%15d\n"):format(at)) end
    file:close()
  end

  local function is_large(client, from)
    local text = client.received
    for at = 0, LARGE - 1, 65536 do
      local line = tonumber(text:sub(from + at, from + at + 14))
      if line ~= at then return false end
    end
    return #text == from + LARGE - 1
  end

  it("sends large files as the client takes them, and holds them not in memory", function()
    write_large()
    serve()
    local clients = {}
    collectgarbage()
    local before = app:stats().backlog
    for i = 1, 20 do
      clients[i] = net.connect(port):get "/large.bin"
      clients[i]:wait "\r\n\r\n"
      clients[i]:pause()
    end
    assert(app:stats().backlog - before <= 20 * 65536, app:stats().backlog)
    for _, client in ipairs(clients) do client:close() end
    local client = net.connect(port):request("GET", "/large.bin"):request("GET", "/letters.txt")
    local head = client:wait "^(.-\r\n\r\n)"
    net.wait(function()
      local size = 0
      for _, piece in ipairs(client.pieces) do size = size + #piece end
      return size >= LARGE + #head + 20
    end, "the whole file", 60)
    client:wait("abcdefghij", true)
    local first_end = #head + LARGE
    local rest = client.received:sub(first_end + 1)
    assert.matches("^HTTP/1%.1 200 OK.*\r\n\r\nabcdefghij$", rest)
    client.received = client.received:sub(1, first_end)
    assert.is_true(is_large(client, #head + 1))
    assert.equal(0, app:stats().backlog)
  end)

  it("cuts an answer whose file becomes shorter", function()
    write_large()
    serve()
    local client = net.connect(port):get "/large.bin"
    client:wait "\r\n\r\n"
    client:pause()
    local file = assert(io.open(root .. "/public/large.bin", "wb"))
    file:close()
    client:resume()
    client:wait_end()
    assert(#client.received < LARGE, #client.received)
    assert.equal(200, (get "/letters.txt"))
  end)

  it("closes what it opened", function()
    write_large()
    serve()
    local function descriptors()
      local scan = uv.fs_opendir("/proc/self/fd", nil, 1000)
      local count = #uv.fs_readdir(scan)
      uv.fs_closedir(scan)
      return count
    end
    local before = descriptors()
    for i = 1, 30 do
      local client = net.connect(port):request(i % 3 == 0 and "HEAD" or "GET", "/large.bin")
      client:wait "\r\n\r\n"
      if i % 2 == 0 then client:reset() else client:close() end
      for _, target in ipairs { "/link.txt", "/deep", "/none", "/letters.txt" } do get(target) end
      get("/letters.txt", { "Range: bytes=20-" })
      get("/letters.txt", { "If-Match: a" })
    end
    net.wait(function() return app:stats().connections == 0 end)
    net.settle()
    collectgarbage()
    collectgarbage()
    assert(descriptors() <= before, descriptors() .. " of " .. before)
  end)
end)
