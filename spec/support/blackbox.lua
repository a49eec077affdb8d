--- For blackbox_spec: clients that see a house from outside, over sockets, and know nothing of what serves it. Every
-- wait runs the loop until a condition holds, and fails when a watchdog rings first.

local uv = require "luv"
local process = require "spec.support.process"
local reader = require "spec.support.reader"

local M = {}

local clients = {}

---@class spec.Client
---@field status integer?  of the answer under way
---@field headers table<string, string>  by names in lower case; of several lines the last
---@field fields table<string, string[]>  all lines
---@field body string      of that answer so far, without its framing
---@field whole boolean    all of that answer has come
---@field proper boolean   its end was told, by a last chunk or a length
---@field ended boolean    the connection is over
---@field failure string?  how: "ECONNRESET"
local Client = {}
Client.__index = Client

--- Waits for the next answer on the same connection.
local function expect(client, method)
  client.method, client.status, client.framing = method, nil, nil
  client.body, client.whole, client.proper = "", false, false
  client.left, client.between, client.last = 0, false, false
end

-- What the answer's body is framed by (RFC 9112, 6.3).
local function framing_of(client)
  local headers = client.headers
  if client.method == "HEAD" or client.status == 204 or client.status == 304 then return "none" end
  if headers["transfer-encoding"] then
    assert(headers["transfer-encoding"]:lower() == "chunked", "a strange transfer-encoding")
    assert(not headers["content-length"], "chunked, and with a length")
    return "chunked"
  end
  return headers["content-length"] and "length" or "close"
end

local function take_head(client)
  local stop = client.rest:find("\r\n\r\n", 1, true)
  if not stop then return false end
  local head = client.rest:sub(1, stop + 1)
  client.rest = client.rest:sub(stop + 4)
  client.status = tonumber(head:match "^HTTP/1%.1 (%d%d%d) ") or error("no status line: " .. head, 0)
  client.headers, client.fields = {}, {}
  for name, value in head:gmatch "\n([^:\r\n]+): *([^\r\n]*)" do
    name = name:lower()
    client.headers[name] = value
    client.fields[name] = client.fields[name] or {}
    table.insert(client.fields[name], value)
  end
  if client.status == 100 then
    client.status, client.continued = nil, true
    return true
  end
  client.framing = framing_of(client)
  client.left = tonumber(client.headers["content-length"])
  return true
end

