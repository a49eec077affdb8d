--- Where an app may live: a process of its own, and nginx with one worker or several. A house serves one app, a file
-- that is the same in all of them.

local uv = require "luv"
local process = require "spec.support.process"

local M = {}

local HERE = assert(uv.fs_realpath(debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"))
local TREE = HERE:match "^(.*)/spec/support$"
local MODULES = "/usr/lib/nginx/modules/"
-- Where the suite runs with a sanitizer, nginx does, too.
local SANITIZED = os.getenv "ASAN_OPTIONS" ~= nil
local BUILD = TREE .. (SANITIZED and "/build/sanitize-luajit" or "/build/luajit")
local NGINX = { MODULES .. "ndk_http_module.so", MODULES .. "ngx_http_lua_module.so" }

---@class spec.House
---@field name string
---@field workers integer  processes that answer
---@field missing string?  why it cannot be had here
---@field port integer     once it is open
---@field process spec.Process
---@field open fun(self: spec.House, app: string)  starts it, with a module of this folder as its app
---@field close fun(self: spec.House): integer  ends it; returns its exit code

local function exists(path) return uv.fs_stat(path) ~= nil end

local own = { name = "a process of its own", workers = 1 }

function own:open(app)
  self.process = process.lua({ ("%s/%s.lua"):format(HERE, app) }, { PORT = "0" })
  self.port = tonumber((self.process:wait_line "listening on http://127%.0%.0%.1:(%d+)/"))
end

function own:close()
  self.process:kill "sigterm"
  return (self.process:wait_exit())
end

local function what_nginx_lacks()
  if not process.find "nginx" and not exists "/usr/sbin/nginx" then return "nginx is not installed" end
  for _, path in ipairs(NGINX) do
    if not exists(path) then return path .. " is not installed" end
  end
  if not exists(BUILD .. "/eventstream/core.so") then return "not built: make LUA=luajit, or make sanitize" end
end

--- A port that nothing listens on.
function M.free_port()
  local handle = uv.new_tcp()
  assert(handle:bind("127.0.0.1", 0))
  local port = handle:getsockname().port
  handle:close()
  uv.run "nowait" -- completes the closing
  return port
end

local CONF = [[
daemon off;
master_process on;
pid FOLDER/nginx.pid;
worker_processes WORKERS;
LOAD
error_log stderr notice;
events { worker_connections 4096; }
http {
  access_log off;
  client_header_timeout 2s; # browsers connect in advance: nginx, when it is to end, waits so long for a request
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  lua_package_path "TREE/lua/?.lua;HERE/?.lua;TREE/?.lua;TREE/examples/?.lua;;";
  lua_package_cpath "BUILD/?.so;;";
  DICT
  init_by_lua_block { require "APP" }
  INIT
  server {
    listen 127.0.0.1:PORT OPTIONS;
    SERVER
    location / {
      lua_check_client_abort ABORT;
      lua_http10_buffering off;
      content_by_lua_block { require "eventstream.openresty".serve(require "APP") }
    }
  }
}
]]

local Nginx = {}
Nginx.__index = Nginx

local INIT = 'init_worker_by_lua_block { require "eventstream.openresty".init_worker() }'

local function write_conf(self, app)
  local load, options = {}, self.options
  for i, path in ipairs(NGINX) do load[i] = ("load_module %s;"):format(path) end
  if uv.getuid() == 0 then load[#load + 1] = "user root;" end -- else its workers may not read what is ours
  local values = {
    FOLDER = self.folder, WORKERS = self.workers, LOAD = table.concat(load, "\n"), BUILD = BUILD, TREE = TREE,
    HERE = HERE, APP = app,
    DICT = options.dict or "lua_shared_dict eventstream 10m;", INIT = options.init or INIT,
    SERVER = options.server or "", ABORT = self.workers > 1 and "off" or "on", -- it must not matter
    PORT = self.port, OPTIONS = self.workers > 1 and "reuseport" or "", -- connections are spread over the workers
  }
  local path = self.folder .. "/nginx.conf"
  local file = assert(io.open(path, "w"))
  file:write((CONF:gsub("%u%u+", values):gsub("%u%u+", values)))
  file:close()
  return path
end

-- Without waiting for it.
function Nginx:start(app)
  self.folder = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/nginx-XXXXXX"))
  self.port = M.free_port()
  local args = { "-e", "stderr", "-p", self.folder, "-c", write_conf(self, app) }
  -- what the suite's Lua loads is not for LuaJIT
  local env = { LUA_PATH = false, LUA_CPATH = false, LUA_PATH_5_1 = false, LUA_CPATH_5_1 = false }
  if SANITIZED then
    local child = io.popen "gcc -print-file-name=libasan.so"
    env.LD_PRELOAD, env.ASAN_OPTIONS = child:read "*l", "detect_leaks=0" -- nginx itself frees little at its end
    child:close()
  end
  self.process = process.spawn(process.find "nginx" or "/usr/sbin/nginx", args, env)
  self.pids = {}
end

function Nginx:wait_workers()
  for i = 1, self.workers do -- its socket is open before
    self.pids[i] = tonumber((self.process:wait_line "start worker process (%d+)"))
  end
end

function Nginx:open(app)
  self:start(app)
  self:wait_workers()
end

-- Gracefully, else by force: the workers of a master that is killed would live on.
function Nginx:close()
  if not self.process then return end -- it is not built for nginx
  self.process:kill "sigquit"
  local ok, result = pcall(self.process.wait_exit, self.process)
  if not ok then
    self.process:kill "sigkill"
    for _, pid in ipairs(self.pids) do uv.kill(pid, "sigkill") end
  end
  os.execute(("rm -rf '%s'"):format(self.folder))
  if not ok then error(result, 0) end
  return result
end

--- nginx. Options: what stands in its conf for the dict, for init_worker, and in its server.
---@param workers integer
---@param options { dict: string?, init: string?, server: string? }?
function M.nginx(workers, options)
  local name = ("nginx with %d worker%s"):format(workers, workers == 1 and "" or "s")
  return setmetatable({ name = name, workers = workers, missing = what_nginx_lacks(), options = options or {} }, Nginx)
end

---@type spec.House[]
M.all = { own, M.nginx(1), M.nginx(2) }

return M
