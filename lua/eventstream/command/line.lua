-- An error as the command tells it: one line, that says where in the script.
local M = {}

local compile = loadstring or load
local root = debug.getinfo(1, "S").source:match "^(.*)eventstream/command/line%.lua$"

-- Whether that is one of this library's files, by a name that Lua may have shortened.
local function is_ours(name)
  local file = name:match "^.*(eventstream[%w_/]*%.lua)$"
  return root and file and debug.getinfo(compile("", root .. file), "S").short_src == name or false
end

-- The script's innermost place in a traceback, up to where it was called from.
local function place_in(traceback)
  for line in traceback:gmatch "[^\n]+" do
    if line:find("'xpcall'", 1, true) then return end
    local name, number = line:match "^%s*([^:]+):(%d+): in "
    if name and not is_ours(name) then return name .. ":" .. number end
  end
end

--- The line. What a message has behind its first line is left out, but for the cause where that announces one: of a
--- module that cannot be loaded.
---@param message string
---@param traceback string
---@param default string? the place, where neither tells one: Lua forgets it in a tail call
---@return string
function M.of(message, traceback, default)
  local text, rest = message:match "^([^\n]*)\n?(.*)$"
  local announced, cause = text:match "^(.*):$", rest:match "^%s*([^\n]*)"
  if announced then text = cause:find ":%d+:" and text .. " " .. cause or announced end
  local name, said = text:match "^([^:]+):%d+: (.*)$"
  if name and not is_ours(name) then return text end
  if name then text = said end
  local place = place_in(traceback) or default
  return place and place .. ": " .. text or text
end

return M
