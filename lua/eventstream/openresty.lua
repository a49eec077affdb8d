--- eventstream inside nginx's Lua module (OpenResty): the same apps, on nginx's sockets.
---
--- An app is loaded once, in init_by_lua_block or init_worker_by_lua_block; `app:serve` only returns it there. Then
--- init_worker() in init_worker_by_lua_block, and serve(app) in a content_by_lua_block.
local place = require "eventstream.place"
local ngx = place.nginx

if not ngx then error("eventstream.openresty: this is not nginx: run the script by itself (app:serve)", 0) end

local App = require "eventstream.app"
require "eventstream"
local check = require "eventstream.check"
local client = require "eventstream.openresty.client"
local dict = require "eventstream.openresty.dict"
local worker = require "eventstream.openresty.worker"

local M = {}

local WORKER = { grace = check.duration, spread = check.duration }

--- Begins in a worker: to be called in init_worker_by_lua_block. The options are those of app:close, for the end of the
--- worker at a reload or quit.
---@param options { grace: number?, spread: number? }?
function M.init_worker(options)
  options = check.call(check.options, "init_worker", options, WORKER)
  if ngx.get_phase() ~= "init_worker" then error("init_worker: call it in init_worker_by_lua_block", 2) end
  worker.start(options)
end

-- --- The request as the core's parser wants it ---

local SKIPPED = { connection = true, expect = true, ["transfer-encoding"] = true, ["content-length"] = true,
  ["keep-alive"] = true, upgrade = true, te = true }

local function decode(path)
  return (path:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function merge(path) return (path:gsub("//+", "/")) end

-- The path as the client sent it, where nginx has the same and only decoded it and merged its slashes: its locations,
-- and so its access rules, are chosen by its own. Else nginx's: with its dots resolved, or rewritten.
local function target()
  local var = ngx.var
  local uri, args = var.uri, var.args
  local path = (var.request_uri or ""):match "^[^?]*"
  if merge(decode(path)) ~= merge(uri) then
    path = uri:gsub("[^%w%-%._~!$&'()*+,;=:@/]", function(c) return ("%%%02X"):format(c:byte()) end)
  end
  return args and path .. "?" .. args or path
end

local function read_file(name, limit)
  local file = io.open(name, "rb")
  if not file then return nil, 0 end
  local size = file:seek "end"
  file:seek "set"
  local body = size <= limit and file:read "*a" or ""
  file:close()
  return body, size
end

-- The body and its size; one that is known to be too large is not waited for.
local function body_of(limit)
  local announced = tonumber(ngx.var.http_content_length)
  if announced and announced > limit then return nil, announced end
  ngx.req.read_body()
  local body = ngx.req.get_body_data()
  if body then return body, #body end
  local name = ngx.req.get_body_file()
  if name then return read_file(name, limit) end
  return nil, 0
end

local function request(app)
  local body, size = body_of(app._limits.body_bytes)
  local lines = { ("%s %s HTTP/1.%d\r\n"):format(ngx.req.get_method(), target(),
    ngx.req.http_version() == 1 and 0 or 1) }
  local n = 1
  for name, value in pairs(ngx.req.get_headers(0)) do
    if not SKIPPED[name] then
      for _, each in ipairs(type(value) == "table" and value or { value }) do
        n = n + 1
        lines[n] = name .. ": " .. (each == true and "" or each) .. "\r\n"
      end
    end
  end
  if size > 0 then
    n = n + 1
    lines[n] = ("Content-Length: %d\r\n"):format(size)
  end
  lines[n + 1] = "\r\n"
  lines[n + 2] = body
  return table.concat(lines)
end

local DICT = { name = check.string, prefix = check.string }

--- A backplane for eventstream.new: which lua_shared_dict the workers have in common (default "eventstream", which
--- needs no backplane), and under which prefix the app's keys stand in it (default: the name of the file that makes
--- it).
---@param options { name: string?, prefix: string? }
function M.dict(options)
  options = check.call(check.options, "dict", options, DICT)
  return {
    attach = function(_, app)
      return dict.attach(app, {
        name = options.name or "eventstream", prefix = options.prefix or worker.source(), required = true,
      })
    end,
  }
end

--- Answers nginx's running request by the app: the last statement of a content_by_lua_block.
---@param app eventstream.App
function M.serve(app)
  if getmetatable(app) ~= App then error("serve: app must be an app, not " .. check.show(app), 2) end
  if not worker.running() then
    error("serve: call require('eventstream.openresty').init_worker() in init_worker_by_lua_block, and leave "
      .. "lua_code_cache on", 2)
  end
  return client.serve(app, request(app))
end

return M
