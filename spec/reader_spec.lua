--- The core's reader of event streams, against the vectors that agree with Chromium: whole, and cut at every byte.

local json = require "cjson"
local core = require "eventstream.core"

-- A vector's bytes have one character per byte: U+0000 to U+00FF, which JSON decoding made UTF-8.
local function bytes_of(text)
  return (text:gsub("[\194\195][\128-\191]", function(pair)
    return string.char((pair:byte(1) - 0xC0) * 64 + pair:byte(2) - 0x80)
  end))
end

local function feed(reader, bytes, events)
  local from = 1
  while from do
    local kind, data, id, on = reader:feed(bytes, from)
    if kind then events[#events + 1] = { type = kind, data = data, last_event_id = id } end
    from = on
  end
end

describe("the reader", function()
  for line in io.lines "spec/vectors/parse.jsonl" do
    local vector = json.decode(line)
    local bytes = bytes_of(vector.bytes)

    it("agrees with Chromium, wherever it is cut: " .. vector.name, function()
      for cut = 0, #bytes do
        local reader, events = core.reader(1000000), {}
        feed(reader, bytes:sub(1, cut), events)
        feed(reader, bytes:sub(cut + 1), events)
        assert.same(vector.events, events, "cut at " .. cut)
      end
      local reader, events = core.reader(1000000), {}
      for byte in bytes:gmatch "." do feed(reader, byte, events) end
      assert.same(vector.events, events, "byte by byte")
    end)
  end

  it("takes a line of 5 MiB, and thousands of events at once", function()
    local reader, events = core.reader(6 * 1024 * 1024), {}
    local large = ("x"):rep(5 * 1024 * 1024)
    feed(reader, "data: " .. large:sub(1, 1000000), events)
    feed(reader, large:sub(1000001) .. "\n\n" .. ("data: y\n\n"):rep(5000) .. ("data: z\n"):rep(1000) .. "\n", events)
    assert.equal(5002, #events)
    assert.is_true(events[1].data == large)
    assert.equal(("z\n"):rep(999) .. "z", events[5002].data)
  end)
end)
