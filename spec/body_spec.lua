--- Bodies: JSON in and out, and forms.

local channels = require "spec.support.channels"
local net = require "spec.support.net"
local cjson = require "cjson"

local unpack = channels.unpack

describe("request:json", function()
  after_each(net.finish)

  local function read(body, kind)
    local result
    local _, port = net.serve(function(app)
      app:post("/", function(request)
        result = { request:json() }
        result.count = select("#", request:json())
      end)
    end)
    local client = net.connect(port):request("POST", "/", kind and { "Content-Type: " .. kind } or nil, body)
    assert.equal(204, (client:take(true)))
    return unpack(result, 1, result.count)
  end

  it("is what the body says", function()
    assert.same({ a = { 1, 2.5, "x", true, cjson.null } }, (read('{"a":[1,2.5,"x",true,null]}', "application/json")))
    assert.same("text", (read('"text"', "Application/JSON; charset=utf-8")))
    assert.equal(cjson.null, (read("null", "application/problem+json")))
    assert.equal(false, (read("false", "application/json")))
  end)

  it("tells why it says nothing", function()
    for _, body in ipairs { "", "{", "{}x", "nul", '{"a":}', ("["):rep(100000) } do
      local value, message = read(body, "application/json")
      assert.equal(nil, value)
      assert.matches("^the body is no JSON: .", message)
      assert.is_nil(message:find ".lua:") -- it is shown to clients
    end
  end)

  it("takes no number that JSON has not", function()
    for _, number in ipairs { "NaN", "nan", "Infinity", "-Infinity", "inf", "0x1F", "-0x1F", "01", "+1" } do
      for _, body in ipairs { number, ("[1, %s]"):format(number), ('{"a": {"b": %s}}'):format(number) } do
        local value, message = read(body, "application/json")
        assert.equal(nil, value, body)
        assert.matches("^the body is no JSON: .", message)
      end
    end
    for _, body in ipairs { "1e999", "[[1], -1e999]", '{"a": {"b": 1e400}}', ("9"):rep(400) } do
      assert.same({ nil, "the body is no JSON: a number is too large" }, { read(body, "application/json") }, body)
    end
    assert.same({ "NaN", -1.5e300, 0, 1e-7 }, (read('["NaN", -1.5e300, 0, 1e-7]', "application/json")))
  end)

  it("leaves lua-cjson as a script has it, and heeds how deep it lets values nest", function()
    assert.equal(nil, (read("[NaN]", "application/json")))
    assert.not_equal(nil, (cjson.decode "[NaN]"))
    local deep = ("["):rep(20) .. ("]"):rep(20)
    assert.is_table((read(deep, "application/json")))
    cjson.decode_max_depth(10)
    local value, message = read(deep, "application/json")
    cjson.decode_max_depth(1000)
    assert.equal(nil, value)
    assert.matches("^the body is no JSON: .*nested", message)
    assert.is_table((read(("["):rep(1000) .. ("]"):rep(1000), "application/json")))
  end)

  it("takes no body that any page could have sent without leave", function()
    for _, kind in ipairs { "text/plain", "application/x-www-form-urlencoded", "text/json", "application/jsonp", "" } do
      assert.same({ nil, "the body is not sent as application/json" }, { read("{}", kind) })
    end
    assert.same({ nil, "the body is not sent as application/json" }, { read "{}" })
  end)

  it("is called with a colon", function()
    local message
    local _, port = net.serve(function(app)
      app:get("/", function(request)
        message = select(2, pcall(request.json)) .. "\n" .. select(2, pcall(request.form, {}))
      end)
    end)
    net.connect(port):get("/"):take(true)
    assert.matches("json: call it with a colon: request:json()", message, 1, true)
    assert.matches("form: call it with a colon: request:form()", message, 1, true)
  end)
end)

describe("a table as a body", function()
  after_each(net.finish)

  it("is written as JSON, by a handler, a before and a reject", function()
    local _, port = net.serve(function(app)
      app:get("/alone", function() return { a = 1 } end)
      app:get("/status", function() return 201, { 1, 2 } end)
      app:get("/typed", function() return 200, { a = "ü" }, { ["Content-Type"] = "application/problem+json" } end)
      app:stream("/stream", function(stream) stream:reject(403, { no = true }) end)
      app:before(function(request)
        if request.query.refuse then return 401, { who = "you" } end
      end)
    end)
    for target, wanted in pairs {
      ["/alone"] = { 200, { a = 1 } }, ["/status"] = { 201, { 1, 2 } }, ["/stream"] = { 403, { no = true } },
      ["/alone?refuse=1"] = { 401, { who = "you" } }, ["/stream?refuse=1"] = { 401, { who = "you" } },
    } do
      local status, headers, body = net.connect(port):get(target):take()
      assert.same({ wanted[1], "application/json", wanted[2] }, { status, headers["content-type"], cjson.decode(body) })
    end
    local _, headers, body = net.connect(port):get("/typed"):take()
    assert.same({ "application/problem+json", '{"a":"ü"}' }, { headers["content-type"], body })
  end)
end)

