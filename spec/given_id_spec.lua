--- Ids that scripts give: what a client that comes back with one gets. Never a loss, perhaps a repeat.

local channels = require "spec.support.channels"

local numbers, open_hub, resumed = channels.numbers, channels.open_hub, channels.resumed

local EPOCH = ("%x"):rep(16)

local function assert_gap(app, port, id, ...)
  local result, list = resumed(app, port, id)
  assert.equal("gap", result)
  assert.same({ "gap:news", ... }, list)
end

describe("given ids", function()
  after_each(channels.finish)

  local function give(news, ...)
    for _, id in ipairs { ... } do news:publish { id = id, data = id } end
  end

  it("are found", function()
    local app, port, news = open_hub()
    give(news, "a", "b", "c", "d")
    local result, list = resumed(app, port, "b")
    assert.equal("resumed", result)
    assert.same({ "c", "d" }, list)
  end)

  it("of any bytes that a header can carry are found", function()
    local app, port, news = open_hub()
    local id = "a b,\226\130\172\255;="
    give(news, id, "next")
    assert.same({ "next" }, select(2, resumed(app, port, id)))
  end)

  it("stand for the oldest kept frame that has them: never a loss, perhaps a repeat", function()
    local app, port, news = open_hub()
    give(news, "a", "b", "a", "c", "a")
    local result, list = resumed(app, port, "a")
    assert.equal("resumed", result)
    assert.same({ "b", "a", "c", "a" }, list)
  end)

  it("stand for the oldest kept frame in any channel of the app", function()
    local app, port, news = open_hub()
    give(news, "x")
    give(app:channel "weather", "a")
    give(news, "b", "a", "c")
    local result, list = resumed(app, port, "a")
    assert.equal("resumed", result)
    assert.same({ "b", "a", "c" }, list)
  end)

  it("that come again while they are kept stand for the first, also when that is evicted", function()
    local app, port, news = open_hub { history = 3 }
    give(news, "a", "b", "c", "a")
    local result, list = resumed(app, port, "a")
    assert.equal("resumed", result)
    assert.same({ "b", "c", "a" }, list)
    give(news, "d")
    assert_gap(app, port, "a", "c", "a", "d")
  end)

  it("of another channel do not skip what this one has lost", function()
    local app, port, news = open_hub { history = 2 }
    give(news, "1", "2", "3")
    give(app:channel "weather", "1")
    assert_gap(app, port, "1", "2", "3")
  end)

  it("of another channel do not skip what a channel had that has gone", function()
    local app, port, news = open_hub { history_seconds = 0.02 }
    give(news, "1", "2")
    news = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    channels.wait_stat(app, "channels", 0)
    give(app:channel "weather", "1")
    assert_gap(app, port, "1")
  end)

  it("of the newest frame only resume behind it", function()
    local app, port, news = open_hub { history = 2 }
    give(news, "a", "b", "c")
    assert.same({}, select(2, resumed(app, port, "c")))
  end)

  it("are unknown when they are evicted", function()
    local app, port, news = open_hub { history = 2 }
    give(news, "a", "b", "c")
    assert_gap(app, port, "a", "b", "c")
  end)

  it("are forgotten with their channel", function()
    local app, port, news = open_hub()
    local weather = app:channel "weather"
    give(weather, "a")
    weather:close()
    give(news, "b")
    assert_gap(app, port, "a", "b")
  end)

  it("by the thousands, evicted and repeated, are found while they are kept", function()
    local app, port, news = open_hub { history = 500 }
    for i = 1, 5000 do news:publish { id = "id " .. i % 1000, data = i } end
    local result, list = resumed(app, port, "id 990")
    assert.equal("resumed", result)
    assert.same(numbers(4991, 5000), list)
    result, list = resumed(app, port, "id 499")
    assert.equal("gap", result)
    assert.equal(501, #list)
  end)

  it("mixed with the channel's own resume at either", function()
    local app, port, news = open_hub()
    local own = news:publish "1"
    news:publish { id = "two", data = "2" }
    news:publish "3"
    news:publish { id = "four", data = "4" }
    assert.same({ "2", "3", "4" }, select(2, resumed(app, port, own)))
    assert.same({ "3", "4" }, select(2, resumed(app, port, "two")))
    assert.same({}, select(2, resumed(app, port, "four")))
  end)

  it("are not mistaken for an epoch's", function()
    local app, port, news = open_hub()
    assert.matches("^" .. EPOCH .. "%-1$", (news:publish "1"))
    give(news, "1", "-1", "0123456789abcde-1", "0123456789abcdefg-1", "0123456789abcdeg-1", "0123456789abcdef-")
    for i, id in ipairs { "1", "-1", "0123456789abcde-1", "0123456789abcdefg-1", "0123456789abcdeg-1" } do
      local result, list = resumed(app, port, id)
      assert.equal("resumed", result)
      assert.equal(6 - i, #list)
    end
  end)
end)
