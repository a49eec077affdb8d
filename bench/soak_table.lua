-- What bench/soak says at its end: rows of the run, how memory went, and rest before and after.
--
--   lua5.4 bench/soak_table.lua bench/build/soak.tsv       ends with 1 when something has not come back
local SLOPE = 100 -- KiB per minute that RSS may grow by, in the second half of the load
local ROWS = 30   -- of the load's second half: with fewer the slope is noise, and not judged
local SHOWN = { "time", "phase", "rss", "pss", "descriptors", "lua", "references", "coroutines", "connections",
  "streams", "channels", "subscribers", "accepted" }
local AT_REST = { "descriptors", "references", "coroutines", "connections", "streams", "subscribers", "channels",
  "backlog" }
local WANTED = { "rejected", "slow", "skipped", "gaps", "resumes", "errors", "backlogs", "waits", "abandoned", "closed",
  "end_client", "end_server", "end_slow", "end_expired", "end_error" }

local columns, rows = nil, {}
for line in io.lines(arg[1]) do
  local cells = {}
  for cell in line:gmatch "[^\t]+" do cells[#cells + 1] = cell end
  if columns then
    local row = {}
    for i, column in ipairs(columns) do row[column] = tonumber(cells[i]) or cells[i] end
    rows[#rows + 1] = row
  else
    columns = cells
  end
end

local before, load, after = nil, {}, nil
for _, row in ipairs(rows) do
  if row.phase == "start" then before = row end
  if row.phase == "load" then load[#load + 1] = row end
  if row.phase == "rest" then after = row end
end
if not before or not after or #load == 0 then
  print "the run is not whole: there is nothing to compare"
  os.exit(1)
end

local wrong = false
local function complain(...)
  wrong = true
  print("WRONG: " .. string.format(...))
end

-- ---- rows ----

local function show(cells)
  for i, cell in ipairs(cells) do cells[i] = ("%11s"):format(cell) end
  print(table.concat(cells, " "))
end

show { table.unpack(SHOWN) }
for _, share in ipairs { 0.1, 0.25, 0.5, 0.75, 1 } do
  local nearest = rows[1]
  for _, row in ipairs(rows) do
    if math.abs(row.time - share * after.time) < math.abs(nearest.time - share * after.time) then nearest = row end
  end
  local cells = {}
  for i, column in ipairs(SHOWN) do cells[i] = nearest[column] end
  show(cells)
end

-- ---- slopes ----

-- KiB per minute, least squares; only under load: what is at rest would hide what grows.
local function slope(column, from)
  local n, sx, sy, sxx, sxy = 0, 0, 0, 0, 0
  for _, row in ipairs(load) do
    if row.time >= from then
      local x, y = row.time / 60, row[column]
      n, sx, sy, sxx, sxy = n + 1, sx + x, sy + y, sxx + x * x, sxy + x * y
    end
  end
  local spread = n * sxx - sx * sx
  return spread > 0 and (n * sxy - sx * sy) / spread or 0, n
end

local middle = (load[1].time + load[#load].time) / 2
local rss, n = slope("rss", middle)
print(("\nslope over the second half of the load (%d rows), KiB per minute: RSS %.1f, PSS %.1f, Lua %.1f"):format(
  n, rss, slope("pss", middle), (slope("lua", middle))))
if n < ROWS then
  print "too few rows to judge that"
elseif rss > SLOPE then
  complain("RSS grows by more than %d KiB per minute", SLOPE)
end

-- ---- rest ----

print "\nat rest, before and after:"
for _, column in ipairs { "rss", "pss", "lua", table.unpack(AT_REST) } do
  print(("  %-12s %10s %10s"):format(column, before[column], after[column]))
end
for _, column in ipairs(AT_REST) do
  if before[column] ~= after[column] then complain("%s: %s before, %s after", column, before[column], after[column]) end
end

-- ---- whether there was load ----

local happened = {}
for i = 1, #columns do
  local column = columns[i]
  local from, to = before[column], after[column]
  if type(to) == "number" and to > from and i > 12 then
    happened[#happened + 1] = ("%s %d"):format(column, to - from)
  end
end
print("\nbetween: " .. table.concat(happened, ", "))
for _, column in ipairs(WANTED) do
  if after[column] == before[column] then complain("the load had no %s", column) end
end
if after.failures > 0 then complain("%d errors that were not meant: see the log", after.failures) end
os.exit(not wrong)
