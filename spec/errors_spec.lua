--- The errors that a newcomer makes: each says what was wrong with what, at the script's own line, and what to do.

local uv = require "luv"
local net = require "spec.support.net"
local process = require "spec.support.process"
local streams = require "spec.support.streams"
local eventstream = require "eventstream"

local compile = loadstring or load -- luacheck: ignore
local NAN = 0 / 0

local function never() end

-- Runs a line of a script, with what it may use in value; returns the error's message, which must name the line.
local function message_of(code, app, stream)
  local chunk = assert(compile("local eventstream, app, stream, NAN = ...\n" .. code .. "\n", "=script"))
  local ok, message = pcall(chunk, eventstream, app, stream, NAN)
  assert.is_false(ok, "no error")
  local rest = type(message) == "string" and message:match "^script:2: (.*)$"
  if not rest then error("not at the script's line: " .. tostring(message), 2) end
  return rest
end

describe("the error of", function()
  local app

  before_each(function()
    app = streams.serve(function(a) a:stream("/taken", never) end)
  end)

  after_each(streams.finish)

  -- Specs of a table: a line of a script and its message.
  local function raises(cases)
    for _, case in ipairs(cases) do
      it("`" .. case[1] .. "`", function()
        assert.equal(case[2], message_of(case[1], app))
      end)
    end
  end

  describe("an unknown option names the likely one:", function()
    raises {
      { "app:listen { prot = 8080 }", "listen: unknown option 'prot' (did you mean 'port'?)" },
      { "app:listen { port = 0, hots = '::1' }", "listen: unknown option 'hots' (did you mean 'host'?)" },
      { "app:listen { Port = 8080 }", "listen: unknown option 'Port' (did you mean 'port'?)" },
      { "app:serve { prot = 8080 }", "listen: unknown option 'prot' (did you mean 'port'?)" },
      { "eventstream.new { heartbeet = 5 }", "new: unknown option 'heartbeet' (did you mean 'heartbeat'?)" },
      { "eventstream.new { onerror = print }", "new: unknown option 'onerror' (did you mean 'on_error'?)" },
      { "eventstream.new { limits = { conections = 5 } }",
        "new: unknown option 'conections' (did you mean 'connections'?) in limits" },
      { "app:stream('/', { method = { 'POST' } }, print)",
        "stream: unknown option 'method' (did you mean 'methods'?)" },
      { "app:close { grase = 1 }", "close: unknown option 'grase' (did you mean 'grace'?)" },
    }

    it("and where none is like it, all that there are", function()
      assert.equal("listen: unknown option 'colour' (there are: activated, fd, host, path, port, proxy_protocol, "
        .. "reuse_port)",
        message_of("app:listen { colour = 1 }", app))
    end)

    it("and a list in its place is no option", function()
      assert.equal("listen: unknown option '1' (there are: activated, fd, host, path, port, proxy_protocol, "
        .. "reuse_port)",
        message_of("app:listen { 8080 }", app))
    end)
  end)

  describe("a bad option says what it must be:", function()
    raises {
      { "eventstream.new(8080)", "new: options must be a table, not number" },
      { "eventstream.new { heartbeat = 0 }",
        "new: heartbeat must be a number of seconds above 0, at most ten years, or false, not 0" },
      { "eventstream.new { heartbeat = '15' }",
        "new: heartbeat must be a number of seconds above 0, at most ten years, or false, not '15'" },
      { "eventstream.new { retry = 0.5 }", "new: retry must be a whole number of milliseconds, or false, not 0.5" },
      { "eventstream.new { retry = -1 }", "new: retry must be a whole number of milliseconds, or false, not -1" },
      { "eventstream.new { on_error = 'stderr' }", "new: on_error must be a function, not 'stderr'" },
      { "eventstream.new { limits = 5 }", "new: limits must be a table, not 5" },
      { "eventstream.new { limits = { connections = 0 } }",
        "new: limits.connections must be a whole number, 1 or more, not 0" },
      { "eventstream.new { limits = { connections = 1.5 } }",
        "new: limits.connections must be a whole number, 1 or more, not 1.5" },
      { "eventstream.new { limits = { header_bytes = 10 } }",
        "new: limits.header_bytes must be a whole number, 256 or more, not 10" },
      { "eventstream.new { limits = { header_seconds = -1 } }",
        "new: limits.header_seconds must be a number of seconds above 0, at most ten years, not -1" },
      { "eventstream.new { limits = { body_bytes = '1 MB' } }",
        "new: limits.body_bytes must be a whole number, 0 or more, not '1 MB'" },
      { "eventstream.new { limits = { backlog_bytes = {} } }",
        "new: limits.backlog_bytes must be a whole number, 1 or more, not a table" },
      { "eventstream.new { limits = { stream_seconds = NAN } }",
        "new: limits.stream_seconds must be a number of seconds above 0, at most ten years, or false, not "
        .. tostring(NAN) },
      { "app:listen { port = '8080' }", "listen: port must be a whole number from 0 to 65535, not '8080'" },
      { "app:listen { port = 65536 }", "listen: port must be a whole number from 0 to 65535, not 65536" },
      { "app:listen { port = 0, host = 127 }", "listen: host must be a string, not 127" },
      { "app:listen()", "listen: options must be a table, not nil: { port = 8080 }" },
      { "app:listen(8080)", "listen: options must be a table, not number" },
      { "app:listen {}", "listen: give one of port, path, fd and activated" },
      { "app:listen { host = '127.0.0.1' }", "listen: give one of port, path, fd and activated" },
      { "app:listen { port = 0, path = '/tmp/x.sock' }", "listen: give one of port, path, fd and activated" },
      { "app:serve()", "listen: options must be a table, not nil: { port = 8080 }" },
      { "app:serve {}", "listen: give one of port, path, fd and activated" },
      { "app:close { grace = -1 }", "close: grace must be a number of seconds, 0 or more, at most ten years, not -1" },
      { "app:close(5)", "close: options must be a table, not number" },
      { "app.get('/', print)", "get: call it with a colon: app:get(...)" },
      { "app.listen { port = 0 }", "listen: call it with a colon: app:listen(...)" },
      { "eventstream.new { cors = true }",
        "new: cors must be '*' or a table, as { origins = { 'https://example.com' }, credentials = true }, not true" },
      { "eventstream.new { cors = {} }", "new: cors.origins is missing: '*' or a list of them" },
      { "eventstream.new { cors = { origins = '*', credentials = true } }",
        "new: cors.credentials need a list of cors.origins, not '*': all sites" },
      { "eventstream.new { cors = { origins = { 'null' }, credentials = true } }",
        "new: cors.credentials and the origin 'null', which any page can have" },
      { "eventstream.new { cors = { origins = { 'a.example' } } }",
        "new: cors.origins must be a list of origins without a path, as { 'https://example.com' }, not 'a.example'" },
      { "eventstream.new { cors = { origins = '*', headers = { 'a b' } } }",
        "new: cors.headers must be a list of header names, not 'a b'" },
      { "eventstream.new { cors = { origins = '*', orgins = 1 } }",
        "new: unknown option 'orgins' (did you mean 'origins'?) in cors" },
      { "app:stream('/', { methods = 'POST' }, print)",
        "stream: methods must be a list of at least one method, not 'POST'" },
      { "app:stream('/', { methods = {} }, print)",
        "stream: methods must be a list of at least one method, not a table" },
      { "app:stream('/', { methods = { 'post' } }, print)",
        "stream: methods must be a list of methods in upper case (HEAD comes with GET), not 'post'" },
    }
  end)

  describe("a handler that is no function:", function()
    raises {
      { "app:stream('/')", "stream: handler must be a function, not nil" },
      { "app:stream('/', nil)", "stream: handler must be a function, not nil" },
      { "app:stream('/', 'handler')", "stream: handler must be a function, not a string" },
      { "app:stream('/', { methods = { 'POST' } })", "stream: handler must be a function, not nil" },
      { "app:stream('/', { methods = { 'POST' } }, 5)", "stream: handler must be a function, not a number" },
      { "app:get('/', 'hello')", "get: handler must be a function, not a string" },
      { "app:post('/', {})", "post: handler must be a function, not a table" },
      { "app:route('PUT', '/')", "route: handler must be a function, not nil" },
    }
  end)

  describe("a bad route:", function()
    raises {
      { "app:stream('/taken', print)", "stream: there is a route for GET /taken already" },
      { "app:get('/taken', print)", "get: there is a route for GET /taken already" },
      { "app:stream('events', print)", "stream: path must be a string that starts with '/', not events" },
      { "app:get('', print)", "get: path must be a string that starts with '/', not " },
      { "app:get(nil, print)", "get: path must be a string that starts with '/', not nil" },
      { "app:get('/a/:', print)", "get: path '/a/:' has a parameter without a name" },
      { "app:get('/*/a', print)", "get: path '/*/a' goes on after '*'" },
      { "app:route('get', '/', print)", "route: method must be a name in upper case, not 'get'" },
      { "app:route(nil, '/', print)", "route: method must be a name in upper case, not nil" },
    }

    it("does not stop another method on a path that is taken", function()
      app:post("/taken", never)
      app:stream("/taken", { methods = { "PUT" } }, never)
    end)
  end)

  describe("a wrong event", function()
    local CASES = {
      { "nil", "event must be a table or a string, not nil" },
      { "print", "data must be a string, number, boolean or table, not function" },
      { "{}", "empty event: give it data, or an id, a retry or a comment" },
      { "{ data = print }", "data must be a string, number, boolean or table, not function" },
      { "{ data = NAN }", "data must be a finite number" },
      { "{ data = 1 / 0 }", "data must be a finite number" },
      { "{ data = 'x', event = 5 }", "event must be a string, not number" },
      { "{ data = 'x', event = 'a\\nb' }", "event must not contain a line end" },
      { "{ data = 'x', event = 'a\\rb' }", "event must not contain a line end" },
      { "{ event = 'ping' }", "an event without data is shown by no browser (pass data = \"\")" },
      { "{ data = 'x', id = {} }", "id must be a string, an integer or false, not table" },
      { "{ data = 'x', id = true }", "id must be a string, an integer or false, not boolean" },
      { "{ data = 'x', id = 'a\\nb' }", "id must not contain control characters, nor spaces at its ends" },
      { "{ data = 'x', id = ' a' }", "id must not contain control characters, nor spaces at its ends" },
      { "{ data = 'x', id = ('a'):rep(129) }", "id must not be longer than 128 bytes" },
      { "{ data = 'x', retry = '5' }", "retry must be a number of milliseconds, not string" },
      { "{ data = 'x', retry = 0.5 }", "retry must be a whole number of milliseconds, 0 or more" },
      { "{ data = 'x', retry = -1 }", "retry must be a whole number of milliseconds, 0 or more" },
      { "{ data = 'x', comment = 5 }", "comment must be a string, not number" },
      { "{ data = 'x', evnt = 'ping' }", "unknown field 'evnt' (did you mean 'event'?)" },
      { "{ data = 'x', name = 'ping' }", "unknown field 'name' (there are: comment, data, event, id, retry)" },
      { "{ 'x' }", "event must have named fields (data = ...), and no list" },
      { "{ data = 'x', [true] = 1 }", "event has a field whose name is a boolean" },
    }

    for _, case in ipairs(CASES) do
      it("`" .. case[1] .. "` names the field", function()
        assert.equal("encode: " .. case[2], message_of("eventstream.encode(" .. case[1] .. ")", app))
      end)

      it("`" .. case[1] .. "` is sent to nobody", function()
        local held
        local client, _, port = streams.open(function(stream)
          held = stream
          stream:hold()
        end)
        client:wait "retry: "
        local before = client.received
        assert.equal("send: " .. case[2], message_of("stream:send(" .. case[1] .. ")", app, held))
        streams.round_trip(port)
        assert.equal(before, client.received)
        assert.is_false(held.closed)
      end)
    end

    it("with a table as data names the rock that is missing", function()
      local child = streams.script [[
        package.preload.cjson = function() error "cjson is hidden from this script" end
        local eventstream = require "eventstream"
        print(pcall(eventstream.encode, { data = {} }))
      ]]
      child:wait_line "^false\tencode: data is a table, which needs JSON: luarocks install lua%-cjson$"
      assert.equal(0, (child:wait_exit()))
    end)

    it("with a table as data is at the script's line, too", function()
      local child = streams.script [[
        package.preload.cjson = function() error "cjson is hidden from this script" end
        local eventstream = require "eventstream"
        eventstream.encode { data = {} }
        print "not reached"
      ]]
      child:wait_line "%(command line%):3: encode: data is a table, which needs JSON"
      assert.equal(1, (child:wait_exit()))
    end)

    it("with a table that is no JSON says so, where lua-cjson is installed", function()
      local child = streams.script [[
        if not pcall(require, "cjson") then os.exit(7) end
        require "eventstream".encode { data = { f = print } }
      ]]
      local code = child:wait_exit()
      if code == 7 then return pending "lua-cjson is not installed" end
      assert.equal(1, code)
      assert.matches("%(command line%):2: encode: data cannot be written as JSON: ", child.stderr)
    end)
  end)

  describe("a stream's method", function()
    local held

    before_each(function()
      local client = streams.open(function(stream)
        held = stream
        stream:hold()
      end)
      client:wait "retry: "
    end)

    for code, message in pairs {
      ["stream:sleep(1)"] =
        "sleep: only the stream's own handler can wait; in a callback use stream:after or stream:every",
      ["stream:comment(5)"] = "comment: text must be a string, not number",
      ["stream:comment()"] = "comment: text must be a string, not no value",
      ["stream:on_close()"] = "on_close: function expected, got no value",
      ["stream:every('1', print)"] = "every: seconds must be a number, not string",
      ["stream:header('X-Late', '1')"] =
        "header: the head is sent already; set headers before the first send, subscribe or sleep",
      ["stream:reject(404)"] = "reject: the stream has begun; it can only be closed",
      ["stream.name = 'x'"] = "stream: only stream.data can be set; keep your own values in it",
    } do
      it("`" .. code .. "`", function()
        assert.equal(message, message_of(code, app, held))
      end)
    end

    it("on what is no stream says what is wanted", function()
      assert.equal("send: call it with a colon: stream:send(...)", message_of("stream.send({}, 'x')", app, held))
    end)

    it("send after the end is no error, but nil, closed", function()
      held:close()
      assert.same({ nil, "closed" }, { held:send "x" })
    end)
  end)

  describe("a header", function()
    local cases = {
      { "stream:header('X Y', '1')", "header: header name must be a token, not 'X Y'" },
      { "stream:header(5, '1')", "header: header name must be a token, not a number" },
      { "stream:header('X', 'a\\r\\nSet-Cookie: b')", "header: header 'X' must not contain control characters" },
      { "stream:header('X', true)", "header: header 'X' must be a string, a number or a list of them, not boolean" },
      { "stream:header('Content-Length', 5)", "header: header 'Content-Length' is written by the server" },
      { "stream:header('content-type', 'text/html')", "header: header 'content-type' is written by the server" },
      { "stream:reject(99)", "reject: status must be a whole number from 200 to 599, not 99" },
      { "stream:reject(404, print)", "reject: body must be a string or a table, not function" },
      { "stream:reject(404, 'x', 'y')", "reject: headers must be a table, not string" },
    }
    for _, case in ipairs(cases) do
      it("`" .. case[1] .. "`", function()
        local ok, message
        local client = streams.open(function(stream)
          ok, message = pcall(message_of, case[1], app, stream)
          stream:send "unharmed"
        end)
        client:wait_end()
        assert.is_true(ok, message)
        assert.equal(case[2], message)
        client:wait "\ndata: unharmed\n"
      end)
    end
  end)

  describe("a closed app", function()
    before_each(function() app:close { grace = 0 } end)

    raises {
      { "app:listen { port = 0 }", "listen: the app is closed" },
      { "app:every(1, print)", "every: the app is closed" },
      { "app:after(1, print)", "after: the app is closed" },
    }

    it("does not come of closing it again", function()
      app:close()
    end)
  end)

  describe("listen", function()
    -- The message of a listen that fails; it must not raise.
    local function failure(options)
      local listener, message = app:listen(options)
      assert.is_nil(listener)
      return message
    end

    it("on a port in use says what to do", function()
      local _, port = streams.serve(never)
      assert.equal(("listen: EADDRINUSE: address already in use: 127.0.0.1:%d (another program listens there: stop it, "
        .. "or take another port, or port = 0 for any free one)"):format(port), failure { port = port })
    end)

    it("on an address that is not this machine's says what to do", function()
      local message = failure { host = "192.0.2.1", port = 8080 }
      assert.matches("^listen: EADDRNOTAVAIL: .-: 192%.0%.2%.1:8080 %(", message)
      assert.matches("127.0.0.1 is for this machine, 0.0.0.0 for all", message, 1, true)
    end)

    it("on an IPv6 address shows it in brackets", function()
      local message = failure { host = "2001:db8::1", port = 8080 }
      assert.matches(": [2001:db8::1]:8080", message, 1, true)
    end)

    it("on a path in a folder that is not there names the path", function()
      assert.matches("^listen: ENOENT: .-: /no/such/folder/x%.sock", failure { path = "/no/such/folder/x.sock" })
    end)

    it("on a path that is too long says so", function()
      assert.matches("^listen: ENAMETOOLONG: ", failure { path = "/tmp/" .. ("x"):rep(200) })
    end)

    it("on a path that is a file leaves the file alone", function()
      local path = os.tmpname()
      assert.matches("^listen: EADDRINUSE: .-: " .. path:gsub("%p", "%%%0"), failure { path = path })
      assert.is_true(os.remove(path))
    end)

    it("on a descriptor that is not open says so", function()
      assert.matches("^listen: EBADF: .-: fd 12345 %(the descriptor is not open%)$", failure { fd = 12345 })
    end)

    it("on a descriptor that is no socket says so", function()
      local fd = uv.fs_open("/dev/null", "r", 0)
      local message = failure { fd = fd }
      uv.fs_close(fd)
      assert.matches("^listen: ENOTSOCK: .-: fd %d+ %(the descriptor is no socket%)$", message)
    end)

    -- Runs a script as a user who may not do everything: as itself, or, where this is root, as nobody.
    local function as_nobody(text)
      if uv.getuid() ~= 0 then return streams.script(text) end
      local setpriv = process.find "setpriv"
      if not setpriv then return nil end
      return process.spawn(setpriv, {
        "--reuid", "65534", "--regid", "65534", "--clear-groups", process.interpreter(), "-e", text,
      })
    end

    local function without_permission(options)
      local child = as_nobody(([[
        local app = require "eventstream".new()
        print(app:listen { %s })
      ]]):format(options))
      if not child then return nil end
      assert.equal(0, (child:wait_exit()))
      return child.stdout
    end

    it("on a port without permission says what to do", function()
      local file = io.open "/proc/sys/net/ipv4/ip_unprivileged_port_start"
      local first = file and tonumber(file:read "*a") or 1024
      if file then file:close() end
      if first < 2 then return pending "any user may listen on any port here" end
      local printed = without_permission("port = " .. first - 1)
      if not printed then return pending "runs as root, and there is no setpriv" end
      assert.matches("^nil\tlisten: EACCES: permission denied: 127%.0%.0%.1:" .. first - 1, printed)
      assert.matches("ports below 1024 and files of others need permission: take a port from 1024 on", printed, 1, true)
    end)

    it("on a path without permission says what to do", function()
      local printed = without_permission 'path = "/usr/eventstream-spec.sock"'
      if not printed then return pending "runs as root, and there is no setpriv" end
      assert.matches("^nil\tlisten: EACCES: permission denied: /usr/eventstream%-spec%.sock %(", printed)
      assert.matches("files of others need permission", printed, 1, true)
    end)
  end)

  describe("serve", function()
    it("is that of listen, raised at the script's line", function()
      local _, port = streams.serve(never)
      assert.matches("^listen: EADDRINUSE: address already in use: 127%.0%.0%.1:%d+ %(another program listens there: ",
        message_of(("app:serve { port = %d }"):format(port), app))
    end)

    it("as a script's last line ends the script with the message and exit code 1", function()
      local _, port = streams.serve(never)
      local child = streams.script(([[
        local app = require "eventstream".new()
        return app:serve { port = %d }
      ]]):format(port))
      assert.equal(1, (child:wait_exit()))
      assert.matches("listen: EADDRINUSE: address already in use: 127.0.0.1:" .. port, child.stderr, 1, true)
      assert.matches("or port = 0 for any free one", child.stderr, 1, true)
    end)
  end)

  describe("run", function()
    it("inside a callback is at the script's line", function()
      local ok, message
      app:after(0, function() ok, message = pcall(message_of, "eventstream.run()", app) end)
      net.wait(function() return message end)
      assert.is_true(ok, message)
      assert.equal("run: the loop runs already; call run once, at the script's end", message)
    end)
  end)

  describe("await", function()
    raises {
      { "eventstream.await(print)", "await: only a handler can wait (this is no handler's own coroutine)" },
      { "eventstream.await()", "await: function expected, got no value" },
    }
  end)

  describe("on the standard error", function()
    after_each(process.kill_all)

    -- Each read of such a socket gives what one write wrote.
    it("is one write, as all that a process tells: several may share a terminal or a file", function()
      local pair = assert(uv.socketpair("dgram", nil, { nonblock = true }, {}))
      local reader, writes = uv.new_pipe(false), {}
      assert(reader:open(pair[1]))
      reader:read_start(function(_, chunk) writes[#writes + 1] = chunk end)
      local child = process.spawn("sh", { "-c", 'exec "$0" bin/eventstream /dev/stdin 2>&3 <<END\n' .. [[
        local eventstream = require "eventstream"
        local app = eventstream.new()
        app:get("/fails", function() error "on purpose" end)
        app:on_answer(eventstream.access_log(io.stderr))
        app:on_answer(function() app:close() end)
        return app:serve { port = 0 }
]] .. "END", process.interpreter() }, {}, { pair[2] })
      net.wait(function() return writes[1] end)
      local url = writes[1]:match "^eventstream: listening on (%S+)/\n$"
      assert.truthy(url, writes[1])
      process.spawn("curl", { "-sS", "--noproxy", "*", url .. "/fails" }):wait_exit()
      assert.equal(0, child:wait_exit(), table.concat(writes))
      net.wait(function() return writes[3] end)
      reader:close()
      uv.fs_close(pair[2])
      assert.matches("^eventstream: [^\n]*on purpose\n$", writes[2])
      assert.matches('^127%.0%.0%.1 [^\n]* "GET /fails HTTP/1%.1" 500 [^\n]*\n$', writes[3])
      assert.equal(nil, writes[4])
    end)
  end)
end)
