--- What only nginx has: several workers with one log, workers that die, reloads, TLS and HTTP/2 around the streams.
-- What is the same everywhere is in blackbox_spec.

local uv = require "luv"
local blackbox = require "spec.support.blackbox"
local houses = require "spec.support.houses"
local pages = require "spec.support.pages"
local process = require "spec.support.process"
local readers = require "spec.support.readers"

local missing = houses.nginx(1).missing
local house

local function open(workers, options, app)
  house = houses.nginx(workers, options)
  house:open(app or "openresty_app")
  return house
end

-- Another that is seen to have ended well.
local function close()
  local code = house:close()
  house = nil
  assert.equal(0, code)
end

local function seconds() return uv.hrtime() / 1e9 end

local function join(channel, query) return blackbox.open(house, ("/events?to=%s%s"):format(channel, query or "")) end

-- A subscriber in a worker that is not this one.
local function join_elsewhere(channel, pid)
  while true do
    local client = join(channel)
    if client.headers["x-worker"] ~= pid then return client end
    client:close()
  end
end

describe("nginx", function()
  if missing then return pending(missing) end

  after_each(function()
    blackbox.finish()
    if house then house:close() end
    house = nil
  end)

  describe("does not start", function()
    -- Its exit code, and what it said.
    local function failure(workers, options, app)
      house = houses.nginx(workers, options)
      house:start(app or "openresty_app")
      local code = house.process:wait_exit()
      local said = house.process.stderr
      house:close()
      house = nil
      return code, said
    end

    it("with several workers that share no dict", function()
      local code, said = failure(2, { dict = "" })
      assert.equal(1, code)
      assert.matches("new: nginx has 2 workers, which share what is published by a dict: add "
        .. "`lua_shared_dict eventstream 10m;`", said, 1, true)
    end)
  end)

  it("with one worker needs no dict", function()
    open(1, { dict = "" })
    local client = join "news"
    blackbox.count(house, "news", 3)
    assert.same({ "1", "2", "3" }, client:wait_data "3")
    local result, data = blackbox.replay(house, "news", (client:messages())[1].last_event_id)
    assert.same({ "resumed", { "2", "3" } }, { result, data })
    close()
  end)

  it("says what cannot be done in it", function()
    open(1)
    local said = blackbox.ask(house, "GET", "/impossible").body
    for line in said:gmatch "[^\n]+" do assert.is_nil(line:find "^works") end
    for _, part in ipairs { "listen: ", "run: ", "loop: ", "init_worker: call it in init_worker_by_lua_block",
      "serve: app must be an app", "new: backplane" } do
      assert.matches(part, said, 1, true)
    end
    close()
  end)

  it("lets a handler end its request behind our back, and on_close says so", function()
    open(1)
    local report, client = join "exits", join "news"
    for i = 1, 20 do
      blackbox.connect(house):request("GET", "/exit?report=exits"):head():wait "id: "
      process.wait(function() return #report:data() == i end, nil, "on_close")
    end
    blackbox.publish(house, "news", { "next" })
    assert.same({ "next" }, client:wait_data "next")
    for _, reason in ipairs(report:data()) do assert.equal("client", reason) end
    assert.equal("1", blackbox.ask(house, "GET", "/count?to=news&name=").body:match "%d+$")
    close()
  end)

  it("sends clients away when the app is closed, so that browsers come back", function()
    open(1)
    local client = join "news"
    blackbox.ask(house, "POST", "/close-app")
    client:finish()
    local function ask(accept, method)
      return blackbox.ask(house, method or "GET", "/text", { "Accept: " .. accept })
    end
    process.wait(function() return ask("text/plain").status == 503 end, nil, "503")
    local stream = ask "Text/Event-Stream"
    assert.same({ 200, "text/event-stream" }, { stream.status, stream.headers["content-type"] })
    assert.matches("^retry: %d%d%d%d\n\n$", stream.body)
    assert.equal("1", ask("text/plain").headers["retry-after"])
    assert.equal(503, ask("application/json, text/event-stream", "POST").status)
    close()
  end)

  it("answers 500 and says why where init_worker was forgotten", function()
    open(1, { init = "" })
    assert.equal(500, blackbox.ask(house, "GET", "/text").status)
    house.process:wait_line "serve: call require%('eventstream.openresty'%).init_worker%(%) in init_worker_by_lua_block"
    close()
  end)

  describe("with several workers", function()
    it("tells each of what was published in another within 20 ms, give or take", function()
      open(2)
      local far = {}
      for i, client in ipairs(blackbox.of_each_worker(house, function() return join "news" end)) do far[i] = client end
      for i = 1, 20 do
        blackbox.publish(house, "news", { tostring(i) })
        local published = seconds()
        for _, client in ipairs(far) do client:wait(("data: %d\n"):format(i)) end
        assert.is_true(seconds() - published < 1) -- bench/openresty measures it
      end
      close()
    end)

    it("counts the members of all", function()
      open(2)
      local clients = {}
      local of_each = blackbox.of_each_worker(house, function(n)
        return blackbox.open(house, ("/member?to=room&name=m%02d"):format(n))
      end)
      local names = {}
      for i, client in ipairs(of_each) do
        clients[i], names[i] = client, ("m%02d"):format(i)
      end
      local function of_all() return table.concat(names, " ") end
      local function wait_members()
        process.wait(function()
          for _ = 1, 8 do -- of either worker
            if blackbox.ask(house, "GET", "/members?to=room").body ~= of_all() then return false end
          end
          return true
        end, nil, function() return of_all() end)
      end
      local function wait_told()
        for _, client in ipairs(clients) do client:wait("event: here\ndata: " .. of_all() .. "\n") end
      end
      wait_members()
      wait_told()
      table.remove(clients, 1):close()
      table.remove(names, 1)
      wait_members()
      wait_told()
      close()
    end)

    it("tells who is there no more when a worker dies", function()
      open(2)
      local clients = blackbox.of_each_worker(house, function(n)
        return blackbox.open(house, ("/member?to=room&name=m%02d"):format(n))
      end)
      local dying, names, left = clients[1].headers["x-worker"], {}, {}
      for i, client in ipairs(clients) do
        names[i] = ("m%02d"):format(i)
        if client.headers["x-worker"] ~= dying then left[#left + 1] = names[i] end
      end
      local other = clients[#clients] -- the first of another worker
      other:wait("event: here\ndata: " .. table.concat(names, " ") .. "\n")
      uv.kill(tonumber(dying), "sigkill")
      other:wait("event: here\ndata: " .. table.concat(left, " ") .. "\n")
      house.pids = { tonumber((house.process:wait_line "start worker process (%d+)")) }
      close()
    end)

    it("skips a number whose worker died before its frame was there, and tells the gap", function()
      open(2)
      local clients = blackbox.of_each_worker(house, function() return join "news" end)
      blackbox.publish(house, "news", { "before" })
      for _, client in ipairs(clients) do client:wait "data: before\n" end
      blackbox.ask(house, "POST", "/hole")
      local begun = seconds()
      blackbox.publish(house, "news", { "behind" })
      for _, client in ipairs(clients) do client:wait "data: behind\n" end
      local waited = seconds() - begun
      assert.is_true(waited > 0.9 and waited < 5, waited .. " s")
      for _, client in ipairs(clients) do
        assert.same({ "before", "gap:news", "behind" }, client:data())
      end
      -- and who comes back from before it is told, too
      local id
      for _, message in ipairs((clients[1]:messages())) do
        if message.data == "before" then id = message.last_event_id end
      end
      local result, data = blackbox.replay(house, "news", id)
      assert.same({ "gap", { "gap:news", "behind" } }, { result, data })
      close()
    end)

    it("goes on when the worker dies that runs the intervals, and keeps the history", function()
      open(2)
      local reader = join "ticks"
      local leader = reader:wait "data: ":data()[1]
      reader:close()
      local client = join_elsewhere("ticks", leader)
      client:wait(("data: %s\n"):format(leader))
      local _, ids = blackbox.publish(house, "news", { "1", "2", "3" })
      uv.kill(tonumber(leader), "sigkill")
      local killed = seconds()
      local function of_another()
        for _, pid in ipairs(client:data()) do
          if pid ~= leader then return pid end
        end
      end
      process.wait(of_another, 10, "a tick of another worker")
      assert.is_true(seconds() - killed < 4) -- the lease lasts 2 s
      house.pids = { tonumber((house.process:wait_line "start worker process (%d+)")) }
      blackbox.of_each_worker(house, function()
        local result, data, other = blackbox.replay(house, "news", ids[1])
        assert.same({ "resumed", { "2", "3" } }, { result, data })
        return other
      end)
      house.process:kill "sigquit"
      house.process:wait_exit()
    end)
  end)

  describe("with a small dict", function()
    local SMALL = { dict = "lua_shared_dict eventstream 100k;" }

    it("drops the oldest, and tells who missed it", function()
      open(2, SMALL)
      local _, ids = blackbox.publish(house, "news", { "first" })
      for _ = 1, 60 do assert.equal("", blackbox.ask(house, "POST", "/big?to=news&bytes=4000").body) end
      -- the workers that were there have it in their own logs: one that starts now has the dict's
      house.process:kill "sighup"
      house:wait_workers()
      local result, data
      process.wait(function()
        result, data = blackbox.replay(house, "news", ids[1])
        return result == "gap" and #data < 40 -- an old one may still answer
      end, nil, "a worker of the new ones")
      assert.equal("gap:news", data[1])
      assert.is_true(#data > 3, #data .. " events are left")
      for i = 2, #data do assert.equal(("x"):rep(4000), data[i]) end
      close()
    end)

    it("that is full has room for no other app, and says so", function()
      open(2, SMALL)
      for _ = 1, 60 do blackbox.ask(house, "POST", "/big?to=news&bytes=4000") end
      assert.matches("new: the shared dict eventstream has no room for another app (no memory): make it larger",
        blackbox.ask(house, "GET", "/another").body, 1, true)
      close()
    end)

    it("refuses what would fill it alone", function()
      open(2, SMALL)
      local client = join "news"
      assert.equal("too large for the shared dict", blackbox.ask(house, "POST", "/big?to=news&bytes=60000").body)
      blackbox.publish(house, "news", { "next" })
      assert.same({ "next" }, client:wait_data "next")
      close()
    end)
  end)

  for _, signal in ipairs { "sighup", "sigquit" } do
    it(("ends its streams in order at %s, each with a time of its own to come back"):format(signal), function()
      open(2)
      local clients, retries = {}, {}
      for i = 1, 20 do clients[i] = join "news" end
      blackbox.publish(house, "news", { "last" })
      for _, client in ipairs(clients) do client:wait "data: last\n" end
      house.process:kill(signal)
      local different = 0
      for _, client in ipairs(clients) do
        client:finish()
        assert.is_true(client.proper)
        local retry = client.body:match "retry: (%d+)\n\n$"
        if not retries[retry] then different = different + 1 end
        retries[assert(retry, client.body)] = true
      end
      assert.is_true(different > 10)
      if signal == "sighup" then
        house:wait_workers()
        local id = clients[1]:last_id()
        blackbox.publish(house, "news", { "meanwhile" })
        local result, data = blackbox.replay(house, "news", id)
        assert.same({ "resumed", { "meanwhile" } }, { result, data })
        close()
      else
        assert.equal(0, (house.process:wait_exit()))
      end
    end)
  end

  it("keeps the history over reloads, and who was there resumes", function()
    open(2)
    local name = "news"
    local client = join(name)
    blackbox.count(house, name, 3)
    local first = (client:wait "data: 3\n":messages())[1].last_event_id
    for _ = 1, 2 do
      house.process:kill "sighup"
      house:wait_workers()
    end
    blackbox.of_each_worker(house, function()
      local result, data, other = blackbox.replay(house, name, first)
      assert.same({ "resumed", { "2", "3" } }, { result, data })
      return other
    end)
    close()
  end)

  describe("around it", function()
    local KEY = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -keyout '%s' -out '%s' 2>&1"
    local folder, port

    local function secure(server)
      folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/key-XXXXXX"))
      local key, certificate = folder .. "/key", folder .. "/certificate"
      io.popen(KEY:format(key, certificate)):close()
      port = houses.free_port()
      return open(1, { server = ("listen 127.0.0.1:%d ssl http2;\nssl_certificate %s;\nssl_certificate_key %s;\n%s")
        :format(port, certificate, key, server or "") })
    end

    after_each(function()
      if folder then os.execute(("rm -rf '%s'"):format(folder)) end
      folder = nil
    end)

    local function curl(version, target, ...)
      return process.spawn("curl", { "-sSNik", version, "--noproxy", "*", "--max-time", "60",
        ("https://127.0.0.1:%d%s"):format(port, target), ... })
    end

    for version, line in pairs { ["--http1.1"] = "^HTTP/1.1 200", ["--http2"] = "^HTTP/2 200" } do
      it("TLS: curl reads, resumes, posts, and is seen to leave, by " .. version, function()
        secure()
        local report = join "report:tls"
        local client = curl(version, "/events?report=tls&to=news")
        client:wait_line(line)
        client:wait_line "^[Cc]ontent%-[Tt]ype: text/event%-stream\r?$"
        local id = client:wait_line "^id: (%S+)$"
        blackbox.publish(house, "news", { "1", "2" })
        client:wait_line "^data: 2$"
        client:kill "sigint"
        client:wait_exit()
        assert.same({ "closed client" }, report:wait_data "closed client")
        local again = curl(version, "/events?to=news", "-H", "Last-Event-ID: " .. id)
        again:wait_line "^data: 1$"
        again:wait_line "^data: 2$"
        again:kill()
        local posted = curl(version, "/send", "-d", '{ "a", "b" }')
        assert.equal(0, (posted:wait_exit()))
        assert.matches("data: a\n\ndata: b\n\n$", posted.stdout)
        assert.matches("\r\n\r\ntext$", (function()
          local answer = curl(version, "/text")
          answer:wait_exit()
          return answer.stdout
        end)())
        blackbox.finish()
        close()
      end)
    end

    it("access rules decide by the path that nginx sees, and so does the app", function()
      open(1, { server = "location /request { deny all; }" })
      for _, target in ipairs { "/request", "/x/../request", "/%72equest", "//request", "/x/%2e%2e/request",
        "/./request" } do
        assert.equal(403, blackbox.ask(house, "GET", target).status, target)
      end
      assert.equal(200, blackbox.ask(house, "GET", "/request/../text").status)
      assert.equal(404, blackbox.ask(house, "GET", "/none/../none").status)
      close()
    end)

    it("a rewritten path is the app's", function()
      open(1, { server = "rewrite ^/old/(.*)$ /request/$1/and/b?more=1 break;" })
      local body = blackbox.ask(house, "GET", "/old/a%20b?x=2").body
      assert.matches("params first = a b\n", body, 1, true)
      assert.matches("query x = 2\n", body, 1, true)
      assert.matches("query more = 1\n", body, 1, true)
      close()
    end)
  end)
end)

-- As cut_spec has it.
describe("random cuts inside nginx #long", function()
  if missing then return pending(missing) end
  local SECONDS = tonumber(os.getenv "EVENTSTREAM_SECONDS" or 20)
  local SEED = tonumber(os.getenv "EVENTSTREAM_SEED" or math.floor(uv.hrtime() / 1000) % 1000000)

  after_each(function()
    house:close()
    house = nil
    process.kill_all()
  end)

  for workers = 1, 2 do
    it(("with %d worker(s) cost nobody an event that is not told as a gap"):format(workers), function()
      open(workers, { dict = "lua_shared_dict eventstream 64m;" }, "spec.support.cut_server")
      local child = process.lua { "spec/support/cut_clients.lua", tostring(house.port), tostring(SEED),
        tostring(SECONDS), "200", "one-kept", "five-kept", "one-lost", "five-lost" }
      local code = child:wait_exit(SECONDS + 120)
      local all = table.concat(child.lines, "\n")
      io.write(("openresty_spec: seed %d, %g s, %d worker(s)\n  "):format(SEED, SECONDS, workers),
        (all:gsub("\n", "\n  ")), "\n")
      assert.same({ 0, "" }, { code, child.stderr })
      assert.matches("\nfailures 0$", all)
      for name, cuts, gaps in all:gmatch "(%S+) cuts=(%d+) events=%d+ gaps=(%d+)" do
        assert.is_true(tonumber(cuts) > 200 * SECONDS / 10, name)
        assert.equal(name:find "kept$" ~= nil, gaps == "0", name)
      end
    end)
  end
end)

describe("Chromium, inside nginx with 2 workers,", function()
  if missing or not readers.chromium then return pending(missing or "chromium is not installed") end

  lazy_setup(pages.launch)
  lazy_teardown(pages.quit)
  after_each(function()
    pages.finish()
    house:close()
    house = nil
  end)

  it("shows the page of ping.lua, and what arrives", function()
    open(2, nil, "ping")
    local page = pages.open(house.port)
    page:wait 'document.querySelectorAll("#pings li").length >= 3'
    assert.equal("open", page:evaluate 'document.querySelector("#state").innerText')
    assert.matches("^%d%d:%d%d:%d%d%s*%d+$", page:evaluate 'document.querySelector("#pings li").innerText')
    assert.same({}, page.problems)
  end)

  it("shows the page of chat.lua: who is there, and what is said, in all workers", function()
    open(2, nil, "chat")
    local names = { "Ada", "Bob", "Cleo", "Dan" }
    local list = {}
    for i, name in ipairs(names) do list[i] = pages.open(house.port, "?room=lobby&name=" .. name) end
    local here = '[...document.querySelectorAll("#here li")].map((each) => each.innerText).join()'
    for _, page in ipairs(list) do page:wait(here .. ' === "Ada,Bob,Cleo,Dan"') end
    list[1]:evaluate 'document.querySelector("#text").value = "Hello"'
    list[1]:evaluate 'document.querySelector("#say").requestSubmit()'
    for _, page in ipairs(list) do
      page:wait [[document.querySelector("#messages li:last-child")?.innerText === "Ada\nHello"]]
    end
    list[4]:close()
    for i = 1, 3 do list[i]:wait(here .. ' === "Ada,Bob,Cleo"') end
    for _, page in ipairs(list) do assert.same({}, page.problems) end
  end)
end)
