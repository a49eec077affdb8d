--- A stream for those who carry a signed token (JWT, RFC 7519), in a cookie or in the address. It ends when that does.
-- Needs:   a JWT library, prosody's util.jwt (on Debian in the package prosody), and a secret.
-- Run it:  SECRET=$(openssl rand -hex 32) lua examples/signed.lua         (another port: PORT=9000)
-- See it:  open http://127.0.0.1:8080/, or
--   curl -c jar -d name=Ada http://127.0.0.1:8080/login
--   curl -N -b jar http://127.0.0.1:8080/news
--   curl -N "http://127.0.0.1:8080/news?ticket=$(curl -sb jar -X POST http://127.0.0.1:8080/ticket)"

package.path, package.cpath = package.path .. ";/usr/lib/prosody/?.lua", package.cpath .. ";/usr/lib/prosody/?.so"
local eventstream = require "eventstream"
local jwt = require "util.jwt" -- HS256 and nothing else: who may choose the algorithm, may choose "none"

local SECRET = os.getenv "SECRET" or ""
assert(#SECRET >= 32, "SECRET must have 32 characters or more: SECRET=$(openssl rand -hex 32)")

-- No script can read a session's cookie. A ticket, in an address and so in logs, is for the stream alone, and short.
local SECONDS = { session = tonumber(os.getenv "SESSION" or 3600), ticket = tonumber(os.getenv "TICKET" or 60) }
local COOKIE = "session=%s; HttpOnly; SameSite=Strict; Path=/; Max-Age=%d" -- and behind TLS: Secure

local app = eventstream.new { retry = 500, channels = { news = { history = 100 } } }
local function sign(use, name)
  return jwt.sign(SECRET, { sub = name, aud = use, exp = os.time() + SECONDS[use] })
end

-- A 401 ends a browser's EventSource for good, which is right: with the same token it would get another one.
app:before(function(request)
  local ticket = request.path == "/news" and request.query.ticket
  local ok, claims = jwt.verify(SECRET, ticket or request.cookies.session or "")
  local good = ok and claims.aud == (ticket and "ticket" or "session") and (claims.exp or 0) > os.time()
  request.claims = good and claims or nil
  if not good and request.path ~= "/" and request.path ~= "/login" then return 401, "sign in first\n" end
end)

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local page = assert(io.open(folder .. "signed.html", "rb")):read "*a"
app:get("/", function() return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" } end)

app:post("/login", function(request) -- stands for whatever finds out who somebody is
  local name = request.body:match "^name=(%w+)$"
  if not name then return 400, "name=Ada\n" end
  return 204, nil, { ["Set-Cookie"] = COOKIE:format(sign("session", name), SECONDS.session) }
end)
app:post("/ticket", function(request)
  return 200, sign("ticket", request.claims.sub), { ["Cache-Control"] = "no-store" }
end)

app:stream("/news", function(stream, request)
  stream:expire(request.claims.exp - os.time())
  stream:send { event = "hello", data = request.claims.sub }
  stream:subscribe "news"
end)

local count = 0
app:every(1, function()
  count = count + 1
  app:channel("news"):publish("news " .. count)
end)

return app:serve { port = tonumber(os.getenv "PORT" or 8080) }
