--- What app:stats() counts of channels.

local net = require "spec.support.net"
local channels = require "spec.support.channels"

local hub, join, publish = channels.hub, channels.join, channels.publish

describe("app:stats", function()
  after_each(channels.finish)

  it("counts what was published, once however many get it", function()
    local app, port = hub()
    join(port)
    join(port)
    publish(app:channel "news", 5)
    app:channel("weather"):publish "x"
    assert.equal(6, app:stats().published)
  end)

  it("does not count what could not be published", function()
    local app = hub()
    local news = app:channel "news"
    pcall(news.publish, news, {})
    news:close()
    news:publish "x"
    assert.equal(0, app:stats().published)
  end)

  it("counts the events that were sent to each", function()
    local app, port = hub()
    local one, other = join(port), join(port)
    publish(app:channel "news", 5)
    app:streams()[1]:send "x"
    for _, client in ipairs { one, other } do channels.wait_data(client, "5") end
    net.wait(function() return app:stats().events == 11 end, "11 events")
  end)

  it("counts the events of a replay", function()
    local app, port = hub()
    local ids = publish(app:channel "news", 50)
    channels.wait_data(join(port, "/", ids[10]), "50")
    assert.equal(40, app:stats().events)
  end)

  it("counts the bytes that left", function()
    local app, port = hub()
    local client = join(port)
    publish(app:channel "news", 50)
    channels.wait_data(client, "50")
    net.wait(function() return app:stats().bytes_out == #client.received end)
  end)

  it("counts resumes and gaps, one for each channel", function()
    local app, port = hub { channels = { a = { history = 1 }, b = { history = 1 } } }
    local first = app:channel("c"):publish "c1"
    for _, name in ipairs { "a", "b" } do publish(app:channel(name), 3) end
    join(port, "/?to=a,b,c")
    local function counted() return { app:stats().resumes, app:stats().gaps } end
    assert.same({ 0, 0 }, counted())
    join(port, "/?to=a,b,c", first)
    assert.same({ 1, 2 }, counted())
    join(port, "/?to=c,d", "never")
    assert.same({ 1, 4 }, counted())
  end)

  it("tells how many channels there are", function()
    local app, port = hub()
    local held = app:channel "held"
    publish(app:channel "kept", 1)
    join(port, "/?to=heard")
    collectgarbage()
    collectgarbage()
    assert.equal(3, app:stats().channels)
    held:close()
    assert.equal(2, app:stats().channels)
  end)

  it("tells how many subscriptions there are", function()
    local app, port = hub()
    local one = join(port, "/?to=a,b")
    join(port, "/?to=a")
    assert.equal(3, app:stats().subscribers)
    app:streams()[1]:unsubscribe "a"
    assert.equal(2, app:stats().subscribers)
    one:close()
    net.wait(function() return app:stats().subscribers < 2 end)
    app:channel("a"):close()
    app:channel("b"):close()
    assert.equal(0, app:stats().subscribers)
  end)

  it("has whole numbers only", function()
    for name, value in pairs(hub():stats()) do
      assert.matches("^%d+$", tostring(value), name)
    end
  end)
end)
