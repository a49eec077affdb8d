-- How often a process turns to Redis while there is much to do: what comes sooner goes along with the next time. A
-- channel that gathers its events for a while anyhow loses little by it; one that flushes at once, nothing.
local M = {}

local SHARE, MOST, AUTO = 0.25, 0.005, 0.002

--- The seconds between two times, for a channel's flush, in seconds (negative: "auto").
function M.of(flush)
  return flush < 0 and AUTO or math.min(flush * SHARE, MOST)
end

return M
