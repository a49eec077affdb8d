--- The configurations of examples/proxies, each run by the proxy itself, before an app.

local net = require "spec.support.net"
local process = require "spec.support.process"
local uv = require "luv"

local FOLDER = "examples/proxies/"
local SILENCE = 2 -- seconds that the proxies wait here, where they wait 60

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

-- A port that is free now.
local function free_port()
  local socket = uv.new_tcp()
  socket:bind("127.0.0.1", 0)
  local port = socket:getsockname().port
  socket:close()
  return port
end

local function find(name)
  return process.find(name) or uv.fs_stat("/usr/sbin/" .. name) and "/usr/sbin/" .. name
end

-- How each is started on a configuration, in a folder of its own.
local PROXIES = {
  { name = "nginx", conf = "nginx.conf", arguments = function(folder, conf)
    return { "-p", folder, "-c", conf, "-g", "daemon off;" }
  end },
  { name = "haproxy", conf = "haproxy.cfg", arguments = function(folder, conf)
    return { "-C", folder, "-f", conf }
  end },
  { name = "caddy", conf = "Caddyfile", patient = true, arguments = function(_, conf)
    return { "run", "--config", conf, "--adapter", "caddyfile" }
  end },
  { name = "varnishd", conf = "varnish.vcl", plain = true, arguments = function(folder, conf, port)
    return { "-F", "-n", folder .. "/work", "-a", "127.0.0.1:" .. port, "-f", conf, "-p", "feature=+http2",
      "-p", "pipe_timeout=" .. SILENCE }
  end },
}

for _, proxy in ipairs(PROXIES) do
  describe("behind " .. proxy.name .. " #long", function()
    local program = find(proxy.name)
    if not program then return pending("streams work (" .. proxy.name .. " is not installed)") end

    local app, folder, port, secure, closed, started

    local function start(heartbeat)
      closed = {}
      local behind
      app, behind = net.serve(function(a)
        a:stream("/news", function(stream)
          stream:on_close(function(reason) closed[#closed + 1] = reason end)
          stream:subscribe "news"
        end)
        a:get("/who", function(request) return request.remote end)
      end, { heartbeat = heartbeat, trusted = { "127.0.0.1" } })
      folder = uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/proxy-XXXXXX")
      uv.fs_chmod(folder, tonumber("755", 8))
      assert.equal(0, (process.spawn("sh", { "-c", ([[cd %s &&
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem 2>&1 &&
        cat cert.pem key.pem > both.pem]]):format(folder) }):wait_exit()))
      port, secure = free_port(), free_port()
      local conf = read(FOLDER .. proxy.conf):gsub("8080", tostring(behind)):gsub("8081", tostring(port))
        :gsub("8443", tostring(secure)):gsub("%f[%d]60s", SILENCE .. "s"):gsub("%f[%w]cert%.pem", folder .. "/cert.pem")
        :gsub("%f[%w]key%.pem", folder .. "/key.pem")
      local path = folder .. "/" .. proxy.conf
      local file = assert(io.open(path, "wb"))
      file:write(conf)
      file:close()
      started = process.spawn(program, proxy.arguments(folder, path, port), { HOME = folder })
      process.wait(function() -- until it listens
        if started:exited() then error("it ended:\n" .. table.concat(started.lines, "\n"), 0) end
        local probe, answer = uv.new_tcp(), nil
        probe:connect("127.0.0.1", port, function(failure) answer = failure or "yes" end)
        while not answer do uv.run "once" end
        probe:close()
        return answer == "yes"
      end, 30, proxy.name)
    end

    after_each(function()
      net.close_clients()
      started:kill "sigterm" -- which its workers hear of, too
      started:wait_exit()
      process.kill_all()
      net.finish()
      process.spawn("rm", { "-rf", folder }):wait_exit()
    end)

    local function follow(id)
      local lines = { "Accept: text/event-stream" }
      if id then lines[2] = "Last-Event-ID: " .. id end
      local client = net.connect(port):get("/news", lines)
      client:wait "retry: %d+\n\n"
      return client
    end

    it("events arrive at once", function()
      start(0.5)
      local client, delays = follow(), {}
      for i = 1, 20 do
        local began = uv.hrtime()
        app:channel("news"):publish("number " .. i)
        client:wait("data: number " .. i .. "\n")
        delays[i] = (uv.hrtime() - began) / 1e6
      end
      table.sort(delays)
      assert(delays[10] < 50, delays[10] .. " ms") -- the half of them: single ones are the machine's
    end)

    it("a client that leaves is seen within a second", function()
      start(0.5)
      local client = follow()
      for i, leave in ipairs { "close", "reset" } do
        local began = uv.hrtime()
        client[leave](client)
        net.wait(function() return closed[i] end, "the end")
        assert.equal("client", closed[i])
        local seconds = (uv.hrtime() - began) / 1e9
        assert(seconds < 1, seconds)
        client = follow()
      end
    end)

    it("a quiet stream outlives the proxy's patience, and goes on where it was", function()
      start(0.5)
      local client, silent = follow(), uv.hrtime()
      net.wait(function() return uv.hrtime() - silent > SILENCE * 2.5e9 or client.ended end, "patience")
      app:channel("news"):publish "late"
      client:wait "data: late\n"
      local id = client.received:match "id: ([^\n]+)\ndata: late"
      client:close()
      net.wait(function() return closed[1] end, "its end")
      app:channel("news"):publish "missed"
      local again = follow(id)
      again:wait "data: missed\n"
      assert(not again.received:find("late", 1, true), again.received)
      assert.equal(1, app:stats().resumes)
    end)

    if not proxy.patient then
      it("a stream without heartbeats does not", function()
        start(false)
        follow():wait_end()
      end)
    end

    it("the app knows its client, and HTTP/2 reaches it", function()
      start(0.5)
      local who = process.spawn("curl", { "-sS", "--noproxy", "*", "--interface", "127.0.0.2",
        ("http://127.0.0.1:%d/who"):format(port) })
      assert.equal(0, (who:wait_exit()), who.stderr)
      assert.equal("127.0.0.2", who.stdout)
      local options = proxy.plain and { "--http2-prior-knowledge", ("http://127.0.0.1:%d/news"):format(port) }
        or { "--http2", "-k", ("https://127.0.0.1:%d/news"):format(secure) }
      local arguments = { "-sSN", "--noproxy", "*", "--max-time", "30", "-H", "Accept: text/event-stream", "-D", "-" }
      for _, option in ipairs(options) do arguments[#arguments + 1] = option end
      local curl = process.spawn("curl", arguments)
      curl:wait_line "^HTTP/2 200"
      curl:wait_line "^retry: "
      app:channel("news"):publish "over HTTP/2"
      curl:wait_line "^data: over HTTP/2$"
      curl:kill()
      curl:wait_exit()
      net.wait(function() return closed[1] end, "its end")
      assert.equal("client", closed[1])
    end)
  end)
end
