--- Apps that have their channels in common by Redis, each of which stands for a process of its own.
local net = require "spec.support.net"
local reader = require "spec.support.reader"
local path = require "spec.support.path"
local redis_server = require "spec.support.redis"

local M = {}

--- For setup: what stays of the module is not what a test left.
function M.warm_up()
  local told = false
  net.serve(function() end, {
    backplane = require("eventstream.redis").new { port = 1, on_state = function() told = true end },
  })
  net.wait(function() return told end)
  pcall(net.finish)
end

--- Ends all: servers first, as an app that is being closed waits for its own.
function M.finish()
  path.finish()
  redis_server.finish()
  net.finish()
end

--- An app with the Redis that was started last, or another port; its own port; and what it was told of the connection.
function M.serve(options, define)
  local state = {}
  options = options or {}
  options.port = options.port or redis_server.newest.port
  options.on_state = function(what, message) state[#state + 1] = message and what .. ": " .. message or what end
  local channels = options.channels
  options.channels = nil
  local app, port = net.serve(function(a)
    a:stream("/", function(stream, request)
      local names = {}
      for name in request.query.to:gmatch "[^,]+" do names[#names + 1] = name end
      local result, why = stream:subscribe(names, {
        newcomer = request.query.all and "all" or nil, member = request.query.member,
      })
      stream.data = result or why
    end)
    if define then define(a) end
  end, { backplane = require("eventstream.redis").new(options), channels = channels, retry = false })
  return app, port, state
end

function M.connected(state)
  net.wait(function() return state[#state] == "connected" end, function() return table.concat(state, "; ") end)
end

--- A subscriber: its events, and the last id.
function M.join(port, to, id)
  local client = net.connect(port):request("GET", "/?to=" .. to, { id and "Last-Event-ID: " .. id or "X: y" })
  local self = { client = client }
  function self.events()
    local body = client.received:match "\r\n\r\n(.*)$" or ""
    local text = body:gsub("%x+\r\n(.-)\r\n", "%1")
    local list = {}
    local events, rest = reader.read(text)
    for _, event in ipairs(events) do
      list[#list + 1] = event.type == "gap" and "gap " .. event.data or event.data
    end
    self.last = rest.last_event_id ~= "" and rest.last_event_id or nil
    return list
  end
  function self.has(...)
    local wanted = table.concat({ ... }, " ")
    net.wait(function() return table.concat(self.events(), " ") == wanted end, function()
      return wanted .. "; there is: " .. table.concat(self.events(), " ")
    end, 25)
    return self
  end
  function self.leave()
    self.events()
    client:close()
    return self.last
  end
  net.wait(function()
    self.events()
    return self.last
  end, function() return "the first id; there is: " .. client.received end, 25)
  return self
end

function M.publish(app, name, event)
  local id, why, done
  app:channel(name):publish(event, function(a, b) id, why, done = a, b, true end)
  net.wait(function() return done end, "publish", 25)
  return id, why
end

return M
