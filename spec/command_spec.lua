--- The command: how a script is run, and run anew; and how a stream is printed from anywhere.

local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"
local scripted = require "spec.support.scripted"

local stream = scripted.stream
local APP = [[
local eventstream = require "eventstream"
local app = eventstream.new { retry = 100 }
local news = app:channel("news", { history = 50 })
app:stream("/news", function(stream) stream:subscribe(news, { newcomer = "all" }) end)
app:post("/news", function(request) return news:publish(VERSION .. " " .. request.body) end)
app:get("/fails", function() error "on purpose" end)
app:get("/arguments", function() return table.concat(arg, " ") end)
return app:serve { port = 0 }
]]

describe("the command", function()
  local folder, files

  before_each(function()
    folder, files = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/eventstream-XXXXXX")), {}
  end)

  after_each(function()
    process.kill_all()
    scripted.finish()
    for name in pairs(files) do os.remove(folder .. "/" .. name) end
    uv.fs_rmdir(folder .. "/lib")
    uv.fs_rmdir(folder)
  end)

  local function write(name, text)
    files[name] = true
    local file = assert(io.open(folder .. "/" .. name, "wb"))
    file:write(text)
    file:close()
    return folder .. "/" .. name
  end

  local function run(...) return process.lua { "bin/eventstream", ... } end

  local function app(version) return ('VERSION = "%s" '):format(version) .. APP end

  local function ended(...)
    local child = run(...)
    local code = child:wait_exit()
    return code, child.stdout, child.stderr
  end

  local function post(port, body)
    local child = process.spawn("curl", { "-sS", "--noproxy", "*", "--max-time", "20", "-d", body,
      ("http://127.0.0.1:%s/news"):format(port) })
    assert.equal(0, child:wait_exit(), child.stderr)
    return child.stdout
  end

  local function listening(child) return child:wait_line "^eventstream: listening on http://127%.0%.0%.1:(%d+)/$" end

  describe("runs a script", function()
    it("that returns an app, where it says, or where the command line says", function()
      local child = run(write("app.lua", app "one"), "--port", "0", "--", "a", "--b")
      local port = listening(child)
      post(port, "hello")
      assert.equal(0, (run("tail", "--count", "1", "127.0.0.1:" .. port .. "/news"):wait_exit()))
      local got = process.spawn("curl", { "-sS", "--noproxy", "*", ("http://127.0.0.1:%s/arguments"):format(port) })
      got:wait_exit()
      assert.equal("a --b", got.stdout)
      child:kill "sigint"
      assert.same({ 0, 0 }, { child:wait_exit() })

      child = run("--", folder .. "/app.lua", "--port", "x", "--")
      local url = ("http://127.0.0.1:%s/arguments"):format(listening(child))
      got = process.spawn("curl", { "-sS", "--noproxy", "*", url })
      got:wait_exit()
      assert.equal("--port x --", got.stdout)
      child:kill "sigterm"
      child:wait_exit()

      child = run("--host", "127.0.0.2", folder .. "/app.lua")
      child:wait_line "^eventstream: listening on http://127%.0%.0%.2:%d+/$"
      child:kill "sigterm"
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)

    it("that does not say where, which the command line does", function()
      for _, ending in ipairs { "app:serve()", "app:serve {}" } do
        write("app.lua", 'local app = require("eventstream").new()\nreturn ' .. ending)
        local child = run(folder .. "/app.lua", "--port", "0")
        listening(child)
        child:kill "sigterm"
        assert.same({ 0, 0 }, { child:wait_exit() })
      end
    end)

    it("and tells an error in one line, that says where", function()
      local child = run(write("app.lua", app "one"))
      local port = listening(child)
      process.spawn("curl", { "-sS", "--noproxy", "*", ("http://127.0.0.1:%s/fails"):format(port) }):wait_exit()
      child:wait_line "^eventstream: .*/app%.lua:6: on purpose$"
      child:kill "sigterm"
      child:wait_exit()
      assert.equal(2, select(2, child.stderr:gsub("\n", "")))
    end)

    it("also an error that has no place of its own", function()
      local child = run(write("app.lua", [[
        local eventstream = require "eventstream"
        local app = eventstream.new()
        package.path = arg[1] .. "/?.lua"
        app:get("/header", function() return 200, "", { ["a b"] = "c" } end)
        app:get("/status", function() return 99 end)
        app:get("/json", function() return { print } end)
        app:get("/table", function() error { 1 } end)
        app:get("/flat", function()
          error("flat", 0)
        end)
        app:stream("/stream", function() error { 1 } end)
        app:get("/after", function() app:after(0, function() error { 1 } end) end)
        app:get("/yields", function() coroutine.yield() end)
        app:get("/module", function() require "bad" end)
        app:get("/none", function() require "none.such" end)
        app:page(404, function() return 99 end)
        app:get("/before", function() end)
        app:before(function(request) return request.path == "/before" and 99 or nil end)
        return app:serve { port = 0 }
      ]]), folder)
      write("bad.lua", "return {} x")
      local port = listening(child)
      for _, case in ipairs {
        { "header", 4, "handler of GET /header: header name must be a token, not 'a b'" },
        { "status", 5, "handler of GET /status: status must be a whole number from 200 to 599, not 99" },
        { "json", 6, "handler of GET /json: body cannot be written as JSON: .*" },
        { "table", 7, "table: 0?x?%x+" },
        { "flat", 9, "flat" },
        { "stream", 11, "table: 0?x?%x+" },
        { "after", 12, "table: 0?x?%x+" },
        { "yields", 13, "the handler yielded, but nobody would resume it: wait with eventstream.await" },
        { "module", 14, "error loading module 'bad' from file '.*/bad.lua': .*/bad.lua:1: .* near 'x'" },
        { "none", 15, "module 'none.such' not found" },
        { "nowhere", 16, "page 404: status must be a whole number from 200 to 599, not 99" },
        { "before", 18, "before GET /before: status must be a whole number from 200 to 599, not 99" },
      } do
        local seen = #child.lines
        process.spawn("curl", { "-sS", "--noproxy", "*", ("http://127.0.0.1:%s/%s"):format(port, case[1]) }):wait_exit()
        process.wait(function() return #child.lines > seen end)
        assert.matches(("^eventstream: [^:]*/app%%.lua:%d: %s$"):format(case[2], case[3]), child.lines[seen + 1])
      end
      child:kill "sigterm"
      child:wait_exit()
      assert.equal(13, #child.lines)
    end)

    it("that runs the loop itself", function()
      local code, out = ended(write("app.lua", [[
        local eventstream = require "eventstream"
        eventstream.new():after(0, function() print "ran" eventstream.stop() end)
        eventstream.run()
      ]]))
      assert.same({ 0, "ran\n" }, { code, out })
    end)

    for what, case in pairs {
      ["a syntax error"] = { "local = 5", "^eventstream: .*/app%.lua:1: '?<name>'? expected near '='\n$" },
      ["an error while it loads"] = { "\nerror 'on purpose'", "^eventstream: .*/app%.lua:2: on purpose\n$" },
      ["an error that is a table"] = { "\nerror { 1 }", "^eventstream: [^:]*/app%.lua:2: table: 0?x?%x+\n$" },
      ["an error without a place"] = { "\nlocal function f() error('flat', 0) end\nf()",
        "^eventstream: [^:]*/app%.lua:2: flat\n$" },
      ["a module that cannot be parsed"] = { "package.path = arg[0]:match '.*/' .. '?.data'\nrequire 'bad'",
        "^eventstream: [^:]*/app%.lua:2: error loading module 'bad' from file '.*': .*/bad%.data:1: [^\n]+\n$" },
      ["no module"] = { "\n\nrequire 'none.such'", "^eventstream: [^:]*/app%.lua:3: module 'none%.such' not found\n$" },
      ["no app"] = { "return 5", "^eventstream: .*/app%.lua returns no app: end it with `return app:serve" },
      ["wrong options"] = { "return require('eventstream').new():serve { prot = 1 }",
        "^eventstream: .*/app%.lua: serve: unknown option 'prot' %(did you mean 'port'%?%)\n$" },
      ["an address that is none of this machine's"] = {
        "return require('eventstream').new():serve { host = '203.0.113.1', port = 80 }",
        "^eventstream: listen: EADDRNOTAVAIL: [^\n]*\n$" },
    } do
      it("and ends with 1 where it has " .. what, function()
        write("bad.data", "return {} x")
        local code, out, err = ended(write("app.lua", case[1]))
        assert.same({ 1, "" }, { code, out })
        assert.matches(case[2], err)
      end)
    end
  end)

  it("helps, and refuses what it does not understand", function()
    local code, out = ended "--help"
    assert.equal(0, code)
    assert.matches("^usage: eventstream ", out)
    code, out = ended("tail", "--help")
    assert.equal(0, code)
    assert.matches("^usage: eventstream tail ", out)
    local version = "eventstream " .. require("eventstream")._VERSION .. "\n"
    code, out = ended "--version"
    assert.same({ 0, version }, { code, out })
    local script = write("app.lua", "print 'ran'")
    code, out = ended(script, "--help")
    assert.equal(0, code)
    assert.matches("^usage: eventstream ", out)
    code, out = ended(script, "--watch", "--version", "x")
    assert.same({ 0, version }, { code, out })
    code, out = ended(write("app.lua", "print(arg[1]) os.exit(0)"), "--", "--help")
    assert.same({ 0, "--help\n" }, { code, out })
    for _, case in ipairs {
      { "eventstream: which script%?" },
      { "eventstream: unknown option %-%-prot", "--prot", "5", "x.lua" },
      { "eventstream: unknown option %-x", "-x" },
      { "eventstream: %-%-port needs a value", "--port" },
      { "eventstream: %-%-port must be a whole number from 0 to 65535, not 'x'", "--port", "x", "x.lua" },
      { "eventstream: %-%-watch takes no value", "--watch=5", "x.lua" },
      { "eventstream: tail: which address%?", "tail" },
      { "eventstream: tail: one address, and not 'b', too", "tail", "a", "b" },
      { "eventstream: tail: url 'ftp://x': it must begin with http", "tail", "ftp://x" },
      { "eventstream: %-%-count must be a whole number, 1 or more, not '0'", "tail", "--count=0", "x" },
      { "eventstream: %-%-header must be 'NAME: TEXT', not 'x'", "tail", "--header", "x", "y" },
    } do
      local message
      code, out, message = ended((unpack or table.unpack)(case, 2))
      assert.same({ 2, "" }, { code, out })
      assert.matches("^" .. case[1], message)
    end
    local message
    code, out, message = ended "/nowhere.lua"
    assert.same({ 1, "" }, { code, out })
    assert.matches("^eventstream: cannot open /nowhere%.lua", message)
  end)

  describe("with --watch", function()
    local function watch()
      local child = run(folder .. "/app.lua", "--watch")
      return child, listening(child)
    end

    it("runs it anew when a file changes; clients come back and resume", function()
      write("app.lua",
        ("package.path = '%s/?.lua;' .. package.path\nVERSION = require 'version'\n%s"):format(folder, APP))
      write("version.lua", "return 'one'")
      local child, port = watch()
      local reader = run("tail", "--json", ("127.0.0.1:%s/news"):format(port))
      local first = post(port, "a")
      reader:wait_line '"data":"one a"'
      write("version.lua", "return 'two'")
      child:wait_line "version%.lua changed$"
      assert.equal(port, listening(child))
      local second = post(port, "b")
      reader:wait_line '"data":"two b"'

      write("app.lua", "local x =")
      child:wait_line "app%.lua:1: .* %(what was there runs on%)$"
      post(port, "c")
      reader:wait_line '"data":"two c"'
      write("app.lua", "error 'on purpose'")
      child:wait_line "app%.lua:1: on purpose$"
      child:wait_line "waiting for a change$"
      write("app.lua", 'VERSION = "three" ' .. APP)
      assert.equal(port, listening(child))
      local last = post(port, "d")
      reader:wait_line '"data":"three d"'
      assert.equal(first:match "^%x+", last:match "^%x+") -- one epoch, one sequence
      assert.equal(tonumber(first:match "%d+$") + 1, tonumber(second:match "%d+$"))
      assert.is_nil(reader.stdout:find "gap")
      local late = run("tail", "--json", "--count", "4", ("127.0.0.1:%s/news"):format(port))
      assert.equal(0, (late:wait_exit()))
      local list = {}
      for line in late.stdout:gmatch "[^\n]+" do list[#list + 1] = json.decode(line).data end
      assert.same({ "one a", "two b", "two c", "three d" }, list)
      child:kill "sigterm"
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)

    it("hands over a history that is larger than a pipe", function()
      write("app.lua", (app("one"):gsub("history = 50", "history = 50, history_bytes = 4194304")))
      local child, port = watch()
      for _ = 1, 8 do post(port, ("x"):rep(100000)) end
      write("app.lua", (app("two"):gsub("history = 50", "history = 50, history_bytes = 4194304")))
      child:wait_line "changed$"
      assert.equal(port, listening(child))
      local tail = run("tail", "--json", "--count", "8", ("127.0.0.1:%s/news"):format(port))
      assert.equal(0, (tail:wait_exit()))
      child:kill "sigterm"
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)

    it("waits for a change when the script fails at once, and ends with it otherwise", function()
      write("app.lua", "error 'on purpose'")
      local child = run("--watch", folder .. "/app.lua")
      child:wait_line "waiting for a change$"
      write("app.lua", "os.exit(0)")
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)

    describe("sees the repair of a module", function()
      local function requiring(...)
        local lines = { ("package.path = '%s/?.lua'"):format(folder) }
        for _, name in ipairs { ... } do lines[#lines + 1] = ("require 'lib.%s'"):format(name) end
        return table.concat(lines, " ") .. " " .. app "one"
      end

      it("that cannot be parsed", function()
        assert(uv.fs_mkdir(folder .. "/lib", 493))
        write("lib/m.lua", "return {} x")
        local child = run("--watch", write("app.lua", requiring "m"))
        child:wait_line "waiting for a change$"
        write("lib/m.lua", "return {} y")
        child:wait_line "^eventstream: .*/lib/m%.lua:1: [^()]*$"
        write("lib/m.lua", "return {}")
        child:wait_line "lib/m%.lua changed$"
        listening(child)
        child:kill "sigterm"
        assert.same({ 0, 0 }, { child:wait_exit() })
      end)

      it("that raises, when another one was loaded before", function()
        assert(uv.fs_mkdir(folder .. "/lib", 493))
        write("lib/m.lua", "return {}")
        write("lib/n.lua", "error 'bad n'")
        write("app.lua", requiring "m")
        local child, port = watch()
        write("app.lua", requiring("m", "n"))
        child:wait_line "lib/n%.lua:1: bad n$"
        child:wait_line "waiting for a change$"
        write("lib/n.lua", "return {}")
        child:wait_line "lib/n%.lua changed$"
        assert.equal(port, listening(child))
        write("lib/m.lua", "return { 1 }")
        child:wait_line "lib/m%.lua changed$"
        assert.equal(port, listening(child))
        child:kill "sigterm"
        assert.same({ 0, 0 }, { child:wait_exit() })
      end)

      it("that ends the process", function()
        assert(uv.fs_mkdir(folder .. "/lib", 493))
        write("lib/m.lua", "os.exit(3)")
        local child = run("--watch", write("app.lua", requiring "m"))
        child:wait_line "waiting for a change$"
        write("lib/m.lua", "return {}")
        listening(child)
        child:kill "sigterm"
        assert.same({ 0, 0 }, { child:wait_exit() })
      end)

      it("that is not there yet, nor its folder", function()
        local child = run("--watch", write("app.lua", requiring "m"))
        child:wait_line "waiting for a change$"
        assert(uv.fs_mkdir(folder .. "/lib", 493))
        write("lib/m.lua", "return {}")
        child:wait_line "lib/m%.lua changed$"
        listening(child)
        child:kill "sigterm"
        assert.same({ 0, 0 }, { child:wait_exit() })
      end)

      it("that a handler asks for", function()
        assert(uv.fs_mkdir(folder .. "/lib", 493))
        write("lib/m.lua", "error 'on purpose'")
        write("app.lua", requiring():gsub('error "on purpose"', "return (require 'lib.m')"))
        local child, port = watch()
        local function ask()
          local got = process.spawn("curl", { "-sS", "--noproxy", "*", ("http://127.0.0.1:%s/fails"):format(port) })
          got:wait_exit()
          return got.stdout
        end
        ask()
        child:wait_line "on purpose$"
        for _, word in ipairs { "one", "another" } do
          write("lib/m.lua", ("return '%s'"):format(word))
          child:wait_line "lib/m%.lua changed$"
          assert.equal(port, listening(child))
          assert.equal(word, ask())
        end
        child:kill "sigterm"
        assert.same({ 0, 0 }, { child:wait_exit() })
      end)
    end)

    it("sees a change while a log is written beside the script", function()
      write("app.lua", app "one")
      local child, port = watch()
      local log, timer = assert(io.open(write("access.log", ""), "a")), uv.new_timer()
      timer:start(0, 40, function()
        log:write "line\n"
        log:flush()
      end)
      local fine, failure = pcall(function()
        write("app.lua", app "two")
        child:wait_line "app%.lua changed$"
        assert.equal(port, listening(child))
      end)
      timer:close()
      log:close()
      assert(fine, failure)
      child:kill "sigterm"
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)

    it("takes a Unix socket's file away at its end, and where the script listens elsewhere", function()
      local one, two = folder .. "/one", folder .. "/two"
      local function at(path) return (app("one"):gsub("port = 0", ("path = %q"):format(path))) end
      write("app.lua", at(one))
      local child = run("--watch", folder .. "/app.lua")
      child:wait_line "listening on .*/one$"
      write("app.lua", at(one) .. " -- the same")
      child:wait_line "listening on .*/one$"
      assert.truthy(uv.fs_stat(one))
      write("app.lua", at(two))
      child:wait_line "listening on .*/two$"
      process.wait(function() return not uv.fs_stat(one) end)
      assert.truthy(uv.fs_stat(two))
      child:kill "sigterm"
      assert.same({ 0, 0 }, { child:wait_exit() })
      assert.is_nil(uv.fs_stat(two))
    end)

    it("gives up a script that is caught in a loop", function()
      write("app.lua", app "one" :gsub('error "on purpose"', "while true do end"))
      local child, port = watch()
      process.spawn("curl", { "-sS", "--noproxy", "*", ("http://127.0.0.1:%s/fails"):format(port) })
      child:wait_line "has run for"
      write("app.lua", app "two")
      child:wait_line "it does not hand its history over, and is ended$"
      assert.equal(port, listening(child))
      write("app.lua", "while true do end " .. app "three")
      child:wait_line "app%.lua listens nowhere yet: it may be caught in a loop$"
      write("app.lua", app "four")
      assert.equal(port, listening(child))
      post(port, "x")
      child:kill "sigint"
      assert.same({ 0, 0 }, { child:wait_exit() })
    end)
  end)

  describe("tail", function()
    local ANSWER = stream "id: 1\nevent: one\ndata: a\ndata: \"ü\\\n\ndata\nid: 2\n\n: x\ndata: \0\1\ndata:\n\n"

    local function serve(...) return ("http://127.0.0.1:%d/"):format((scripted.serve { ... })) end

    it("prints events as a stream again, and comes back with the last id", function()
      local port, requests = scripted.serve { ANSWER, stream "data: b\n\n", "HTTP/1.1 204 Over\r\n\r\n" }
      local code, out, err = ended("tail", ("http://127.0.0.1:%d/"):format(port))
      assert.equal("id: 1\nevent: one\ndata: a\ndata: \"ü\\\n\nid: 2\ndata: \n\nid: 2\ndata: \0\1\ndata: \n\n"
        .. "id: 2\ndata: b\n\n", out)
      assert.equal(0, code)
      assert.matches("^eventstream: the stream ended; again in [%d.]+ s\n"
        .. "eventstream: the stream ended; again in [%d.]+ s\n"
        .. "eventstream: the server answered 204: it has nothing more\n$", err)
      assert.matches("\r\nLast%-Event%-ID: 2\r\n", requests[2])
    end)

    it("says where the id is taken back", function()
      local code, out = ended("tail", "--count", "5",
        serve(stream "data: a\n\nid: 1\ndata: b\n\nid:\ndata: c\n\ndata: d\n\nid: 2\ndata: e\n\n"))
      assert.same({ 0, "data: a\n\nid: 1\ndata: b\n\nid:\ndata: c\n\ndata: d\n\nid: 2\ndata: e\n\n" },
        { code, out })
      code, out = ended("tail", "--count", "2", serve(stream "id: 1\ndata: a\n\nid: \1\ndata: b\n\n"))
      assert.same({ 0, "id: 1\ndata: a\n\nid:\ndata: b\n\n" }, { code, out }) -- one that no header can carry
    end)

    it("prints JSON", function()
      local code, out = ended("tail", "--json", "--count=3", serve(ANSWER))
      assert.equal(0, code)
      local list = {}
      for line in out:gmatch "[^\n]+" do list[#list + 1] = json.decode(line) end
      assert.same({ { event = "one", data = 'a\n"ü\\', id = "1" }, { event = "message", data = "", id = "2" },
        { event = "message", data = "\0\1\n", id = "2" } }, list)
    end)

    it("runs a command for each event, one after another", function()
      local code, out, err = ended("tail", "--quiet", "--exec",
        'echo "<$EVENTSTREAM_EVENT $EVENTSTREAM_ID $(tr "\\n" " ")"; sleep 0.05; echo ">"; test "$EVENTSTREAM_ID" != 3',
        serve(stream "id: 1\nevent: it's\ndata: a\ndata: b\n\nid: 2\ndata: c\n\nid: 3\ndata: d\n\n"),
        "--count", "3")
      assert.equal("<it's 1 a b\n>\n<message 2 c\n>\n<message 3 d\n>\n", out)
      assert.same({ 1, "eventstream: --exec: the command ended with 1\n" }, { code, err })
    end)

    it("runs no more commands than it is to count", function()
      local code, out = ended("tail", "--exec", "cat", "--count", "2", serve(stream(("data: x\n\n"):rep(5))))
      assert.same({ 0, "xx" }, { code, out })
    end)

    it("runs the command for all that came before the end", function()
      local code, out, err = ended("tail", "--quiet", "--exec", "cat; sleep 0.2",
        serve(stream("retry: 1\n" .. ("data: x\n\n"):rep(3)), "HTTP/1.1 204 Over\r\n\r\n"))
      assert.same({ 0, "xxx", "" }, { code, out, err })
    end)

    it("sends what it is told to", function()
      local port, requests = scripted.serve { "HTTP/1.1 503 Full\r\n\r\n", stream "data: x\n\n" }
      local code = ended("tail", "--header", "A: b", "--header=A: c", "--header", "D:e", "--data", "body", "--count=1",
        "--last-event-id", "7", "--retry-status", ("127.0.0.1:%d/x"):format(port))
      assert.equal(0, code)
      assert.matches("^POST /x .*A: b\r\nA: c\r\nD: e\r\n.*Last%-Event%-ID: 7\r\n.*\r\n\r\nbody$", requests[2])
    end)

    it("ends with 1 where the server wants no more", function()
      local code, _, err = ended("tail", serve "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
      assert.same({ 1, "eventstream: the server answered 404\n" }, { code, err })
    end)

    it("ends when its reader does", function()
      local timer
      local url = serve(function(connection)
        connection.send(stream())
        timer = uv.new_timer()
        timer:start(0, 5, function()
          if connection.gone or connection.handle:is_closing() then return timer:close() end
          connection.send "data: x\n\n"
        end)
      end)
      local lua = process.interpreter()
      local child = process.spawn("sh", { "-c", ("'%s' bin/eventstream tail %s | head -n 2"):format(lua, url) })
      assert.equal(0, (child:wait_exit()))
      assert.equal("data: x\n\n", child.stdout)
      process.wait(function() return timer:is_closing() end)
    end)
  end)
end)
