--- An app's history from one process to its successor: who comes back resumes there as if nothing had been.

local eventstream = require "eventstream"
local handover = require "eventstream.handover"
local net = require "spec.support.net"
local reader = require "spec.support.reader"

describe("an app's history", function()
  after_each(net.finish)

  local function pass_on(old, options)
    local text = handover.export(old)
    local result
    local app, port = net.serve(function(a)
      assert.is_true(handover.import(a, text))
      a:stream("/", function(stream, request)
        local names = {}
        for name in request.query.to:gmatch "[^,]+" do names[#names + 1] = name end
        result = stream:subscribe(names, { newcomer = request.query.all and "all" or nil })
      end)
    end, options)
    return app, function(target, id)
      local client = net.connect(port):request("GET", "/?to=" .. target, { id and "Last-Event-ID: " .. id or "X: y" })
      net.wait(function() return result end)
      app:close { grace = 1, spread = 0 }
      client:wait_end()
      local _, _, body = client:answer()
      local list = {}
      for i, event in ipairs((reader.read(body))) do
        list[i] = event.type == "gap" and "gap " .. event.data or event.data
      end
      return result, table.concat(list, " ")
    end
  end

  local function old(options)
    local app = eventstream.new(options)
    return app, app:channel("a", { history = 3 }), app:channel("b")
  end

  for _, case in ipairs {
    { "after the last", 6, "resumed", "" },
    { "in the middle of two channels", 3, "resumed", "a4 b2 a6" },
    { "before what is kept", 0, "gap", "gap a b1 a3 a4 b2 a6" }, -- a1 is gone
    { "from the future", 7, "gap", "gap a gap b b1 a3 a4 b2 a6" },
  } do
    it("resumes a client: " .. case[1], function()
      local app, a, b = old()
      local ids = { [0] = a.id }
      for i, channel in ipairs { a, b, a, a, b, a } do
        local number = ({ "a1", "b1", "a3", "a4", "b2", "a6" })[i]
        ids[i] = channel:publish { data = number, comment = "kept" }
      end
      ids[7] = ids[6]:gsub("6$", "9")
      local _, ask = pass_on(app)
      local was, list = ask("a,b", ids[case[2]])
      assert.equal(case[3], was)
      assert.equal(case[4], list)
    end)
  end

  it("goes on with the same numbers, and gives a newcomer all that is kept", function()
    local app, a = old()
    local first = a:publish "x"
    local successor, ask = pass_on(app)
    local second = successor:channel("a"):publish "y"
    assert.equal(first:gsub("1$", "2"), second)
    local was, list = ask "a&all=1"
    assert.same({ "live", "x y" }, { was, list })
  end)

  it("knows the ids that a script gave, and tells of those that are gone", function()
    local app, a = old()
    for i = 1, 5 do a:publish { id = "own" .. i, data = i } end
    a:publish { id = "own4", data = 6 } -- evicts 3; stands for the older one that carries it
    local _, ask = pass_on(app)
    local was, list = ask("a", "own4")
    assert.same({ "resumed", "5 6" }, { was, list })
    _, ask = pass_on(app)
    was, list = ask("a", "own1")
    assert.same({ "gap", "gap a 4 5 6" }, { was, list })
  end)

  it("lets an id stand for the older frame, also where that is gone", function()
    local app, a = old()
    a:publish { id = "same", data = 1 }
    a:publish { data = 2 }
    a:publish { data = 3 }
    a:publish { id = "same", data = 4 } -- evicts 1
    local _, ask = pass_on(app)
    local was, list = ask("a", "same")
    assert.same({ "resumed", "2 3 4" }, { was, list })
  end)

  it("tells a gap for what a channel had that went away", function()
    local app, a = old()
    local id = a.id
    a:publish "x"
    a:close()
    local _, ask = pass_on(app)
    assert.same({ "gap", "gap a" }, { ask("a", id) })
  end)

  it("is whole where channels are collected meanwhile", function()
    local app = eventstream.new()
    for round = 1, 50 do
      for i = 1, 40 do app:channel(("idle %d %d"):format(round, i)) end -- no event, no subscriber: it goes by itself
      app:channel("kept" .. round):publish(round)
      collectgarbage "step"
      assert.is_true(handover.import(eventstream.new(), handover.export(app)))
    end
  end)

  it("is bounded by what the successor says", function()
    local app, _, b = old()
    for i = 1, 10 do b:publish(i) end
    local _, ask = pass_on(app, { channels = { b = { history = 2 } } })
    assert.same({ "live", "9 10" }, { ask "b&all=1" })
  end)

  it("is refused where it is none, and the app begins anew", function()
    local app, a = old()
    a:publish { id = "x", data = "y" }
    local text = handover.export(app)
    for cut = 1, #text - 1 do
      local fine, message = handover.import(eventstream.new(), text:sub(1, cut))
      assert.is_nil(fine)
      assert.equal("string", type(message))
    end
    local other = text:gsub("^(eventstream 1) %d+", "%1 x")
    for _, wrong in ipairs { "", "x", "eventstream 2 1 0-0 0 0\nend\n", text .. "x", other } do
      assert.is_nil((handover.import(eventstream.new(), wrong)))
    end
  end)
end)
