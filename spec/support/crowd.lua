--- A thousand readers of one stream in one process, for specs of fan-out: each is a socket and a count of bytes.
--
-- Whoever reads the same channel from the same event on gets the same bytes, so that one reader in SHARE that checks
-- every byte (spec.support.wire) stands for the others, whose bytes are only counted.
local uv = require "luv"
local wire = require "spec.support.wire"

local M = {}

M.SHARE = 10

-- Who has much to read lets the others read in between: libuv would read 2 MB of one socket before the next.
local waiting, turns = {}, uv.new_prepare()
turns:start(function()
  local all = waiting
  waiting = {}
  for _, client in ipairs(all) do
    if not client.ended then client:resume() end
  end
end)
turns:unref()

---@class spec.CrowdClient
---@field number integer
---@field handle userdata
---@field bytes integer   that came since it was ready
---@field ended boolean   the server closed, or failed, the connection
---@field failure string?
---@field wire spec.Wire? of those that check
local Client = {}
Client.__index = Client

local READY = "%f[^\n]id: %x+%-%d+\n\n\r\n$" -- the block that opens a subscription, at the end of its chunk

--- Connects. ready(client) is called when its subscription has begun: all that came before is not counted.
---@param options { port: integer, target: string, number: integer, last_event_id: string?, checks: boolean?,
---  in_turns: boolean?, receive_bytes: integer?, on_event: fun(client: spec.CrowdClient, type: string, data: string)?,
---  on_end: fun(client: spec.CrowdClient)? }
---@param ready fun(client: spec.CrowdClient)
---@return spec.CrowdClient
function M.client(options, ready)
  local handle = uv.new_tcp "inet"
  local client = setmetatable({ number = options.number, handle = handle, bytes = 0, ended = false }, Client)
  if options.receive_bytes then uv.recv_buffer_size(handle, options.receive_bytes) end
  if options.checks then
    client.wire = wire.new(function(kind, data) options.on_event(client, kind, data) end, options.last_event_id)
  end
  local is_ready, head = false, ""
  function client.on_read(failure, bytes)
    if not bytes then
      client.ended, client.failure = true, failure
      handle:close()
      if options.on_end then options.on_end(client) end
      return
    end
    if options.in_turns then
      client:pause()
      waiting[#waiting + 1] = client
    end
    if client.wire then client.wire:feed(bytes) end
    if is_ready then
      client.bytes = client.bytes + #bytes
      return
    end
    head = head .. bytes
    is_ready = head:find(READY) ~= nil or (client.wire and client.wire.blocks > 1)
    if is_ready then
      head = nil
      ready(client)
    end
  end
  handle:connect("127.0.0.1", options.port, function(failure)
    assert(not failure, failure)
    local id = options.last_event_id
    handle:write(("GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"):format(options.target,
      id and ("Last-Event-ID: %s\r\n"):format(id) or ""))
    handle:read_start(client.on_read)
  end)
  return client
end

function Client:pause()
  self.handle:read_stop()
end

function Client:resume()
  self.handle:read_start(self.on_read)
end

--- The value below which that share of a sorted list lies.
---@param sorted number[]
---@param share number
function M.percentile(sorted, share)
  return sorted[math.max(1, math.ceil(#sorted * share))]
end

return M
