--- eventstream.connect over TLS: against Node's server, with certificates that are trusted and others that are not.

local uv = require "luv"
local eventstream = require "eventstream"
local net = require "spec.support.net"
local process = require "spec.support.process"
local readers = require "spec.support.readers"
local streams = require "spec.support.streams"

local found = pcall(require, "eventstream.tls")
local openssl = process.find "openssl"

describe("eventstream.connect over TLS", function()
  if not found or not openssl or not readers.node then
    pending "needs OpenSSL and Node"
    return
  end

  local folder, server, port, source, seen

  -- A certificate of its own authority: for a subject, and for names.
  local function certificate(name, subject, names)
    local arguments = { "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=" .. subject,
      "-keyout", folder .. "/" .. name .. ".key", "-out", folder .. "/" .. name .. ".pem" }
    if names then
      arguments[#arguments + 1] = "-addext"
      arguments[#arguments + 1] = "subjectAltName=" .. names
    end
    assert.equal(0, (process.spawn(openssl, arguments):wait_exit()))
  end

  setup(function()
    folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/eventstream-XXXXXX"))
    certificate("good", "eventstream", "DNS:localhost,IP:127.0.0.1,IP:::1")
    certificate("other", "eventstream", "DNS:example.com,DNS:*.localhost")
    certificate("nameless", "localhost")
  end)

  teardown(function()
    for _, name in ipairs { "good", "other", "nameless" } do
      os.remove(folder .. "/" .. name .. ".key")
      os.remove(folder .. "/" .. name .. ".pem")
    end
    uv.fs_rmdir(folder)
  end)

  after_each(function()
    if source then source:close() end
    source = nil
    streams.finish()
  end)

  local function serve(name)
    server = process.spawn(readers.node, { "spec/support/https.mjs", folder .. "/" .. name .. ".key",
      folder .. "/" .. name .. ".pem" })
    local address
    port, address = server:wait_line "^port (%d+) (%S+)$"
    return address == "::1" and "[::1]" or address
  end

  local function connect(host, path, trusted, options)
    seen = { events = {}, errors = {} }
    options = options or {}
    options.retry, options.ca_file = 1, trusted and folder .. "/" .. trusted .. ".pem"
    options.on_event = function(event) seen.events[#seen.events + 1] = event end
    options.on_error = function(message, seconds) seen.errors[#seen.errors + 1] = { message, seconds and true } end
    source = eventstream.connect(("https://%s:%d%s"):format(host, port, path), options)
  end

  it("reads, follows, and comes back with the last id", function()
    serve "good"
    connect("localhost", "/moved", "good")
    net.wait(function() return #seen.events >= 3 end, function() return (seen.errors[1] or {})[1] end)
    assert.equal("one two one", seen.events[1].data .. " " .. seen.events[2].data .. " " .. seen.events[3].data)
    server:wait_line "^asked /moved none localhost$" -- who is asked for is told in the handshake
    server:wait_line "^asked /events none localhost$"
    server:wait_line "^asked /events 1 localhost$"
    assert.same({ "the stream ended", true }, seen.errors[1])
  end)

  it("by an address, which is no name to be told", function()
    local address = serve "good"
    connect(address, "/events", "good")
    net.wait(function() return seen.events[1] end, function() return (seen.errors[1] or {})[1] end)
    server:wait_line "^asked /events none none$"
  end)

  it("takes megabytes", function()
    serve "good"
    connect("localhost", "/large", "good")
    net.wait(function() return #seen.events == 200 end)
    for _, event in ipairs(seen.events) do assert.equal(40000, #event.data) end
  end)

  it("takes no cut for an end", function()
    serve "good"
    connect("localhost", "/cut", "good")
    net.wait(function() return seen.errors[1] end)
    assert.equal("tls: the connection was cut", seen.errors[1][1])
  end)

  for _, case in ipairs {
    { "of an authority that is not trusted", "good", "localhost", nil, "self%-signed certificate" },
    { "of another authority than the given one", "good", "localhost", "other", "self%-signed certificate" },
    { "for another host", "other", "localhost", "other", "hostname mismatch" },
    { "that has the host for its subject only", "nameless", "localhost", "nameless", "hostname mismatch" },
    { "for another address", "other", "127.0.0.1", "other", "IP address mismatch" },
  } do
    it("refuses a certificate " .. case[1], function()
      local address = serve(case[2])
      connect(case[3] == "127.0.0.1" and address or case[3], "/events", case[4])
      net.wait(function() return seen.errors[1] end)
      assert.matches("^tls: the certificate is not trusted: " .. case[5], seen.errors[1][1])
      assert.equal(0, #seen.events)
      assert.equal(1, #server.lines) -- it was asked for nothing
    end)
  end

  it("says what a server that speaks no TLS is", function()
    local _
    _, port = net.serve(function(a) a:stream("/", function(s) s:send "x" end) end)
    connect("127.0.0.1", "/", "good")
    net.wait(function() return seen.errors[1] end)
    assert.matches("^tls: ", seen.errors[1][1])
  end)

  it("ends, when Lua does, whatever is under way", function()
    serve "good"
    local child = process.lua { "-e", ([[
      local eventstream = require "eventstream"
      local function connect(path)
        return eventstream.connect("https://localhost:%s" .. path, { ca_file = "%s/good.pem", retry = 1,
          on_event = function() os.exit(7, true) end })
      end
      for _ = 1, 5 do connect "/large" end
      eventstream.run()
    ]]):format(port, folder) }
    assert.equal(7, (child:wait_exit()))
    assert.equal("", child.stderr)
  end)
end)
