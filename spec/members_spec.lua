--- Who is there: names that streams give when they subscribe, channel:members(), and the backplane that knows those of
--- other processes.

local net = require "spec.support.net"
local channels = require "spec.support.channels"
local eventstream = require "eventstream"

local join = channels.join

-- A stream at / subscribes to what the query names, as a member.
local function hub(options)
  return channels.hub(options, function(stream, request)
    local names = {}
    for name in request.query.to:gmatch "[^,]+" do names[#names + 1] = name end
    stream.data = request.query.name
    return stream:subscribe(names, { member = request.query.name })
  end)
end

local function wait_members(channel, names)
  net.wait(function() return table.concat(channel:members(), " ") == names end, "the members " .. names)
end

describe("channel:members", function()
  after_each(channels.finish)

  it("are those who gave a name, sorted, each name once", function()
    local app, port = hub()
    local room = app:channel "room"
    assert.same({}, room:members())
    for _, name in ipairs { "cleo", "ada", "bob", "ada" } do join(port, "/?to=room&name=" .. name) end
    join(port, "/?to=room")
    assert.same({ "ada", "bob", "cleo" }, room:members())
  end)

  it("are each channel's own", function()
    local app, port = hub()
    join(port, "/?to=a,b&name=ada")
    join(port, "/?to=b&name=bob")
    assert.same({ { "ada" }, { "ada", "bob" }, {} },
      { app:channel("a"):members(), app:channel("b"):members(), app:channel("c"):members() })
  end)

  it("hold already in on_subscribe, and hold no more in on_unsubscribe", function()
    local app, port = hub()
    local seen = {}
    local function note(channel) seen[#seen + 1] = table.concat(channel:members(), " ") end
    app:on_subscribe(note)
    app:on_unsubscribe(note)
    local ada = join(port, "/?to=room&name=ada")
    join(port, "/?to=room&name=bob")
    ada:close()
    net.wait(function() return #seen == 3 end, "who left")
    assert.same({ "ada", "ada bob", "bob" }, seen)
  end)

  it("leave with the last stream of their name", function()
    local app, port = hub()
    local room = app:channel "room"
    local first, second = join(port, "/?to=room&name=ada"), join(port, "/?to=room&name=ada")
    first:close()
    channels.wait_stat(app, "streams", 1)
    assert.same({ "ada" }, room:members())
    second:close()
    wait_members(room, "")
  end)

  it("leave with unsubscribe, and with channel:close", function()
    local app, port = hub()
    local room, other = app:channel "room", app:channel "other"
    join(port, "/?to=room,other&name=ada")
    room:streams()[1]:unsubscribe(room)
    wait_members(room, "")
    assert.same({ "ada" }, other:members())
    other:close()
    wait_members(app:channel "other", "")
  end)

  it("are asked for with a colon, and named by text", function()
    local app, port = hub()
    assert.error_matches(function() app:channel("room").members() end, "members: call it with a colon")
    local message
    app:stream("/wrong", function(stream)
      message = select(2, pcall(stream.subscribe, stream, "room", { member = {} }))
      stream:close()
    end)
    net.connect(port):get "/wrong":wait "retry"
    assert.matches("subscribe: member must be ", message)
  end)

  it("cannot look like two, or like nobody", function()
    local app, port = hub()
    local messages = {}
    app:stream("/wrong", function(stream)
      for _, name in ipairs { "a\nb", "a\0b", "" } do
        messages[#messages + 1] = select(2, pcall(stream.subscribe, stream, "room", { member = name }))
      end
      stream:close()
    end)
    net.connect(port):get "/wrong":wait "retry"
    for i, shown in ipairs { "a\\x0Ab", "a\\x00b", "" } do
      assert.matches("subscribe: member must be a string that is not empty, without control characters, not '" .. shown
        .. "'", messages[i], 1, true)
    end
    assert.same({}, app:channel "room":members())
  end)
end)

describe("a stream that comes back within a callback", function()
  after_each(channels.finish)

  it("has its name also where the channel was closed meanwhile", function()
    local app, port = hub()
    app:stream("/closed", function(stream)
      stream:subscribe("room", { member = "old" })
      app:channel("room"):close()
      stream:subscribe("room", { member = "new" })
    end)
    join(port, "/closed")
    channels.wait_stat(app, "subscribers", 1)
    assert.same({ "new" }, app:channel("room"):members())
  end)

  it("has the name that it gave last, or none", function()
    local app, port = hub()
    app:stream("/again", function(stream, request)
      stream:subscribe("room", { member = "first" })
      stream:unsubscribe "room"
      stream:subscribe("room", { member = request.query.name })
    end)
    local room = app:channel "room"
    local ada = join(port, "/again?name=ada")
    assert.same({ "ada" }, room:members())
    join(port, "/again")
    assert.same({ "ada" }, room:members())
    ada:close()
    wait_members(room, "")
  end)
end)

describe("app:on_members", function()
  after_each(channels.finish)

  it("is called when somebody who gave a name came or went, once for all of a moment", function()
    local app, port = hub()
    local seen = {}
    app:on_members(function(channel) seen[#seen + 1] = channel.name .. " " .. table.concat(channel:members(), " ") end)
    app:stream("/both", function(stream)
      stream:subscribe("room", { member = "x" })
      stream:unsubscribe "room"
      stream:subscribe("room", { member = "ada" })
    end)
    join(port, "/?to=room") -- who gives no name is not there
    local ada = join(port, "/both")
    net.wait(function() return #seen == 1 end, "who came")
    join(port, "/?to=room&name=bob")
    net.wait(function() return #seen == 2 end, "who came then")
    ada:close()
    net.wait(function() return #seen == 3 end, function() return table.concat(seen, "; ") end)
    assert.same({ "room ada", "room ada bob", "room bob" }, seen)
  end)

  it("sends to those who are there, and its errors cost nothing", function()
    local app, port = hub()
    app:on_members(function() error "on purpose" end)
    app:on_members(function(channel)
      for _, stream in ipairs(channel:streams()) do stream:send(table.concat(channel:members(), " ")) end
    end)
    local ada = join(port, "/?to=room&name=ada")
    ada:wait "data: ada\n"
    join(port, "/?to=room&name=bob"):wait "data: ada bob\n"
    ada:wait "data: ada bob\n"
    for _, failure in ipairs { channels.errors(app, 2) } do assert.matches("on purpose", failure.message) end
  end)

  it("is called for a channel that the last one has left, though nobody keeps it", function()
    local app, port = hub { channels = { room = { history = 0 } } }
    local seen = {}
    app:on_members(function(channel) seen[#seen + 1] = channel.name .. ":" .. table.concat(channel:members(), " ") end)
    app:on_unsubscribe(function() collectgarbage() end)
    local ada = join(port, "/?to=room&name=ada")
    net.wait(function() return #seen == 1 end, "who came")
    ada:close()
    net.wait(function()
      collectgarbage()
      return #seen == 2
    end, "who left")
    assert.same({ "room:ada", "room:" }, seen)
  end)

  it("is not called for a channel that is closed, nor by an app that is", function()
    local app, port = hub()
    local called = 0
    app:on_members(function() called = called + 1 end)
    join(port, "/?to=room&name=ada")
    net.wait(function() return called == 1 end)
    app:channel("room"):close()
    join(port, "/?to=other&name=ada")
    net.wait(function() return called == 2 end)
    app:close { grace = 0 }
    net.wait(function() return app:stats().streams == 0 end)
    local fresh, other = hub()
    local done
    fresh:on_members(function() done = true end)
    join(other, "/?to=room&name=bob")
    net.wait(function() return done end) -- later than anything of the first one
    assert.equal(2, called)
  end)
end)

describe("a backplane", function()
  after_each(channels.finish)

  it("is attached to its app, and tells who is there in other processes", function()
    local told, attached = {}, nil
    local backplane = {}
    function backplane.attach(self, app)
      assert.equal(backplane, self)
      attached = app
      return {
        tell_members = function(_, name) told[#told + 1] = name end,
        collect = function(_, name, set) set[name .. "'s zoe"] = true end,
      }
    end
    local app, port = hub { backplane = backplane }
    assert.equal(app, attached)
    join(port, "/?to=room&name=ada"):close()
    net.wait(function() return #told == 2 end, "what is told")
    assert.same({ "room", "room" }, told)
    assert.same({ "room's zoe" }, app:channel("room"):members())
  end)

  it("is an object with a method attach", function()
    for _, wrong in ipairs { 1, "redis", {}, { attach = 1 } } do
      assert.error_matches(function() eventstream.new { backplane = wrong } end, "^new: backplane must be ")
    end
  end)
end)
