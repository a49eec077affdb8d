-- Prints the tables of bench/run: medians of its lines "part TAB peer TAB json".
--
--   lua5.4 bench/table.lua bench/build/results.tsv

local names = {
  floor = "floor (bare C)",
  eventstream = "eventstream",
  go = "Go, one core",
  ["go-all"] = "Go, all cores",
  node = "Node",
}
local order = { "floor", "eventstream", "go", "go-all", "node" }

-- results[part][peer][field] is the list of what the runs gave.
local function read(path)
  local results = { interval = {}, idle = {} }
  for line in io.lines(path) do
    local part, peer, json = line:match("^(%S+)\t(%S+)\t(.*)$")
    local fields = results[part][peer] or {}
    results[part][peer] = fields
    for field, value in json:gmatch('"([%w_]+)":(%-?[%d.]+)') do
      fields[field] = fields[field] or {}
      table.insert(fields[field], tonumber(value))
    end
  end
  return results
end

local function median(list)
  table.sort(list)
  return (list[math.floor((#list + 1) / 2)] + list[math.floor(#list / 2) + 1]) / 2
end

local function spread(list)
  table.sort(list)
  return ("%.2f-%.2f"):format(list[1], list[#list])
end

local function sum(list)
  local total = 0
  for _, value in ipairs(list) do total = total + value end
  return total
end

-- One table; a column is { heading, field, format [, relative to this peer] }.
local function show(title, peers, columns)
  print(("\n%s"):format(title))
  local headings = { ("%-16s"):format("") }
  for _, column in ipairs(columns) do table.insert(headings, ("%15s"):format(column.heading)) end
  print(table.concat(headings))
  for _, peer in ipairs(order) do
    local fields = peers[peer]
    if fields then
      local cells = { ("%-16s"):format(names[peer]) }
      for _, column in ipairs(columns) do
        local text = "-"
        if column.of then
          local base = peers[column.of] and median(peers[column.of][column.field])
          if base and base > 0 then text = ("%.2f"):format(median(fields[column.field]) / base) end
        elseif column.total then
          text = ("%d"):format(sum(fields[column.field]))
        elseif column.range then
          text = spread(fields[column.field])
        else
          text = column.format:format(median(fields[column.field]))
        end
        table.insert(cells, ("%15s"):format(text))
      end
      print(table.concat(cells))
    end
  end
end

local results = read(arg[1])

show("(a) every client with an interval of 500 ms: CPU time of the server per event", results.interval, {
  { heading = "us/event", field = "cpu_us_per_event", format = "%.2f" },
  { heading = "of floor", field = "cpu_us_per_event", of = "floor" },
  { heading = "of Go", field = "cpu_us_per_event", of = "go" },
  { heading = "lowest-highest", field = "cpu_us_per_event", range = true },
  { heading = "events", field = "events", format = "%.0f" },
  { heading = "bytes/event", field = "bytes_per_event", format = "%.1f" },
  { heading = "PSS KB", field = "pss_end_kb", format = "%.0f" },
  { heading = "failures", field = "failures", total = true },
})

show("(b) idle streams: memory of the server per stream", results.idle, {
  { heading = "bytes/stream", field = "pss_per_stream_bytes", format = "%.0f" },
  { heading = "of Go", field = "pss_per_stream_bytes", of = "go" },
  { heading = "PSS before KB", field = "pss_before_kb", format = "%.0f" },
  { heading = "PSS with KB", field = "pss_after_kb", format = "%.0f" },
  { heading = "failures", field = "failures", total = true },
})

show("(c) the idle streams opened as fast as the server answers", results.idle, {
  { heading = "seconds", field = "open_seconds", format = "%.3f" },
  { heading = "of floor", field = "open_seconds", of = "floor" },
  { heading = "of Go", field = "open_seconds", of = "go" },
  { heading = "lowest-highest", field = "open_seconds", range = true },
  { heading = "CPU seconds", field = "cpu_open_seconds", format = "%.3f" },
  { heading = "CPU of Go", field = "cpu_open_seconds", of = "go" },
  { heading = "failures", field = "failures", total = true },
})
