-- Where this runs: in a process of its own, or inside nginx's Lua module.
local M = {}

local ngx = rawget(_G, "ngx")

--- nginx's interface, or false.
M.nginx = type(ngx) == "table" and type(ngx.config) == "table" and ngx.config.subsystem == "http" and ngx or false

return M