-- The chunks of what has come, as far as they are whole; what is not stays in client.rest.
local function take_chunks(client)
  local bytes, at, pieces = client.rest, 1, { client.body }
  local left, between = client.left or 0, client.between
  while not client.whole and at <= #bytes do
    if left > 0 then
      local piece = bytes:sub(at, at + left - 1)
      pieces[#pieces + 1] = piece
      at, left = at + #piece, left - #piece
      between = left == 0
    elseif between then
      if #bytes < at + 1 then break end
      assert(bytes:sub(at, at + 1) == "\r\n", "a chunk without its end")
      at, between = at + 2, false
      client.whole = client.last
    else
      local size, stop = bytes:match("^(%x+)\r\n()", at)
      if not size then
        assert(not bytes:find("\n", at, true), "no chunk's size")
        break
      end
      at, left = stop, tonumber(size, 16)
      client.last = left == 0
      between = client.last
    end
  end
  client.left, client.between, client.rest = left, between, bytes:sub(at)
  client.body, client.proper = table.concat(pieces), client.whole
end

local TAKE = {
  none = function(client) client.whole, client.proper = true, true end,
  chunked = take_chunks,
  length = function(client)
    local piece = client.rest:sub(1, client.left)
    client.body, client.rest = client.body .. piece, client.rest:sub(#piece + 1)
    client.left = client.left - #piece
    client.whole = client.left == 0
    client.proper = client.whole
  end,
  close = function(client) client.body, client.rest = client.body .. client.rest, "" end,
}

local function receive(client, bytes)
  client.rest = client.rest .. bytes
  while client.method and not client.status and take_head(client) do end
  if client.status and not client.whole then TAKE[client.framing](client) end
end

local function listen(client)
  client.handle:read_start(function(failure, bytes)
    if bytes then
      local ok, message = pcall(receive, client, bytes)
      if not ok then client.broken = message end
    else
      client.ended, client.failure = true, failure
      if client.framing == "close" then client.whole = true end
    end
  end)
end

--- Connects to a house.
---@return spec.Client
function M.connect(house)
  local client = setmetatable({ house = house, handle = uv.new_tcp(), rest = "", ended = false }, Client)
  local connected, failure
  client.handle:nodelay(true)
  client.handle:connect("127.0.0.1", house.port, function(err) connected, failure = true, err end)
  clients[#clients + 1] = client
  process.wait(function() return connected end, nil, "a connection")
  assert(not failure, failure)
  listen(client)
  return client
end

function Client:send(bytes)
  self.handle:write(bytes)
  return self
end

--- Sends a request; headers is a list of lines.
function Client:request(method, target, headers, body)
  expect(self, method)
  local lines = { ("%s %s HTTP/1.1"):format(method, target), "Host: house.test" }
  for _, line in ipairs(headers or {}) do lines[#lines + 1] = line end
  if body then lines[#lines + 1] = "Content-Length: " .. #body end
  return self:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or ""))
end

--- Sends bytes that are a request; says how its answer is to be read.
function Client:raw(bytes, method)
  expect(self, method or "GET")
  return self:send(bytes)
end

--- The next answer of several whose requests have been sent.
function Client:next(method)
  expect(self, method or "GET")
  receive(self, "")
  return self
end

-- Waits for a condition, unless the connection ends or breaks first.
local function await(client, condition, what)
  local function story()
    return ("%s; status %s, whole %s, ended %s, failure %s, so far ...%q"):format(what, tostring(client.status),
      tostring(client.whole), tostring(client.ended), tostring(client.failure), (client.body or ""):sub(-1000))
  end
  local met
  process.wait(function()
    met = not client.broken and condition()
    return met or client.broken or client.ended
  end, nil, story)
  if client.broken then error(client.broken .. ": " .. story(), 0) end
  if not met then error("the connection ended before " .. story(), 0) end
  return met
end

--- Waits for the head of the answer.
function Client:head()
  await(self, function() return self.status end, "the head")
  return self
end

--- Waits for the answer 100 that a request with Expect gets first.
function Client:wait_continue()
  await(self, function() return self.continued or self.status end, "100 Continue")
  return self
end

--- Waits until the body contains a text.
function Client:wait(text)
  await(self, function() return self.body:find(text, 1, true) end, ("%q"):format(text:sub(1, 100)))
  return self
end

--- Waits for the whole answer.
function Client:finish()
  await(self, function() return self.whole end, "the whole answer")
  return self
end

--- Waits for the end of the connection.
function Client:wait_end()
  process.wait(function() return self.ended end, nil, "the end of the connection")
  return self
end

--- Sends no more, and still reads: FIN.
function Client:shutdown() self.handle:shutdown() end

--- Leaves: FIN.
function Client:close()
  if not self.handle:is_closing() then self.handle:close() end
end

--- Leaves: RST.
function Client:reset()
  if not self.handle:is_closing() then self.handle:close_reset() end
end

function Client:pause() self.handle:read_stop() end

function Client:resume() listen(self) end

--- Closes all clients: for after_each.
function M.finish()
  for _, client in ipairs(clients) do client:close() end
  clients = {}
  uv.run "nowait" -- completes the closing
end

--- One request on a connection of its own, and its whole answer.
---@return spec.Client
function M.ask(house, method, target, headers, body)
  local lines = { "Connection: close" }
  for _, line in ipairs(headers or {}) do lines[#lines + 1] = line end
  local client = M.connect(house):request(method, target, lines, body):finish()
  client:close()
  return client
end

--- Opens a stream, and waits for its first block.
---@param headers? string[]|string  lines, or the id that the client had last
---@return spec.Client
function M.open(house, target, headers)
  if type(headers) == "string" then headers = { "Last-Event-ID: " .. headers } end
  local client = M.connect(house):request("GET", target, headers):head()
  assert(client.status == 200, target .. " answers " .. client.status)
  return client:wait "\n\n"
end

--- Calls a function, which returns a client with a head, until all workers of the house have answered one; returns all.
---@param connect fun(number: integer): spec.Client
---@return spec.Client[]
function M.of_each_worker(house, connect)
  local met, count, list = {}, 0, {}
  while count < house.workers do
    assert(#list < 100, "some worker never answers")
    local client = connect(#list + 1)
    local worker = assert(client.headers["x-worker"], "no X-Worker")
    list[#list + 1] = client
    if not met[worker] then met[worker], count = true, count + 1 end
  end
  return list
end

-- A value in Lua, for every Lua.
local function literal(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) ~= "table" then return type(value) == "number" and ("%.17g"):format(value) or tostring(value) end
  local parts = {}
  for key, content in pairs(value) do
    parts[#parts + 1] = type(key) == "number" and literal(content) or ("%s = %s"):format(key, literal(content))
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

--- Events as the app's routes take them.
function M.events(list)
  local parts = {}
  for i, event in ipairs(list) do parts[i] = literal(event) end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

--- Publishes events by a request on a connection of its own; returns its answer, and the ids.
---@param query? string  more of it
function M.publish(house, channel, list, query)
  local answer = M.ask(house, "POST", ("/publish?to=%s%s"):format(channel, query or ""), nil, M.events(list))
  assert(answer.status == 200, "publish answers " .. answer.status .. ": " .. answer.body)
  local ids = {}
  for id in answer.body:gmatch "[^\n]+" do ids[#ids + 1] = id end
  return answer, ids
end

--- Publishes 1 .. n, or from .. to, by a request for each.
function M.count(house, channel, from, to)
  if not to then from, to = 1, from end
  for i = from, to do M.publish(house, channel, { tostring(i) }) end
end

--- Tells a stream a word, by as many requests as it takes to reach its worker.
function M.tell(house, key, word)
  local status
  for _ = 1, 1000 do
    status = M.ask(house, "POST", "/tell/" .. key, nil, word).status
    if status ~= 404 then break end
  end
  assert(status == 204, "tell answers " .. status)
end

--- Whole blocks of the body so far.
function Client:blocks()
  local list = {}
  for block in self.body:gmatch "(.-\n)\n" do list[#list + 1] = block end
  return list
end

--- What an EventSource would have dispatched so far, and its last id.
function Client:messages()
  local whole = self.body:match "^(.*\n\n)" or ""
  local messages, rest = reader.read(whole, true)
  return messages, rest.last_event_id
end

function Client:last_id() return (select(2, self:messages())) end

--- The data of all messages so far, without the spaces that pad it. An event of a type is shown as "type:data".
function Client:data()
  local list = {}
  for i, message in ipairs((self:messages())) do
    local data = message.data:gsub(" +$", "")
    list[i] = message.type == "message" and data or message.type .. ":" .. data
  end
  return list
end

--- What a pattern finds in the data of each message.
function Client:data_of(pattern)
  local list = {}
  for i, message in ipairs((self:messages())) do list[i] = message.data:match(pattern) or message.data end
  return list
end

--- Waits for an event with that data, and returns the data of all so far.
function Client:wait_data(data)
  return self:wait(("data: %s\n\n"):format(data)):data()
end

--- What follows the first block, which tells when to come back.
function Client:behind_retry()
  return (assert(self.body:match "^retry: %d+\n\n(.*)$", "no retry first"))
end

--- Opens /events of a channel, and reads what that brings at once: the result of subscribe, the data of the events,
--- and the client.
---@param query? string  more of it
function M.replay(house, channel, last_id, query)
  local client = M.open(house, ("/events?result=1&to=%s%s"):format(channel, query or ""), last_id)
  await(client, function() return client.body:find("event: result\ndata: %a+\n\n") end, "the result")
  local list = client:data()
  return table.remove(list):match "^result:(%a+)$", list, client
end

return M
