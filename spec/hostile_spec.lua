-- Malformed requests, and such as two readers could understand in two ways (RFC 9112, 11.2): each with the one answer
-- that is right, whole and byte by byte. What stands behind them in doubt is never answered.
local net = require "spec.support.net"
local table_unpack = table.unpack or unpack -- luacheck: ignore

local GET, POST = "GET / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\n"
local CHUNKED = POST .. "Transfer-Encoding: chunked\r\n\r\n"
local SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

-- { what, bytes, answers ... }: a number is a status, a text the body of a good one. Where the last is "open" the
-- connection goes on, all others are closed.
local SHAPES = {
  -- Which end has the body?
  { "two lengths that differ", POST .. "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400 },
  { "two lengths that are the same", POST .. "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400 },
  { "a list of lengths", POST .. "Content-Length: 4, 4\r\n\r\nabcd", 400 },
  { "a length with a sign", POST .. "Content-Length: +4\r\n\r\nabcd", 400 },
  { "a negative length", POST .. "Content-Length: -4\r\n\r\nabcd", 400 },
  { "a length in hexadecimal", POST .. "Content-Length: 0x4\r\n\r\nabcd", 400 },
  { "a length with a space in it", POST .. "Content-Length: 4 4\r\n\r\nabcd", 400 },
  { "a length with a fraction", POST .. "Content-Length: 4.0\r\n\r\nabcd", 400 },
  { "a length with an exponent", POST .. "Content-Length: 4e0\r\n\r\nabcd", 400 },
  { "a length in letters", POST .. "Content-Length: four\r\n\r\nabcd", 400 },
  { "an empty length", POST .. "Content-Length: \r\n\r\nabcd", 400 },
  { "a length above 2^64", POST .. "Content-Length: 18446744073709551620\r\n\r\nabcd", 400 },
  { "a length just below 2^64", POST .. "Content-Length: 18446744073709551615\r\n\r\nabcd", 413 },
  { "a length with leading zeros, which is one", POST .. "Content-Length: 0004\r\n\r\nabcd", "POST / abcd", "open" },
  { "a length and chunks",
    POST .. "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks and a length",
    POST .. "Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks and a length of 0",
    POST .. "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a coding of another name", POST .. "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "gzip and chunks", POST .. "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks and gzip", POST .. "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks and identity", POST .. "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks, twice in a list", POST .. "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks, twice in lines",
    POST .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a coding and another line of it",
    POST .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks with a parameter", POST .. "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "chunks in quotes", POST .. "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "an empty coding", POST .. "Transfer-Encoding: \r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a coding behind a vertical tab", POST .. "Transfer-Encoding: \11chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a coding behind a tab, which is white space",
    POST .. "Transfer-Encoding:\tchunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "POST / abcd", "open" },
  { "a coding of HTTP/1.0",
    "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a coding's name with a space behind it", POST .. "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a length's name with a space behind it", POST .. "Content-Length : 4\r\n\r\nabcd", 400 },
  { "a coding's name with an underscore, which is another's",
    POST .. "Transfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\nabcd", "POST / abcd", "open" },
  { "a coding on a folded line", POST .. "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" .. SMUGGLED, 400 },
  { "a post without any length, which has no body", POST .. "\r\n", "POST / ", "open" },
  { "a post of HTTP/1.0 without a length", "POST / HTTP/1.0\r\n\r\nabcd", 411 },
  { "a GET with a body, and one behind it",
    GET .. "Content-Length: 4\r\n\r\nabcdGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / abcd", "GET / ", "open" },

  -- Chunks
  { "a chunk's size above 2^64", CHUNKED .. "ffffffffffffffff1\r\n" .. SMUGGLED, 400 },
  { "a chunk's size of 2^64 - 1", CHUNKED .. "ffffffffffffffff\r\nx", 413 },
  { "a negative chunk", CHUNKED .. "-1\r\n" .. SMUGGLED, 400 },
  { "a chunk's size with 0x", CHUNKED .. "0x4\r\nabcd\r\n0\r\n\r\n", 400 },
  { "a chunk's size with a space before it", CHUNKED .. " 4\r\nabcd\r\n0\r\n\r\n", 400 },
  { "a chunk's size with a space behind it", CHUNKED .. "4 \r\nabcd\r\n0\r\n\r\n", 400 },
  { "an empty chunk's size", CHUNKED .. "\r\nabcd\r\n0\r\n\r\n", 400 },
  { "a chunk's size that ends with LF alone", CHUNKED .. "4\nabcd\r\n0\r\n\r\n", 400 },
  { "a chunk's size that ends with CR alone", CHUNKED .. "4\rabcd\r\n0\r\n\r\n", 400 },
  { "a chunk without its end", CHUNKED .. "4\r\nabcd0\r\n\r\n", 400 },
  { "a chunk that ends with LF alone", CHUNKED .. "4\r\nabcd\n0\r\n\r\n", 400 },
  { "a chunk that is longer than it says", CHUNKED .. "4\r\nabcdefgh\r\n0\r\n\r\n", 400 },
  { "an extension with LF alone in it", CHUNKED .. "4;x\nabcd\r\n0\r\n\r\n", 400 },
  { "an endless extension", CHUNKED .. "4;" .. ("x"):rep(40000) .. "\r\nabcd\r\n0\r\n\r\n", 413 },
  { "an endless trailer", CHUNKED .. "4\r\nabcd\r\n0\r\nX: " .. ("x"):rep(40000) .. "\r\n\r\n", 413 },
  { "a trailer that names a length, which says nothing",
    CHUNKED .. "4\r\nabcd\r\n0\r\nContent-Length: 99\r\n\r\n", "POST / abcd", "open" },
  { "a trailer with a folded line", CHUNKED .. "0\r\nX: y\r\n z\r\n\r\n", 400 },
  { "a trailer with LF alone", CHUNKED .. "0\r\nX: y\n\r\n", 400 },
  { "a trailer that ends with LF alone", CHUNKED .. "0\r\n\n" .. SMUGGLED, 400 },
  { "a last chunk that ends with LF alone", CHUNKED .. "0\n\r\n" .. SMUGGLED, 400 },
  { "a chunk's size above the limit", CHUNKED .. "1001\r\nx", 413 },
  { "a last chunk of several zeros", CHUNKED .. "4\r\nabcd\r\n000\r\n\r\n", "POST / abcd", "open" },

  -- Line ends and white space
  { "lines that end with LF alone", "GET / HTTP/1.1\nHost: a\n\n", 400 },
  { "a header that ends with LF alone", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400 },
  { "a head that ends with LF alone", GET .. "\n" .. SMUGGLED, 400 },
  { "CR alone in a header", GET .. "X: a\rTransfer-Encoding: chunked\r\n\r\n", 400 },
  { "CR alone between headers", "GET / HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n", 400 },
  { "a folded header", GET .. "X: one\r\n two\r\n\r\n", 400 },
  { "a folded header behind a tab", GET .. "X: one\r\n\ttwo\r\n\r\n", 400 },
  { "a first header behind a space", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400 },
  { "a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400 },
  { "a tab before the colon", "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400 },
  { "a name with a space in it", GET .. "X Y: z\r\n\r\n", 400 },
  { "a header without a name", GET .. ": z\r\n\r\n", 400 },
  { "a header without a colon", GET .. "nonsense\r\n\r\n", 400 },
  { "NUL in a header", GET .. "X: a\0b\r\n\r\n", 400 },
  { "NUL in a header's name", GET .. "X\0: b\r\n\r\n", 400 },
  { "a control character in a header", GET .. "X: a\1b\r\n\r\n", 400 },
  { "DEL in a header", GET .. "X: a\127b\r\n\r\n", 400 },
  { "a parenthesis in a header's name", GET .. "X(Y): b\r\n\r\n", 400 },

  -- The request line
  { "an empty line in front, which is passed over (RFC 9112, 2.2)",
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / ", "open" },
  { "a space in front", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a tab", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 505 },
  { "no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "HTTP/0.9", "GET /\r\n\r\n", 505 },
  { "HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505 },
  { "HTTP/1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 505 },
  { "HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505 },
  { "HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505 },
  { "http in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", 400 },
  { "what is not HTTP, with a head that is", "SOURCE / ICE/1.0\r\nHost: a\r\n\r\n", 505 },
  { "another protocol", "GET / ICE/1.0\r\nHost: a\r\n\r\n", 400 },
  { "RTSP", "OPTIONS / RTSP/1.0\r\nCSeq: 1\r\n\r\n", 505 },
  { "a method in lower case", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "an unknown method", "FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a method with a raw byte", "G\195T / HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n" .. SMUGGLED, 501 },
  { "NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a control character in the target", "GET /\1 HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "LF in the target", "GET /\n HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a fragment in the target", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a raw byte in the target", "GET /\195\169 HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a target without a slash", "GET smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "an authority as the target", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "an asterisk that is not for OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "open" },
  { "an asterisk for OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 204, "open" },
  { "an asterisk and more", "OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "the absolute form", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / ", "open" },
  { "the absolute form without a path", "GET http://a?x=/smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "GET / ", "open" },
  { "the absolute form without a host", "GET http:///smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400 },
  { "a user in the absolute form", "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400 },
  { "dots, which lead nowhere else", "GET /x/../smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 404, "open" },
  { "encoded dots, which lead nowhere else", "GET /x/%2e%2e/smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 404, "open" },
  { "an encoded slash, which separates nothing", "GET /%2Fsmuggled HTTP/1.1\r\nHost: a\r\n\r\n", 404, "open" },
  { "two slashes, which are two", "GET //smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 404, "open" },
  { "an encoded NUL", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "open" },
  { "a broken escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "open" },
  { "what is encoded twice, and is decoded once", "GET /%2573muggled HTTP/1.1\r\nHost: a\r\n\r\n", 404, "open" },

  -- Host (RFC 9112, 3.2)
  { "no Host", "GET / HTTP/1.1\r\n\r\n", 400 },
  { "two Hosts", GET .. "Host: b\r\n\r\n", 400 },
  { "two Hosts that are the same", GET .. "Host: a\r\n\r\n", 400 },
  { "a list of Hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400 },
  { "a Host with a slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400 },
  { "a Host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400 },
  { "a Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400 },
  { "HTTP/1.0 without a Host, which is fine", "GET / HTTP/1.0\r\n\r\n", "GET / " },

  -- Other protocols, and what is asked for in vain
  { "a TLS client", "\22\3\1\0\165\1\0\0\161\3\3" .. ("\0"):rep(32), 400 },
  { "an SSH client", "SSH-2.0-OpenSSH_9.2\r\n", 400 },
  { "a Redis client", "*1\r\n$4\r\nPING\r\n", 400 },
  { "nonsense", ("\255\254"):rep(50), 400 },
  { "an upgrade to HTTP/2, which is not taken",
    GET .. "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
      .. "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", "GET / ", "open" },
  { "an upgrade to a WebSocket, which is not taken",
    GET .. "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
      .. "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", "GET / ", "open" },
  { "an expectation that nobody knows", POST .. "Expect: magic\r\nContent-Length: 4\r\n\r\nabcd", 417 },

  -- Sizes
  { "a target of 20,000 bytes", "GET /" .. ("x"):rep(20000) .. " HTTP/1.1\r\nHost: a\r\n\r\n", 414 },
  { "a header of 20,000 bytes", GET .. "X: " .. ("x"):rep(20000) .. "\r\n\r\n", 431 },
  { "a name of 20,000 bytes", GET .. ("x"):rep(20000) .. ": y\r\n\r\n", 431 },
  { "300 headers", GET .. ("X: y\r\n"):rep(300) .. "\r\n", 431 },
  { "a body above the limit", POST .. "Content-Length: 5000\r\n\r\n" .. SMUGGLED:rep(3), 413 },
  { "chunks above the limit", CHUNKED .. "1388\r\n" .. ("x"):rep(5000) .. "\r\n" .. SMUGGLED, 413 },

  -- What stands behind a refusal is nobody's request
  { "a good one behind a malformed one", "GET / HTTP/1.1\r\nBad\r\n\r\n" .. SMUGGLED, 400 },
  { "a malformed one behind a good one", GET .. "\r\nGET / HTTP/1.1\r\n\r\n" .. SMUGGLED, "GET / ", 400 },
  { "more than the length says", POST .. "Connection: close\r\nContent-Length: 2\r\n\r\nab" .. SMUGGLED, "POST / ab" },
}

describe("a hostile request:", function()
  local port, smuggled

  before_each(function()
    smuggled = false
    local _
    _, port = net.serve(function(app)
      local function echo(request) return request.method .. " " .. request.path .. " " .. request.body end
      app:get("/", echo)
      app:post("/", echo)
      app:get("/smuggled", function() smuggled = true end)
    end, { limits = { body_bytes = 4096 } })
  end)

  after_each(net.finish)

  local function check(client, answers)
    local open = false
    for _, wanted in ipairs(answers) do
      if wanted == "open" then
        open = true
      else
        local status, _, body = client:take()
        assert.equal(wanted, type(wanted) == "number" and status or body)
      end
    end
    if open then
      client:send "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.equal("GET / ", (select(3, client:take())))
      client:close()
    else
      assert.equal("", client:wait_end())
      assert.is_nil(client.failure)
    end
    assert.is_false(smuggled)
  end

  for _, shape in ipairs(SHAPES) do
    local answers = { table_unpack(shape, 3) }

    it(shape[1], function()
      local client = net.connect(port):send(shape[2])
      check(client, answers)
      client = net.connect(port)
      local step = #shape[2] > 2000 and 997 or 1
      for at = 1, #shape[2], step do
        if client.ended then break end
        client.handle:try_write(shape[2]:sub(at, at + step - 1))
        net.settle()
      end
      check(client, answers)
    end)
  end
end)
