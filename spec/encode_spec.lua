--- eventstream.encode: an event's bytes, held against the vectors and against a reader of its own.

local json = require "cjson"
local eventstream = require "eventstream"
local reader = require "spec.support.reader"

local encode = eventstream.encode

-- A vector's strings have one character per byte: U+0000 to U+00FF, which JSON decoding made UTF-8.
local function bytes_of(text)
  return (text:gsub("[\194\195][\128-\191]", function(pair)
    return string.char((pair:byte(1) - 0xC0) * 64 + pair:byte(2) - 0x80)
  end))
end

local function vectors(name)
  local list = {}
  for line in io.lines("spec/vectors/" .. name) do list[#list + 1] = json.decode(line) end
  assert(#list > 0)
  return list
end

-- The event of a vector as a script would write it.
local function event_of(value)
  if type(value) == "string" then return bytes_of(value) end
  local event = {}
  for field, content in pairs(value) do
    event[field] = type(content) == "string" and bytes_of(content) or content
  end
  return event
end

describe("the spec's reader", function()
  for _, vector in ipairs(vectors "parse.jsonl") do
    it("agrees with Chromium: " .. vector.name, function()
      assert.same(vector.events, (reader.read(bytes_of(vector.bytes))))
    end)
  end

  it("keeps what is no UTF-8, if asked to", function()
    local messages = reader.read("id: \255\ndata: a\226\130\n\n", true)
    assert.same({ { type = "message", data = "a\226\130", last_event_id = "\255" } }, messages)
  end)

  it("tells of comments, of the retry and of an id without data", function()
    local messages, rest = reader.read ": a\n:b\nretry: 10\nid: 4\n\nid: 5\n"
    assert.same({}, messages)
    assert.same({ comments = { " a", "b" }, retry = "10", last_event_id = "4" }, rest)
  end)
end)

describe("eventstream.encode", function()
  describe("gives the contract's bytes:", function()
    for _, vector in ipairs(vectors "encode.jsonl") do
      if vector.bytes then
        it(vector.name, function()
          assert.equal(bytes_of(vector.bytes), encode(event_of(vector.event)))
        end)
      end
    end
  end)

  describe("refuses, as the contract says, and names the field:", function()
    for _, vector in ipairs(vectors "encode.jsonl") do
      if vector.error then
        it(vector.name, function()
          local ok, message = pcall(encode, event_of(vector.event))
          assert.is_false(ok)
          assert.matches("%f[%w]" .. vector.error .. "%f[%W]", message)
        end)
      end
    end
  end)

  describe("writes a number", function()
    local function data_of(number)
      return encode({ data = number }):match "^data: ([^\n]*)\n\n$"
    end

    it("that is an integral float as an integer", function()
      assert.equal("42", data_of(42.0))
      assert.equal("-3", data_of(-3.0))
      assert.equal("1000000000000000", data_of(1e15))
    end)

    it("up to 2^53 with every digit", function()
      assert.equal("9007199254740992", data_of(2 ^ 53))
      assert.equal("-9007199254740992", data_of(-2 ^ 53))
    end)

    it("that is negative zero as 0", function()
      assert.equal("0", data_of(-0.0))
    end)

    if math.type then
      it("that is an integer beyond 2^53 with every digit", function()
        assert.equal("9223372036854775807", data_of(math.maxinteger))
        assert.equal("-9223372036854775808", data_of(math.mininteger))
      end)
    end

    it("with a fraction so that the same number is read back", function()
      local numbers = { 0.1, -0.5, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308, 123456.789, 2 ^ 0.5, 4.35, 1e22 / 3 }
      for _ = 1, 1000 do numbers[#numbers + 1] = (math.random() - 0.5) * 10 ^ math.random(-300, 300) end
      for _, number in ipairs(numbers) do assert.equal(number, tonumber(data_of(number))) end
    end)

    it("with a fraction as short as it can be", function()
      assert.equal("0.1", data_of(0.1))
      assert.equal("4.35", data_of(4.35))
    end)

    it("given in place of the event", function()
      assert.equal("data: 7\n\n", encode(7.0))
    end)

    it("as an id", function()
      assert.equal("id: 12\ndata: x\n\n", encode { id = 12.0, data = "x" })
    end)

    for name, number in pairs { NaN = 0 / 0, infinity = math.huge, ["negative infinity"] = -math.huge } do
      it("but not " .. name, function()
        assert.has_error(function() encode { data = number } end, "encode: data must be a finite number")
        assert.has_error(function() encode(number) end, "encode: data must be a finite number")
        assert.has_error(function() encode { id = number, data = "x" } end, "encode: id must be a finite number")
      end)
    end
  end)

  describe("writes", function()
    it("a boolean", function()
      assert.equal("data: true\n\n", encode(true))
      assert.equal("data: false\n\n", encode { data = false })
    end)

    it("a table as JSON", function()
      local text = encode { data = { text = "a\nb", list = { 1, 2 } } }
      local messages = reader.read(text)
      assert.equal(1, #messages)
      assert.same({ text = "a\nb", list = { 1, 2 } }, json.decode(messages[1].data))
    end)

    it("JSON on one line, so that no value of it ends the field", function()
      assert.equal('data: ["a\\r\\nid: 1\\u0000"]\n\n', encode { data = { "a\r\nid: 1\0" } })
    end)

    it("no id for id = false", function()
      assert.equal("data: x\n\n", encode { id = false, data = "x" })
    end)

    it("retry = 0, and an integral float", function()
      assert.equal("retry: 0\n\n", encode { retry = 0 })
      assert.equal("retry: 1500\n\n", encode { retry = 1500.0 })
    end)

    it("an empty comment, which is what a heartbeat is", function()
      assert.equal(": \n\n", encode { comment = "" })
    end)

    it("ten thousand lines of data in order", function()
      local lines = {}
      for i = 1, 10000 do lines[i] = tostring(i) end
      local data = table.concat(lines, "\r\n")
      local messages = reader.read(encode { data = data })
      assert.equal(table.concat(lines, "\n"), messages[1].data)
    end)

    it("eight megabytes of data as they are", function()
      local data = ("\0\255abcdef"):rep(1048576)
      assert.equal("data: " .. data .. "\n\n", encode(data))
    end)
  end)

  describe("explains", function()
    local function says(message, event)
      assert.has_error(function() encode(event) end, message)
    end

    it("that nil is no event", function()
      says("encode: event must be a table or a string, not nil", nil)
      assert.has_error(function() encode() end, "encode: event must be a table or a string, not nil")
    end)

    it("which types data may have", function()
      says("encode: data must be a string, number, boolean or table, not function", { data = print })
      says("encode: data must be a string, number, boolean or table, not function", print)
      local thread = coroutine.create(function() end)
      says("encode: data must be a string, number, boolean or table, not thread", { data = thread })
    end)

    it("which types an id may have", function()
      says("encode: id must be a string, an integer or false, not table", { id = {}, data = "x" })
      says("encode: id must be a string, an integer or false, not boolean", { id = true, data = "x" })
    end)

    it("that event is a string", function()
      says("encode: event must be a string, not number", { event = 1, data = "x" })
      says("encode: event must be a string, not boolean", { event = false, data = "x" })
    end)

    it("that comment is a string", function()
      says("encode: comment must be a string, not number", { comment = 1 })
    end)

    it("that retry is a whole number of milliseconds", function()
      says("encode: retry must be a number of milliseconds, not string", { retry = "3000" })
      says("encode: retry must be a whole number of milliseconds, 0 or more", { retry = -1 })
      says("encode: retry must be a whole number of milliseconds, 0 or more", { retry = 0.5 })
      says("encode: retry must be a whole number of milliseconds, 0 or more", { retry = 0 / 0 })
      says("encode: retry must be a whole number of milliseconds, 0 or more", { retry = math.huge })
      says("encode: retry must be a whole number of milliseconds, 0 or more", { retry = 2 ^ 63 })
    end)

    it("an unknown field, and suggests the one that was meant", function()
      says("encode: unknown field 'dta' (did you mean 'data'?)", { dta = "x" })
      says("encode: unknown field 'Event' (did you mean 'event'?)", { data = "x", Event = "e" })
    end)

    it("an unknown field that resembles none, and lists those that there are", function()
      says("encode: unknown field 'payload' (there are: comment, data, event, id, retry)", { payload = "x" })
    end)

    it("that an event is no list", function()
      says("encode: event must have named fields (data = ...), and no list", { "x" })
      says("encode: event has a field whose name is a boolean", { data = "x", [true] = 1 })
    end)

    it("that an empty event says nothing", function()
      says("encode: empty event: give it data, or an id, a retry or a comment", {})
      says("encode: empty event: give it data, or an id, a retry or a comment", { id = false })
    end)

    it("that no browser shows an event without data", function()
      says('encode: an event without data is shown by no browser (pass data = "")', { event = "x", id = "1" })
    end)

    it("what an id must not be", function()
      says("encode: id must not contain control characters, nor spaces at its ends", { id = "1 ", data = "x" })
      says("encode: id must not be longer than 128 bytes", { id = ("x"):rep(129), data = "x" })
    end)

    it("why a table cannot be written as JSON", function()
      local ok, message = pcall(function() encode { data = { print } } end)
      assert.is_false(ok)
      assert.matches("encode: data cannot be written as JSON: .*function", message)
    end)

    local function position_of(call)
      local ok, message = pcall(call)
      assert.is_false(ok)
      return message:match "^(.-:%d+): encode: "
    end

    local here = debug.getinfo(1, "S").short_src

    it("at the script's own line", function()
      local line = debug.getinfo(1, "l").currentline
      assert.equal(here .. ":" .. line + 1, position_of(function() encode { event = "a\nb", data = "x" } end))
      assert.equal(here .. ":" .. line + 2, position_of(function() encode { dat = "x" } end))
      assert.equal(here .. ":" .. line + 3, position_of(function() encode() end))
      assert.equal(here .. ":" .. line + 4, position_of(function() encode { data = { print } } end))
    end)
  end)

  it("leaves the event as it is", function()
    local event = { data = 1.0, id = 2, event = "e", retry = 3, comment = "c" }
    encode(event)
    assert.same({ data = 1.0, id = 2, event = "e", retry = 3, comment = "c" }, event)
  end)
end)

describe("whatever strings a script passes", function()
  local seed = tonumber(os.getenv "SEED") or os.time()

  -- What tends to break readers, and bytes of every value.
  local PIECES = {
    "\r", "\n", "\r\n", "\n\r", "\n\n", "\r\r", "\r\n\r\n", "\0", ":", " ", "\t", "\11", "\12", "\27", "\127", "\255",
    "data", "data:", "data: ", "id", "id: 1", "event: admin", "retry", "retry: 0", ": c", "a", "b",
    "\239\187\191", "\239\187", "\195\169", "\226\130", "\226\130\172", "\240\159\152\128", "\237\160\128",
    "\226\128\168", "\194\133",
  }

  local function random_text(most)
    local pieces = {}
    for i = 1, math.random(0, most) do
      pieces[i] = math.random(5) > 1 and PIECES[math.random(#PIECES)] or string.char(math.random(0, 255))
    end
    return table.concat(pieces)
  end

  -- Half of the short texts have no line end, so that events are accepted as often as refused.
  local function random_line()
    local text = random_text(4)
    if math.random(2) == 1 then text = text:gsub("[%c\127]", "") end
    return text
  end

  local function random_event()
    local event = {}
    if math.random(4) > 1 then event.data = random_text(12) end
    if math.random(2) == 1 then event.event = random_line() end
    if math.random(2) == 1 then event.id = random_line() end
    if math.random(3) == 1 then event.comment = random_text(6) end
    if math.random(4) == 1 then event.retry = math.random(0, 100000) end
    return event
  end

  -- The design's rules, in words of our own.
  local function is_allowed(event)
    local id, kind = event.id, event.event
    if id and (#id > 128 or id:find "[%c\127]" or id:find "^ " or id:find " $") then return false end
    if kind and (kind:find "[\r\n]" or not event.data) then return false end
    return next(event) ~= nil
  end

  local function normalised(text)
    return (text:gsub("\r\n", "\n"):gsub("\r", "\n"))
  end

  local function show(event)
    local fields = {}
    for name, value in pairs(event) do
      local text = tostring(value):gsub("[^ -~]", function(byte) return ("\\%03d"):format(byte:byte()) end)
      fields[#fields + 1] = ("%s = '%s'"):format(name, text)
    end
    return "{ " .. table.concat(fields, ", ") .. " }"
  end

  local function check(event)
    local ok, bytes = pcall(encode, event)
    assert.equal(is_allowed(event), ok, tostring(bytes))
    if not ok then return assert.equal("string", type(bytes)) end
    -- Between two events that are known: what it does, it does to itself alone.
    local messages, rest = reader.read("id: before\ndata: x\n\n" .. bytes .. "data: after\n\n", true)
    local id = event.id or "before"
    if event.data then
      local kind = (event.event or "") ~= "" and event.event or "message"
      assert.same({ type = kind, data = normalised(event.data), last_event_id = id }, messages[2])
    end
    assert.equal(event.data and 3 or 2, #messages)
    assert.same({ type = "message", data = "after", last_event_id = id }, messages[#messages])
    assert.equal(event.retry and tostring(event.retry), rest.retry)
    local comments = {}
    for line in (event.comment and normalised(event.comment) .. "\n" or ""):gmatch "([^\n]*)\n" do
      comments[#comments + 1] = " " .. line
    end
    assert.same(comments, rest.comments)
    return true
  end

  it("a reader gets back one event with these values, or the encoder refused", function()
    math.randomseed(seed)
    local accepted = 0
    for i = 1, 20000 do
      local event = random_event()
      local ok, result = pcall(check, event)
      if not ok then
        error(("SEED=%d, event %d: %s\n%s"):format(seed, i, show(event), tostring(result)))
      end
      if result == true then accepted = accepted + 1 end
    end
    assert(accepted > 5000, "too few were accepted: " .. accepted)
  end)

  it("a reader that decodes UTF-8 sees the same text as one of the value itself", function()
    math.randomseed(seed)
    for i = 1, 2000 do
      local data = random_text(12)
      local messages = reader.read(encode { data = data })
      assert.equal(1, #messages)
      assert.equal(reader.decode(normalised(data)), messages[1].data, ("SEED=%d, event %d"):format(seed, i))
    end
  end)
end)
