--- The documents: each public function has a page and an annotation, each page tells of functions that there are, each
--- link leads somewhere, and each Lua block of README.md and docs/ runs and does what it says.

local uv = require "luv"
local core = require "eventstream.core"
local eventstream = require "eventstream"
local houses = require "spec.support.houses"
local net = require "spec.support.net"
local place = require "eventstream.place"
local process = require "spec.support.process"
local scripted = require "spec.support.scripted"
local test = require "eventstream.test"

local compile = loadstring or load -- luacheck: ignore
local LUA51 = _VERSION == "Lua 5.1" and not rawget(_G, "jit")
local PAGES = { "app", "channel", "client", "command", "eventstream", "loop", "openresty", "redis", "request",
  "stream", "support", "test" }

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local pages, documents = {}, { ["README.md"] = contents "README.md" }
for _, name in ipairs(PAGES) do
  pages[name] = contents("docs/" .. name .. ".md")
  documents["docs/" .. name .. ".md"] = pages[name]
end

-- --- Functions ---

-- Not for scripts, though they lie there.
local INTERNAL = { ["app:new"] = true, ["app:any_busy"] = true, ["app:close_all"] = true, ["app:last_failure"] = true }

-- The functions of a table, as "prefix.name" (or with a colon).
local function add(list, prefix, from)
  for name, value in pairs(from) do
    if type(value) == "function" and not name:find "^_" and not INTERNAL[prefix .. name] then
      list[#list + 1] = { full = prefix .. name, name = name }
    end
  end
end

local function public_functions()
  local list = {}
  local app = eventstream.new()
  local interval, listener = app:after(1, print), assert(app:listen { port = 0 })
  local _, methods = debug.getupvalue(debug.getmetatable(listener).__index, 1)
  methods = methods or { close = print, share = print } -- Lua 5.1 does not look into C functions
  add(list, "eventstream.", eventstream)
  add(list, "eventstream.loop.", eventstream.loop)
  add(list, "app:", require "eventstream.app")
  add(list, "channel:", core.channel)
  add(list, "stream:", core.stream)
  add(list, "request:", core.request)
  add(list, "interval:", debug.getmetatable(interval).__index)
  add(list, "listener:", methods)
  add(list, "source:", require("eventstream.client").Source)
  add(list, "test.", test)
  add(list, "redis.", require "eventstream.redis")
  add(list, "client:", getmetatable(test.request(app, "/")).__index)
  app:close { grace = 0 }
  test.finish()
  table.sort(list, function(a, b) return a.full < b.full end)
  return list
end

local sources
local function lua_sources()
  if not sources then
    local child = process.spawn("find", { "lua", "-name", "*.lua" })
    assert.equal(0, (child:wait_exit()))
    local texts = {}
    for path in child.stdout:gmatch "[^\n]+" do texts[#texts + 1] = contents(path) end
    sources = table.concat(texts, "\n")
  end
  return sources
end

-- The text under a heading, and where it stands.
local function section(heading)
  for name, text in pairs(pages) do
    local _, at = ("\n" .. text):find("\n## " .. heading .. "\n", 1, true)
    if at then return ("\n" .. text):sub(at):match "^(.-)\n## " or ("\n" .. text):sub(at), name end
  end
end

describe("documents", function()
  setup(function() -- a whole run, so that what stays of one for good is not taken for what a block left
    pcall(require, "eventstream.hiredis")
    local app = eventstream.new()
    app:after(0, eventstream.stop)
    eventstream.run()
    app:close()
    pcall(net.finish)
  end)

  after_each(function()
    test.finish()
    net.finish()
  end)

  it("have a section for each public function, with its syntax", function()
    local list = public_functions()
    assert.is_true(#list > 60, #list)
    local missing = {}
    for _, each in ipairs(list) do
      local text = section(each.full)
      local fine = text and text:find("**syntax:**", 1, true) and text:find(each.name .. "[%( {]", 1)
        and #text:gsub("^.-%*%*syntax[^\n]*", "") > 20
      if not fine then missing[#missing + 1] = each.full end
    end
    assert.same({}, missing)
  end)

  it("tell of no function that is not there", function()
    local known = { ["eventstream._VERSION"] = true, ["eventstream SCRIPT"] = true, ["eventstream tail"] = true }
    for _, each in ipairs(public_functions()) do known[each.full] = true end
    for name, text in pairs(pages) do
      for heading in text:gmatch "\n## ([^\n]+)" do
        local is_function = heading:find "^[%w_.]+[:.][%w_]+$" or heading:find "^eventstream "
        if is_function and name ~= "openresty" then assert.is_true(known[heading] or false, name .. ": " .. heading) end
      end
    end
  end)

  it("are beside annotations in the sources", function()
    local text = lua_sources()
    local missing = {}
    for _, each in ipairs(public_functions()) do
      local annotated = text:find("\n%-%-%-[^\n]*\nfunction [%w_.]+[.:]" .. each.name .. "%(")
        or text:find("\n%-%-%-[^\n]*\nM%." .. each.name .. " = ") or text:find("\n%-%-%-@field " .. each.name .. " ")
        or each.full:find "^eventstream%.loop%." and text:find "\n%-%-%-[^\n]*\nM%.loop = "
      if not annotated then missing[#missing + 1] = each.full end
    end
    assert.same({}, missing)
  end)

  -- --- Links ---

  local function anchors_of(text)
    local set = {}
    for heading in ("\n" .. text):gmatch "\n#+ ([^\n]+)" do
      set[heading:lower():gsub("[^%w%s_-]", ""):gsub("%s", "-")] = true
    end
    return set
  end

  it("lead somewhere", function()
    for name, text in pairs(documents) do
      local folder = name:match "^(.*/)" or ""
      for target in text:gmatch "%]%(([^)%s]+)%)" do
        if not target:find "^https?://" then
          local path, anchor = target:match "^([^#]*)#?(.*)$"
          local file = path == "" and name or (folder .. path):gsub("[%w_]+/%.%./", "")
          local linked = contents(file)
          if anchor ~= "" then assert.is_true(anchors_of(linked)[anchor] or false, name .. ": " .. target) end
        end
      end
    end
  end)

  it("name only options that the command has", function()
    local help = ""
    for _, arguments in ipairs { { "--help" }, { "tail", "--help" } } do
      local child = process.lua { "bin/eventstream", (unpack or table.unpack)(arguments) }
      assert.equal(0, (child:wait_exit()))
      help = help .. child.stdout
    end
    local seen = 0
    for name, text in pairs(documents) do
      for line in text:gmatch "\n    (eventstream [^\n]+)" do
        for option in line:gmatch "%s%[?(%-%-[%w-]+)" do
          seen = seen + 1
          assert.is_truthy(help:find(option, 1, true), name .. ": " .. option)
        end
      end
    end
    assert.is_true(seen > 5)
  end)

  -- --- Blocks of nginx's ---

  local MODULES = "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n"
    .. "load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n"

  -- What a block leaves out is put around it; ports and folders are ours.
  local function whole(block, folder)
    if block:find "^load_module" then return block:gsub("modules/", "/usr/lib/nginx/modules/") .. "\nevents {}\n" end
    if not block:find "http {" then
      block = "events {}\nhttp {\nlua_package_path '/srv/app/?.lua;;';\n" .. block .. "\n}"
    end
    local path = ("%s/?.lua;%s/lua/?.lua;"):format(folder, uv.cwd())
    block = block:gsub("/srv/app/%?%.lua;", function() return path end)
    block = block:gsub("http {", ("http {\nlua_package_cpath '%s/build/luajit/?.so;;';"):format(uv.cwd()), 1)
    return MODULES .. block:gsub("listen 80;", ("listen 127.0.0.1:%d;"):format(houses.free_port()))
  end

  local nginx = process.find "nginx" or uv.fs_stat "/usr/sbin/nginx" and "/usr/sbin/nginx"
  local ready = nginx and uv.fs_stat "/usr/lib/nginx/modules/ngx_http_lua_module.so"
    and uv.fs_stat "build/luajit/eventstream/core.so" and not os.getenv "ASAN_OPTIONS"

  for name, text in pairs(documents) do
    for block in text:gmatch "\n```nginx\n(.-)\n```" do
      it(("hold for nginx: %s, %s"):format(name, block:match "^[^\n]*"), function()
        if not ready then return end -- openresty_spec says that it is missing
        local folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/nginx-XXXXXX"))
        local function write(file, content)
          local handle = assert(io.open(folder .. "/" .. file, "wb"))
          handle:write(content)
          handle:close()
          return folder .. "/" .. file
        end
        local app = write("app.lua", contents "README.md":match "\n```lua\n(.-)\n```")
        local conf = write("nginx.conf", ("pid %s/pid;\n"):format(folder) .. whole(block, folder))
        local child = process.spawn(nginx, { "-t", "-e", "stderr", "-p", folder, "-c", conf },
          { LUA_PATH = false, LUA_CPATH = false })
        local code = child:wait_exit()
        os.remove(app)
        os.remove(conf)
        os.remove(folder .. "/pid")
        uv.fs_rmdir(folder)
        assert.equal(0, code, child.stderr)
      end)
    end
  end

  -- --- Blocks of Lua ---

  local world, opened

  -- What the blocks take as given.
  local function new_world()
    local app = eventstream.new()
    opened = {}
    local lua = setmetatable({}, { __index = eventstream })
    function lua.connect(url, options)
      local source = eventstream.connect(world.upstream or url, options)
      opened[#opened + 1] = source
      return source
    end
    function lua.new(options)
      world.app = eventstream.new(options)
      world.apps[#world.apps + 1] = world.app
      return world.app
    end
    local polls, names = 0, {}
    world = {
      app = app, apps = { app }, assert = assert, eventstream = lua, test = test,
      news = app:channel "news", prices = app:channel "prices",
      jobs = { ["1"] = { number = "1", channel = app:channel "job:1" } },
      look_up = function(session, resume)
        resume(session and { name = session, session_ends = os.time() + 60 } or nil)
      end,
      translate = string.upper, save = function() return 7 end,
      answer = function(body) return body:gmatch "%S+" end,
      printed = {},
      cqueues = { poll = function()
        polls = polls + 1
        if polls > 2 then error("enough", 0) end
      end },
      describe = function(_, fn) fn() end, it = function(name, fn)
        names[#names + 1] = name
        fn()
      end,
      before_each = function(fn) fn() end, after_each = function() end,
      io = { stdout = io.tmpfile(), stderr = io.tmpfile() },
    }
    function world.print(...)
      world.printed[#world.printed + 1] = table.concat({ tostring((...)), select(2, ...) }, " ")
    end
    function world.dofile(name) -- README.md's first block
      assert.equal("clock.lua", name)
      local clock = assert(compile(documents["README.md"]:match "\n```lua\n(.-)\n```", "=" .. name))()
      world.apps[#world.apps + 1] = clock
      return clock
    end
    function world.require(name) return name == "eventstream" and lua or require(name) end
    return setmetatable(world, { __index = _G })
  end

  local function ask(...) return test.request(world.app, ...) end

  -- For each block, a text that it alone has, and what is done with it then.
  local BLOCKS = {
    { "README.md", '"/clock", function(stream)', function()
      local client = ask "/clock"
      test.advance(2)
      assert.equal(3, #client:data "tick")
    end },
    { "README.md", 'local news = app:channel("news", { history = 1000 })', function()
      local client = ask "/news"
      ask("/news", { body = "x" })
      assert.same({ "x" }, client:data "headline")
    end },
    { "README.md", 'app:stream("/a"', function()
      local a, b = ask "/a", ask "/b"
      test.advance(1)
      assert.same({ 3, 2 }, { #a.events, #b.events })
    end },
    { "README.md", "options by name, or by pattern", function()
      ask("/rooms/1", { body = "x" })
      assert.same({ "x" }, ask("/rooms/1"):data())
    end },
    { "README.md", "local function log_out", function()
      world.app:stream("/", function(stream) stream:subscribe "x" end)
      local client = ask "/"
      ask("/"):leave()
      assert.same({ "1", "2", "1" }, client:data "here")
    end },
    { "README.md", "member = request.query.name", function()
      local client = ask "/rooms/1?name=b"
      test.advance(0.01)
      ask "/rooms/1?name=a"
      test.advance(0.01)
      assert.same({ "b", "a\nb" }, client:data "here")
    end },
    { "README.md", "^stream:on_close", function()
      ask("/wrapped"):leave()
      assert.same({ "127.0.0.1 left: client" }, world.printed)
    end },
    { "README.md", 'app:stream("/jobs/:number"', function()
      assert.equal(204, ask("/jobs/2").status)
      world.jobs["1"].channel:publish "x"
      local client = ask "/jobs/1"
      world.block_locals.finish(world.jobs["1"])
      test.settle()
      assert.same({ "x", "" }, client:data())
      assert.equal(204, client:reconnect().status)
      test.advance(61)
      assert.is_nil(world.jobs["1"])
    end },
    { "README.md", '"https://example.com/prices", {', function() assert.equal("connecting", opened[1].state) end },
    { "README.md", 'app:stream("/translated"', function()
      if LUA51 then return end -- cannot wait in a for loop, as it says
      local port = scripted.serve { scripted.stream "id: 1\ndata: x\n\n", "HTTP/1.1 204 Over\r\n\r\n" }
      world.upstream = ("http://127.0.0.1:%d/"):format(port)
      local client = ask "/translated"
      net.wait(function()
        test.advance(0.001)
        return client.events[1]
      end)
      assert.same({ { event = "message", data = "X", id = "1" } }, client.events)
    end },
    { "README.md", "stream:expire(request.user.session_ends", function()
      assert.equal(401, ask("/inbox").status)
      local client = ask("/inbox", { headers = { Cookie = "session=ada" } })
      assert.same({ "inbox:ada" }, client:subscriptions())
      test.advance(61)
      assert.equal("expired", client.reason)
    end },
    { "README.md", 'app:static("/", "public")', function() assert.equal(200, ask("/docs_spec.lua").status) end },
    { "README.md", 'app:post("/upload"', function()
      local client = ask("/orders", { body = { x = 1 } })
      assert.same({ 201, '{"id":7}' }, { client.status, client.body })
      assert.equal(400, ask("/orders", { body = "x" }).status)
      client = ask("/upload", { headers = { ["Content-Type"] = "multipart/form-data; boundary=b" }, body =
        '--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nn\r\n--b\r\nContent-Disposition: form-data; '
        .. 'name="photo"; filename="f"\r\n\r\nabc\r\n--b--\r\n' })
      assert.equal(200, client.status)
      assert.truthy(client.body:find '"bytes":3')
      assert.equal("<h1>Nothing here</h1>", ask("/nowhere").body)
    end },
    { "README.md", "cors = { origins", function()
      world.app:get("/", function() return "x" end)
      local client = ask("/", { headers = { Origin = "https://example.com" } })
      assert.equal("https://example.com", client.headers["access-control-allow-origin"])
    end },
    { "README.md", 'app:stream("/report"', function()
      assert.equal(401, ask("/report").status)
      assert.equal(200, ask("/report", { headers = { Cookie = "session=x" } }).status)
    end },
    { "README.md", "for token in answer", function()
      assert.same({ "a", "b", "" }, ask("/chat", { body = "a b" }):data())
    end },
    { "README.md", "cqueues.poll(core)", function(failure) assert.equal("enough", failure) end },
    { "README.md", 'app:get("/metrics"', function()
      assert.matches("\neventstream_uptime_seconds ", ask("/metrics").body)
    end },
    { "README.md", "in the combined format; or a function", function()
      world.app:get("/", function() return "x" end)
      ask "/"
      world.io.stdout:seek "set"
      assert.matches('^127%.0%.0%.1 .*"GET / HTTP/1%.1" 200 ', world.io.stdout:read "*a")
    end },
    { "README.md", 'describe("the clock"', function() end },
    { "docs/openresty.md", "every(60", function()
      local client = ask "/events"
      ask("/news", { body = "x" })
      test.advance(60)
      assert.same({ 2, 1 }, { #client.events, #client:data "minute" })
    end },
    { "docs/eventstream.md", "connections = 20000", function()
      world.app:get("/", function() error "on purpose" end)
      ask "/"
      assert.matches("on purpose", world.printed[1])
    end },
    { "docs/eventstream.md", "event: greeting", function() end },
    { "docs/eventstream.md", 'app:get("/slow"', function()
      local client = ask "/slow"
      test.advance(2)
      assert.equal("done", client.body)
    end },
    { "docs/eventstream.md", "app:after(0.01, eventstream.stop)", function() end },
    { "docs/eventstream.md", "access_log(io.stderr)", function() end },
    { "docs/app.md", 'app:stream("/rooms/:room"', function()
      assert.same({ "room:1" }, ask("/rooms/1"):subscriptions())
    end },
    { "docs/app.md", 'app:get("/hello"', function()
      local client = ask "/hello?name=x"
      assert.same({ "hello x\n", "a=1, b=2" }, { client.body, client.headers["set-cookie"] })
    end },
    { "docs/app.md", 'app:route("DELETE"', function()
      assert.equal(204, ask("/rooms/1", { method = "DELETE" }).status)
    end },
    { "docs/app.md", "Bearer secret", function()
      world.app:get("/", function(request) return request.user end)
      assert.equal(401, ask("/").status)
      assert.equal("admin", ask("/", { headers = { Authorization = "Bearer secret" } }).body)
    end },
    { "docs/app.md", "app:on_members(", function()
      world.app:stream("/", function(stream) stream:subscribe("x", { member = "ada" }) end)
      local client = ask "/"
      test.advance(0.01)
      assert.same({ "ada" }, client:data "here")
    end },
    { "docs/app.md", "in ipairs(app:channels())", function() assert.equal(3, #world.printed) end },
    { "docs/app.md", "interval:stop()", function()
      ask "/"
      test.advance(3)
      assert.equal(1, world.news.published)
    end },
    { "docs/app.md", "listener:close()", function() assert.matches("^127%.0%.0%.1 %d+$", world.printed[1]) end },
    { "docs/app.md", "local stats = app:stats()", function() assert.matches("^0 0$", world.printed[1]) end },
    { "docs/channel.md", 'event = "headline"', function() assert.equal(1, world.news.published) end },
    { "docs/channel.md", 'app:get("/rooms/:room/members"', function()
      ask "/rooms/1?name=ada"
      assert.equal('["ada"]', ask("/rooms/1/members").body)
    end },
    { "docs/channel.md", "subscribers_total(resume)", function()
      world.app:stream("/", function(stream) stream:subscribe "news" end)
      ask "/"
      assert.equal('{"count":1}', ask("/news/subscribers").body)
    end },
    { "docs/stream.md", 'app:stream("/count"', function()
      local client = ask "/count"
      test.advance(3)
      assert.same({ "1", "2", "3" }, client:data())
      assert.is_true(client.closed)
    end },
    { "docs/stream.md", 'app:stream("/all"', function()
      assert.matches("something was missed", ask("/all", { last_event_id = "x" }).body)
    end },
    { "docs/stream.md", 'app:stream("/here"', function()
      ask("/here"):leave()
      assert.same({ "left: client" }, world.printed)
    end },
    { "docs/stream.md", 'app:stream("/private"', function()
      assert.equal(401, ask("/private").status)
      assert.equal(200, ask("/private", { headers = { Cookie = "session=x" } }).status)
    end },
    { "docs/request.md", "request:json()", function()
      assert.equal('{"id":5}', ask("/orders", { body = { id = 5 } }).body)
      assert.equal(400, ask("/orders", { body = "" }).status)
    end },
    { "docs/request.md", "request:form()", function()
      local form = { ["Content-Type"] = "application/x-www-form-urlencoded" }
      assert.equal("a b", ask("/upload", { headers = form, body = "name=a+b" }).body)
    end },
    { "docs/loop.md", "local function frame()", function() end },
    { "docs/client.md", "source:close()", function() assert.equal("closed", opened[1].state) end, nil, "events()" },
    { "docs/client.md", '"over: "', function()
      opened[1]:close()
      assert.same({ "over: closed" }, world.printed)
    end },
    { "docs/client.md", "source:events()", function()
      if LUA51 then return end
      local port = scripted.serve { scripted.stream "data: x\n\n", "HTTP/1.1 204 Over\r\n\r\n" }
      world.upstream = ("http://127.0.0.1:%d/"):format(port)
      local client = ask "/relay"
      net.wait(function()
        test.advance(0.001)
        return client.events[1]
      end)
      assert.same({ "x" }, client:data())
    end },
    { "docs/redis.md", 'prefix = "chat"', function() end },
    { "docs/redis.md", "app:channel(\"news\"):publish({ data = request.body }, resume)", function()
      assert.matches("^%x+%-%d+$", ask("/news", { body = "x" }).body)
    end },
    { "README.md", 'require("eventstream.redis")', function() end },
    { "docs/test.md", 'app:stream("/greeting"', function() end },
    { "docs/test.md", '"a minute"', function() end },
    { "docs/test.md", 'dofile "clock.lua"', function() end },
  }

  for name, text in pairs(documents) do
    for block in text:gmatch "\n```lua\n(.-)\n```" do
      it(("run: %s, %s"):format(name, block:match "^[^\n]*"), function()
        local entry
        for _, each in ipairs(BLOCKS) do
          local pattern = each[2]
          local matches = pattern:sub(1, 1) == "^" and block:find(pattern) or block:find(pattern, 1, true)
          if each[1] == name and matches and not (each[5] and block:find(each[5], 1, true)) then
            assert.is_nil(entry, "two entries fit this block")
            entry = each
          end
        end
        assert.is_truthy(entry, "no entry of the spec's runs this block")
        if block:find "eventstream%.redis" and not pcall(require, "eventstream.hiredis") then return end
        local env = new_world()
        if entry[4] then entry[4]() end
        local code = block
        if block:find "^stream:" then
          code = 'app:stream("/wrapped", function(stream) ' .. block .. " stream:hold() end)"
        end
        code = code:gsub('"public"', '"spec"')
        for fn in block:gmatch "\nlocal function (%w+)" do
          code = ("%s\nblock_locals = { %s = %s }"):format(code, fn, fn)
        end
        local chunk
        if rawget(_G, "setfenv") then
          chunk = assert(loadstring(code, "=" .. name))
          setfenv(chunk, env)
        else
          chunk = assert(load(code, "=" .. name, "t", env))
        end
        place.command = true -- app:serve only returns the app
        local ok, failure = pcall(chunk)
        place.command = false
        if not ok and failure ~= "enough" then error(failure, 0) end
        local fine, message = pcall(entry[3], failure)
        for _, source in ipairs(opened) do source:close() end
        for _, app in ipairs(world.apps) do app:close { grace = 0 } end
        scripted.finish()
        if not fine then error(message, 0) end
      end)
    end
  end
end)