describe("request:form", function()
  after_each(net.finish)

  local function read(kind, body)
    local last, all
    local _, port = net.serve(function(app)
      app:post("/", function(request) last, all = request:form() end)
    end)
    assert.equal(204, (net.connect(port):request("POST", "/", { "Content-Type: " .. kind }, body):take(true)))
    return last, all
  end

  it("is what a form says", function()
    local last, all = read("application/x-www-form-urlencoded", "name=Ada+Lovelace&tag=a&tag=b%26c&empty=&%C3%BC=%zz")
    assert.same({ name = "Ada Lovelace", tag = "b&c", empty = "", ["ü"] = "%zz" }, last)
    assert.same({ name = { "Ada Lovelace" }, tag = { "a", "b&c" }, empty = { "" }, ["ü"] = { "%zz" } }, all)
    assert.same({}, (read("application/x-www-form-urlencoded; charset=utf-8", "")))
  end)

  local function multipart(...)
    local pieces = {}
    for _, part in ipairs { ... } do pieces[#pieces + 1] = "--xYz\r\n" .. part .. "\r\n" end
    return table.concat(pieces) .. "--xYz--\r\n"
  end

  it("has a form's files", function()
    local last, all = read("multipart/form-data; boundary=xYz", multipart(
      'Content-Disposition: form-data; name="name"\r\n\r\nAda\r\n--xY\r\n',
      'content-disposition: Form-Data; name="file"; filename="a%22b.png"\r\nContent-Type: image/png\r\n\r\n'
        .. "\137PNG\r\n\26\0",
      'Content-Disposition: form-data; name="file"; filename=""\r\n\r\n'))
    assert.equal("Ada\r\n--xY\r\n", last.name)
    assert.same({ { filename = 'a"b.png', type = "image/png", body = "\137PNG\r\n\26\0" },
      { filename = "", type = "text/plain", body = "" } }, all.file)
    assert.same(all.file[2], last.file)
    assert.same({}, (read('multipart/form-data; boundary="xYz"', "--xYz--\r\n")))
    assert.equal("image/png", (read("multipart/form-data; boundary=xYz", multipart(
      'Content-Disposition:form-data; name="a"; filename="b" \r\nContent-Type:\t image/png \t\r\n\r\nc'))).a.type)
  end)

  it("takes time in proportion to its size, whatever a client writes", function()
    local spaces = (" "):rep(500000)
    local before = os.clock()
    for _, line in ipairs { "X: a" .. spaces .. "b", "Content-Type: a" .. spaces .. "b", "X:" .. spaces .. "b" } do
      local last = read("multipart/form-data; boundary=xYz", multipart(
        'Content-Disposition: form-data; name="a"; filename="b"\r\n' .. line .. "\r\n\r\nc"))
      assert.equal("c", last.a.body)
    end
    assert.is_true(os.clock() - before < 60) -- of the processor's; with the square of it, a quarter of an hour
  end)

  it("tells why it says nothing", function()
    local whole = 'Content-Disposition: form-data; name="a"\r\n\r\nb'
    for _, body in ipairs {
      "", "x", "--xYz", "--xYz\r\n", "--xYz\r\n" .. whole, "--xYz\r\n" .. whole .. "\r\n--xY--", multipart "no head",
      multipart 'Content-Disposition: attachment; name="a"\r\n\r\nb',
      multipart 'Content-Disposition: form-data\r\n\r\nb',
      "--xYzz\r\n" .. whole .. "\r\n--xYz--", multipart(unpack((function()
        local many = {}
        for i = 1, 1001 do many[i] = whole end
        return many
      end)())),
    } do
      assert.same({ nil, "the form is malformed" }, { read("multipart/form-data; boundary=xYz", body) })
    end
    assert.same({ nil, "the form has no boundary" }, { read("multipart/form-data", multipart(whole)) })
    assert.same({ nil, "the form has no boundary" }, { read("multipart/form-data; boundary=" .. ("x"):rep(71), "") })
    assert.same({ nil, "the body is no form" }, { read("text/plain", "a=b") })
  end)

  it("reads what curl sends", function()
    local process = require "spec.support.process"
    local last
    local _, port = net.serve(function(app)
      app:post("/", function(request)
        last = request:form()
        return "ok"
      end)
    end)
    local curl = process.spawn("curl", { "-sS", "--noproxy", "*", "-F", "a=b", "-F",
      "file=@spec/vectors/encode.jsonl;type=application/jsonl", ("http://127.0.0.1:%d/"):format(port) })
    assert.equal(0, (curl:wait_exit()), curl.stderr)
    local file = assert(io.open("spec/vectors/encode.jsonl", "rb"))
    local sent = { filename = "encode.jsonl", type = "application/jsonl", body = file:read "*a" }
    assert.same({ a = "b", file = sent }, last)
    file:close()
  end)
end)
