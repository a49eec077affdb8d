--- The documents' lines that are not Lua: the README's first session at a shell, what is said to `eventstream tail`,
--- and the lines for a browser do what they say.

local eventstream = require "eventstream"
local net = require "spec.support.net"
local pages = require "spec.support.pages"
local process = require "spec.support.process"
local readers = require "spec.support.readers"
local uv = require "luv"

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local README = contents "README.md"

describe("README.md", function()
  local folder

  before_each(function() folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/shell-XXXXXX")) end)

  after_each(function()
    process.kill_all()
    net.finish()
    process.spawn("rm", { "-rf", folder }):wait_exit()
  end)

  local function write(name, text)
    local path = folder .. "/" .. name
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return path
  end

  -- What is printed is what is shown, but for its numbers, names of days and months, and the port.
  local function like(line)
    line = line:gsub("%p", "%%%0"):gsub("%u%l%l ", "%%u%%l%%l ")
    return "^" .. line:gsub("%d+", "%%d+") .. "$"
  end

  it("has a first session that goes as it is shown", function()
    local script, session = README:match "\n```lua\n(.-)\n```\n\n(    %$.-)\n\n%S"
    local changed
    script, changed = script:gsub("port = 8080", "port = 0")
    assert.equal(1, changed)
    local command, server_lines, url, client_lines =
      session:match "^    %$ lua5%.4 (%S+) &\n(.-)    %$ curl %-N (%S+)\n(.*)$"
    local server = process.lua { write(command, script) }
    for line in server_lines:gmatch "    ([^\n]+)" do server:wait_line(like(line)) end
    local port = server.stderr:match ":(%d+)/"
    local client = process.spawn("curl", { "-sN", "--noproxy", "*", (url:gsub("8080", port)) })
    local count = 0
    for line in (client_lines .. "\n"):gmatch "([^\n]*)\n" do
      count = count + 1
      local text = line:gsub("^    ", "")
      client:wait_line(like(text))
    end
    assert.is_true(count > 5)
    local shown, printed = client_lines:gsub("    ", ""), client.stdout
    for line in (shown .. "\n"):gmatch "([^\n]*)\n" do -- and nothing else
      local first, rest = printed:match "^([^\n]*)\n(.*)$"
      assert.matches(like(line), first)
      printed = rest
    end
  end)

  -- Every line of the documents that runs `eventstream tail`, with other programs in the place of those that it names.
  for _, name in ipairs { "README.md", "docs/command.md" } do
    for line in contents(name):gmatch "\n    (eventstream tail [^\n]+)" do
      if not line:find " URL" then
        it("is right about: " .. line, function()
          local _, port = net.serve(function(app)
            app:stream("/:name", function(stream)
              if stream.last_event_id then return stream:reject(204) end -- and the command ends
              for i = 1, 10 do stream:send { id = i, event = "headline", data = "text " .. i } end
            end)
          end, { retry = 100 })
          for _, program in ipairs { "jq", "logger", "notify-send" } do
            write(program, ("#!/bin/sh\ncat\nfor word; do printf '%%s|' \"$word\"; done; echo '%s'\n"):format(program))
          end
          local command = process.interpreter() .. " " .. uv.cwd() .. "/bin/eventstream"
          write("eventstream", ("#!/bin/sh\nexec %s \"$@\"\n"):format(command))
          process.spawn("sh", { "-c", "chmod +x " .. folder .. "/*" }):wait_exit()
          local text, changed = line:gsub("https?://[%w.:]+", "http://127.0.0.1:" .. port)
          assert.equal(1, changed)
          local child = process.spawn("sh", { "-c", text }, { PATH = folder .. ":" .. os.getenv "PATH" })
          local printed = line:find("--json", 1, true) and '^{.*"data":"text %d".*}$'
            or line:find("logger", 1, true) and "^text %d%%-t|news|logger$" or "^text %d|notify%%-send$"
          for i = 1, 10 do child:wait_line(printed:format(i)) end
          if line:find("jq", 1, true) then child:wait_line "^%-r|%.data|jq$" end
          assert.equal(0, (child:wait_exit()))
        end)
      end
    end
  end
end)

describe("README.md in a browser", function()
  if not readers.chromium then return pending "needs chromium" end

  local app

  lazy_setup(pages.launch)
  lazy_teardown(pages.quit)
  after_each(function()
    pages.finish()
    app:close()
  end)

  local function page_of(define)
    local loads = { count = 0 }
    app = eventstream.new()
    app:get("/", function()
      loads.count = loads.count + 1
      return 200, pages.PAGE, { ["Content-Type"] = "text/html" }
    end)
    define()
    return pages.open(assert(app:listen { port = 0 }).port), loads
  end

  it("hears the clock", function()
    local code = README:match "In a browser: `([^`]+)`"
    local page = page_of(function()
      app:stream("/clock", function(stream)
        stream:send { event = "tick", data = "now" }
        stream:hold()
      end)
    end)
    page:evaluate("console.log = (text) => report({ said: text }); void " .. code)
    page:wait_report { said = "now" }
  end)

  it("loads the page anew after a gap", function()
    local code = README:match "\n    (new EventSource%b()[^\n]+gap[^\n]+)\n"
    local page, loads = page_of(function()
      app:stream("/news", function(stream)
        stream:subscribe(app:channel "news", { since = "of another time" })
        stream:hold()
      end)
    end)
    page:evaluate("void " .. code)
    net.wait(function() return loads.count == 2 end, "the page to be loaded again", 30)
  end)
end)
