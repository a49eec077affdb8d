--- Each example as a newcomer meets it: run as it stands, seen by the curl line of its head comment, ended by Ctrl-C.

local uv = require "luv"
local json = require "dkjson"
local examples = require "spec.support.examples"
local process = require "spec.support.process"

local contents, curl, start = examples.contents, examples.curl, examples.start
local has_cjson = pcall(require, "cjson.safe")

local function interrupt(server)
  examples.interrupt(server, server.name == "with_luv.lua") -- there, its programs write too
end

describe("examples", function()
  after_each(process.kill_all)

  for name in function(scan) return (uv.fs_scandir_next(scan)) end, uv.fs_scandir "examples" do
    if name:match "%.lua$" then
      it(name .. " has fewer than 60 lines, and says how to run and see it", function()
        local text = contents("examples/" .. name)
        local _, lines = text:gsub("\n", "")
        assert.is_true(lines < 60, lines .. " lines")
        local comment = text:match "^(%-%-.-\n)\n"
        assert.matches("lua examples/" .. name, comment, 1, true)
        assert.matches("curl %-N [^\n]*http://127%.0%.0%.1:8080/", comment)
      end)
    end
  end

  describe("ping.lua", function()
    it("sends the time twice a second under the reference's headers, and logs who leaves", function()
      local server = start "ping.lua"
      local client = curl(server, "-i")
      client:wait_line "^HTTP/1%.1 200 OK\r$"
      local times = {}
      for i = 1, 5 do
        local id = client:wait_line "^id: (%d+)$"
        client:wait_line "^event: ping$"
        assert.equal(id, client:wait_line "^data: (%d+)$")
        times[i] = tonumber(id)
      end
      local took = times[5] - times[1] -- four intervals of 0.5 s, in whole seconds
      assert.is_true(took >= 1 and took <= 4, took .. " s")
      assert.is_true(math.abs(times[1] - os.time()) < 60)

      local head, body = client.stdout:match "^(.-\r\n)\r\n(.*)$"
      for _, header in ipairs { "Content-Type: text/event-stream", "Cache-Control: no-cache", "Connection: keep-alive",
        "Access-Control-Allow-Origin: *" } do
        assert.matches("\n" .. header:lower(), head:lower(), 1, true)
      end
      assert.matches("\n\ndata: welcome\n\n", body, 1, true)

      client:kill()
      client:wait_exit()
      server:wait_line "left after %d+ s %(client%)$"
      interrupt(server)
    end)

    it("serves its page at /", function()
      local server = start "ping.lua"
      local client = process.spawn("curl", { "-sSi", "--noproxy", "*", ("http://127.0.0.1:%s/"):format(server.port) })
      assert.equal(0, client:wait_exit())
      local head, body = client.stdout:match "^(.-\r\n)\r\n(.*)$"
      assert.matches("content%-type: text/html; charset=utf%-8\r\n", head:lower())
      assert.equal(contents "examples/ping.html", body)
      interrupt(server)
    end)

    it("ends its streams in order at Ctrl-C", function()
      local server = start "ping.lua"
      local client = curl(server)
      client:wait_line "^event: ping$"
      interrupt(server)
      assert.equal(0, client:wait_exit(), client.stderr) -- curl got the last chunk
      assert.matches("left after %d+ s %(server%)", server.stdout)
    end)
  end)

  describe("tokens.lua", function()
    it("says what to install where lua-cjson is missing", function()
      local code = "package.preload['cjson.safe'] = function() error 'absent' end dofile 'examples/tokens.lua'"
      local server = process.lua({ "-e", code }, { PORT = "0" })
      assert.equal(1, server:wait_exit())
      assert.matches("luarocks install lua-cjson", server.stderr, 1, true)
    end)

    if not has_cjson then return pending "answers a prompt (lua-cjson is not installed)" end

    it("answers a prompt token by token, then says that it is done", function()
      local server = start "tokens.lua"
      local client = curl(server)
      local answer, count = "", 0
      local line = client:wait_line "^data: (.*)$"
      while json.decode(line).token do
        answer, count = answer .. json.decode(line).token, count + 1
        line = client:wait_line "^data: (.*)$"
      end
      assert.matches('^You wrote "hello"%. ', answer)
      assert.is_true(count > 20)
      assert.same({ tokens = count }, json.decode(line))
      assert.equal(0, client:wait_exit())
      assert.matches("\nevent: done\ndata: [^\n]*\n\n$", client.stdout)
      server:wait_line("^" .. count .. " tokens sent %(server%)$")
      interrupt(server)
    end)

    it("stops at a client that leaves", function()
      local server = start "tokens.lua"
      local client = curl(server)
      client:wait_line "^data: "
      client:kill()
      server:wait_line "^%d+ tokens sent %(client%)$"
      interrupt(server)
    end)

    for _, body in ipairs { "hello", "[]", '{"prompt": 1}', "null" } do
      it("answers 400 to the body " .. body, function()
        local server = start "tokens.lua"
        local client = process.spawn("curl", { "-sS", "--noproxy", "*", "-w", "%{http_code}", "-d", body,
          ("http://127.0.0.1:%s/tokens"):format(server.port) })
        assert.equal(0, client:wait_exit())
        assert.same({ 'the body must be JSON like {"prompt": "hello"}', "400" }, client.lines)
        interrupt(server)
      end)
    end
  end)

  describe("with_luv.lua", function()
    it("sends a program's lines", function()
      local server = start "with_luv.lua"
      local client = curl(server)
      local year = os.date "%Y"
      client:wait_line("^data: .*" .. year)
      client:wait_line("^data: .*" .. year)
      interrupt(server)
      assert.equal(0, client:wait_exit(), client.stderr)
    end)

    it("ends the stream with the program, and sends a last line that has no end", function()
      local server = start("with_luv.lua", "printf", "one\\n\\ntwo")
      local client = curl(server)
      assert.equal(0, client:wait_exit(), client.stderr)
      assert.matches("data: one\n\ndata: \n\ndata: two\n\nevent: end\ndata: printf\n\n$", client.stdout)
      interrupt(server)
    end)

    it("ends the program when its client leaves", function()
      local script = 'trap "echo ended >&2; exit" TERM; echo begun; while :; do sleep 0.05; done'
      local server = start("with_luv.lua", "sh", "-c", script)
      local client = curl(server)
      client:wait_line "^data: begun$"
      client:kill()
      server:wait_line "^ended$"
      interrupt(server)
    end)

    it("loses no line of a program that prints faster than the client reads", function()
      local server = start("with_luv.lua", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
      local client = curl(server, "--limit-rate 1M")
      assert.equal(0, client:wait_exit(), client.stderr)
      local count = 0
      for number in client.stdout:gmatch "data: line (%d+)\n\n" do
        assert.equal(count, tonumber(number))
        count = count + 1
      end
      assert.equal(20000, count)
      interrupt(server)
    end)

    it("answers 500 where the program cannot be run", function()
      local server = start("with_luv.lua", "no-such-program")
      local client = curl(server, "-i")
      client:wait_exit()
      assert.matches("^HTTP/1%.1 500 ", client.stdout)
      assert.matches("ENOENT", client.stdout, 1, true)
      interrupt(server)
    end)
  end)
end)
