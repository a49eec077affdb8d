--- examples/signed.lua: who has a token sees the stream, as long as the token is good, and nobody else does.

local net = require "spec.support.net"
local pages = require "spec.support.pages"
local process = require "spec.support.process"
local readers = require "spec.support.readers"
local uv = require "luv"

local SECRET = ("0123456789abcdef"):rep(4)

-- Where Debian's package has it, or where tools/unpack prosody unpacked that. Its C modules are Lua 5.4's.
local function find_library()
  if _VERSION ~= "Lua 5.4" then return end
  for _, folder in ipairs { "build/prosody/usr/lib/prosody", "/usr/lib/prosody" } do
    if uv.fs_stat(folder .. "/util/jwt.lua") then return folder end
  end
end

local folder = find_library()

local server, port

local function start(changes)
  local env = { PORT = "0", SECRET = SECRET, LUA_PATH = folder .. "/?.lua;" .. os.getenv "LUA_PATH",
    LUA_CPATH = folder .. "/?.so;" .. os.getenv "LUA_CPATH" }
  for name, value in pairs(changes or {}) do env[name] = value end
  server = pages.start({ "examples/signed.lua" }, env)
  port = tonumber(server.port)
end

describe("signed.lua", function()
  if _VERSION ~= "Lua 5.4" then return end
  if not folder then return pending "is for those with a token (util.jwt is not there: tools/unpack prosody)" end

  after_each(function()
    pages.finish()
    net.finish()
  end)

  local function ask(method, path, cookie, body)
    local client = net.connect(port):request(method, path, cookie and { "Cookie: session=" .. cookie } or nil, body)
    client:wait "\r\n\r\n"
    local status, headers, text = client:take()
    client:close()
    return status, text, headers
  end

  local function sign_in()
    local status, _, headers = ask("POST", "/login", nil, "name=Ada")
    assert.equal(204, status)
    local token, attributes = headers["set-cookie"]:match "^session=([^;]+); (.*)$"
    return token, attributes
  end

  local function ticket_of(session)
    local status, ticket, headers = ask("POST", "/ticket", session)
    assert.equal(200, status)
    assert.equal("no-store", headers["cache-control"])
    return ticket
  end

  local function follow(path, cookie)
    return net.connect(port):get(path, cookie and { "Cookie: session=" .. cookie } or nil)
  end

  -- A token as somebody else would make it, by the library of the server's.
  local function forge(secret, claims, change)
    local code = ([[
      local jwt = require "util.jwt"
      local token = jwt.sign(%q, { %s })
      %s
      print(token)]]):format(secret, claims, change or "")
    local plain = os.getenv "PLAIN_LUA" or process.interpreter() -- what it leaks is not ours
    local maker = process.spawn(plain, { "-e", code },
      { LUA_PATH = folder .. "/?.lua;;", LUA_CPATH = folder .. "/?.so;;" })
    assert.equal(0, (maker:wait_exit()), maker.stderr)
    return maker.lines[1]
  end

  it("keeps out who has no token, and shows the page where one is given", function()
    start()
    for _, case in ipairs { { "GET", "/news" }, { "POST", "/ticket" }, { "GET", "/elsewhere" } } do
      assert.equal(401, (ask(case[1], case[2])), case[2])
    end
    local status, body = ask("GET", "/")
    assert.equal(200, status)
    assert.matches("<title>signed</title>", body)
    assert.equal(400, (ask("POST", "/login", nil, "name=A;da")))
  end)

  it("streams by the cookie, which no script can read and no other site sends", function()
    start()
    local session, attributes = sign_in()
    assert.equal("HttpOnly; SameSite=Strict; Path=/; Max-Age=3600", attributes)
    local client = follow("/news", session)
    client:wait "event: hello\ndata: Ada\n"
    client:wait "data: news %d"
  end)

  it("streams by a ticket, which is good for nothing else", function()
    start()
    local session = sign_in()
    local ticket = ticket_of(session)
    follow("/news?ticket=" .. ticket):wait "event: hello\ndata: Ada\n"
    assert.equal(401, (ask("POST", "/ticket?ticket=" .. ticket)))
    assert.equal(401, (ask("POST", "/ticket", ticket)))
    assert.equal(401, (ask("GET", "/news", ticket)))
    assert.equal(401, (ask("GET", "/news?ticket=" .. session)))
  end)

  it("takes no token that it did not sign, or that is over", function()
    start()
    local good = 'sub = "Ada", aud = "session", exp = os.time() + 60'
    follow("/news", forge(SECRET, good)):wait "data: Ada\n"
    local none = [[token = require "util.encodings".base64.encode '{"alg":"none"}':gsub("=", "")]]
    for name, token in pairs {
      ["another secret"] = forge("x" .. SECRET, good),
      ["over"] = forge(SECRET, 'sub = "Ada", aud = "session", exp = os.time()'),
      ["without an end"] = forge(SECRET, 'sub = "Ada", aud = "session"'),
      ["of another use"] = forge(SECRET, 'sub = "Ada", aud = "other", exp = os.time() + 60'),
      ["without an algorithm"] = forge(SECRET, good, none .. [[ .. token:match "%..*%." ]]),
      ["without a signature"] = forge(SECRET, good, [[token = token:match "^.*%."]]),
      ["with another's claims"] = forge(SECRET, good,
        [[token = token:match "^[^.]*%." .. jwt.sign("y", { sub = "Eve", aud = "session", exp = os.time() + 60 })
          :match "%.(.*%.)" .. token:match "[^.]*$"]]),
      ["garbage"] = "a.b.c",
    } do
      assert.equal(401, (ask("GET", "/news", token)), name)
    end
  end)

  it("ends a stream when its token is over, and lets it in no more", function()
    start { SESSION = "2" }
    local session = sign_in()
    local client = follow("/news", session)
    client:wait "data: Ada\n"
    client:wait_end()
    assert.matches("0\r\n\r\n$", client.received)
    assert.equal(401, (ask("GET", "/news", session)))
  end)

  it("says what it lacks", function()
    local without = process.spawn(process.interpreter(), { "examples/signed.lua" },
      { SECRET = "short", LUA_PATH = folder .. "/?.lua;" .. os.getenv "LUA_PATH",
        LUA_CPATH = folder .. "/?.so;" .. os.getenv "LUA_CPATH" })
    assert.equal(1, (without:wait_exit()))
    assert.matches("SECRET must have 32 characters", without.stderr)
  end)
end)

