--- For specs of channels: clients that subscribe, and what they have received, read by a reader that knows nothing of
--- the server.

local net = require "spec.support.net"
local reader = require "spec.support.reader"
local streams = require "spec.support.streams"

local M = { serve = streams.serve, errors = streams.errors, finish = streams.finish, round_trip = streams.round_trip }

M.pack = table.pack or function(...) return { n = select("#", ...), ... } end
M.unpack = table.unpack or unpack -- luacheck: ignore

M.ID = "%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%-%d+"

--- An app with a stream at "/" that subscribes to what the query names (?to=a,b; default: news), or as
--- subscribe(stream, request) does. Results go to app.results.
function M.hub(options, subscribe)
  local app, port = streams.serve(function(app)
    app.results = {}
    app:stream("/", function(stream, request)
      if subscribe then
        local result = subscribe(stream, request)
        app.results[#app.results + 1] = result
        return
      end
      local names = {}
      for name in (request.query.to or "news"):gmatch "[^,]+" do names[#names + 1] = name end
      app.results[#app.results + 1] = stream:subscribe(names)
    end)
  end, options)
  return app, port
end

--- Asks for a path, and waits for the block with which the first group of subscriptions begins.
---@param lines? string[]|string  headers, or the id that the client had last
function M.join(port, path, lines)
  if type(lines) == "string" then lines = { "Last-Event-ID: " .. lines } end
  local client = net.connect(port):get(path or "/", lines)
  client:wait("\nid: " .. M.ID .. "\n\n")
  return client
end

--- The body so far, without its framing: whole blocks only, and whether its end has come.
function M.body(client)
  local _, _, body, complete = client:answer()
  local last = #body
  while last > 0 and body:sub(last - 1, last) ~= "\n\n" do last = last - 1 end
  return body:sub(1, last), complete, body:sub(last + 1)
end

--- What an EventSource would have dispatched so far, and its last id.
function M.messages(client)
  local messages, rest = reader.read(M.body(client), true)
  return messages, rest.last_event_id
end

--- The data of all messages so far. An event of a type is shown as "type:data".
function M.data(client)
  local list = {}
  for i, message in ipairs((M.messages(client))) do
    list[i] = message.type == "message" and message.data or message.type .. ":" .. message.data
  end
  return list
end

--- The blocks of the body so far, without the first, which tells when to come back.
function M.blocks(client)
  local list = {}
  for block in M.body(client):gmatch "(.-\n)\n" do list[#list + 1] = block end
  assert(table.remove(list, 1):find "^retry: %d+\n$")
  return list
end

--- Waits for an event with that data, and returns the data of all so far.
function M.wait_data(client, data)
  client:wait(("data: %s\n\n"):format(data), true)
  return M.data(client)
end

function M.last_id(client)
  return (select(2, M.messages(client)))
end

--- "1" .. "n", or from .. to.
function M.numbers(from, to)
  if not to then from, to = 1, from end
  local list = {}
  for i = from, to do list[#list + 1] = tostring(i) end
  return list
end

--- Publishes 1 .. n, or from .. to; returns the ids.
function M.publish(channel, from, to)
  local ids = {}
  for i, number in ipairs(M.numbers(from, to)) do ids[i] = assert(channel:publish(number)) end
  return ids
end

--- Compares long lists; a message shows where they part, and not all of them.
function M.assert_list(wanted, got)
  for i = 1, math.max(#wanted, #got) do
    if wanted[i] ~= got[i] then
      local function around(list) return table.concat(list, ", ", math.max(i - 5, 1), math.min(i + 5, #list)) end
      error(("lists of %d and %d entries part at %d: wanted ... %s ..., got ... %s ..."):format(#wanted, #got, i,
        around(wanted), around(got)), 2)
    end
  end
end

--- Runs a function in a callback of the app's, and waits until it has returned; returns what it returned.
function M.run(app, fn)
  local done, results
  app:after(0, function()
    results = { pcall(fn) }
    done = true
  end)
  net.wait(function() return done end, "the callback")
  if not results[1] then error(results[2], 0) end
  return M.unpack(results, 2)
end

--- Waits for a value of app:stats().
function M.wait_stat(app, name, value)
  net.wait(function() return app:stats()[name] == value end, function()
    return ("stats().%s == %d; it is %d"):format(name, value, app:stats()[name])
  end)
end

--- A hub whose streams subscribe to "news", which has those options, as app.options say; also that channel.
function M.open_hub(channel_options, options)
  local app, port
  app, port = M.hub({ channels = { news = channel_options } }, function(stream)
    return stream:subscribe("news", app.options)
  end)
  app.options = options
  return app, port, app:channel "news"
end

--- What subscribe returned for a client with that id, or those headers, the data that it gets of "news" up to an event
--- that is published afterwards, and the client.
function M.resumed(app, port, lines, path)
  local client = M.join(port, path, lines)
  app:channel("news"):publish { id = false, data = "end" }
  local list = M.wait_data(client, "end")
  assert(table.remove(list) == "end")
  return app.results[#app.results], list, client
end

return M
