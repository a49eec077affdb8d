--- Numbers that look random and are the same for the same seed on every Lua.
local M = {}

--- draw(n) is a whole number from 1 to n; draw() one from 0 up to 1.
---@param seed integer
---@return fun(limit: integer?): number
function M.new(seed)
  local state = seed % 2147483647
  if state == 0 then state = 1 end
  local function draw(limit)
    state = state * 16807 % 2147483647 -- Park and Miller's; exact in a double
    if not limit then return state / 2147483647 end
    return math.floor(state / 2147483647 * limit) + 1
  end
  for _ = 1, 10 do draw() end -- small seeds begin alike
  return draw
end

return M