describe("signed.lua in a browser", function()
  if _VERSION ~= "Lua 5.4" or not folder then return end
  if not readers.chromium then return pending "goes on over tickets (chromium is not installed)" end
  lazy_setup(pages.launch)
  lazy_teardown(pages.quit)
  after_each(pages.finish)

  local LINES = [[[...document.querySelectorAll("#news li")].map(line => line.textContent)]]

  local function sign_in_by(use)
    local page = pages.open(server.port)
    page:evaluate(([[document.getElementById("use").value = %q; document.getElementById("form").requestSubmit()]])
      :format(use))
    return page
  end

  it("goes on from where it was when a ticket is over", function()
    start { TICKET = "2" }
    local page = sign_in_by "ticket"
    page:wait(LINES .. ".length > 6")
    local last
    local newest_first = page:evaluate(LINES)
    for i = #newest_first, 1, -1 do
      local number = tonumber(newest_first[i]:match "^news (%d+)$")
      assert(number and (not last or number == last + 1), table.concat(newest_first, ", "))
      last = number
    end
  end)

  it("is signed out when its session is over", function()
    start { SESSION = "3" }
    local page = sign_in_by "session"
    page:wait [[document.getElementById("state").textContent === "signed in as Ada"]]
    page:wait [[document.getElementById("state").textContent === "signed out"]]
  end)
end)
