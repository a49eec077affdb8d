-- Prints the tables of bench/run, bench/fanout and bench/openresty: medians of their lines "part TAB peer TAB json".
--
--   lua5.4 bench/table.lua bench/build/results.tsv

local names = {
  floor = "floor (bare C)",
  eventstream = "eventstream",
  ["eventstream-auto"] = "eventstream auto",
  go = "Go, one core",
  ["go-all"] = "Go, all cores",
  node = "Node",
  redis = "eventstream through Redis",
  nchan = "nchan",
  hand = "by hand in nginx",
  openresty = "in nginx",
  ["openresty-batch"] = "in nginx, 20 ms",
  ["openresty-unchunked"] = "  unchunked",
  ["openresty-both"] = "  both",
}
local order = {
  "floor", "hand", "redis", "nchan", "openresty", "openresty-batch", "openresty-unchunked", "openresty-both",
  "eventstream", "eventstream-auto", "go", "go-all", "node",
}

-- results[part][peer][field] is the list of what the runs gave.
local function read(path)
  local results = {}
  for line in io.lines(path) do
    local part, peer, json = line:match("^(%S+)\t(%S+)\t(.*)$")
    results[part] = results[part] or {}
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

local function short(value)
  return (value >= 100 and "%.0f" or value >= 1 and "%.2f" or "%.3f"):format(value)
end

local function spread(list)
  table.sort(list)
  return short(list[1]) .. "-" .. short(list[#list])
end

local function sum(list)
  local total = 0
  for _, value in ipairs(list) do total = total + value end
  return total
end

-- One table, where there is something to show. A column is { heading, field, and one of: format; of (relative to this
-- peer, where it is there); total; range }.
local function show(title, peers, all_columns)
  if not peers then return end
  local columns = {}
  for _, column in ipairs(all_columns) do
    if not column.of or peers[column.of] then columns[#columns + 1] = column end
  end
  print(("\n%s"):format(title))
  local headings = { ("%-16s"):format("") }
  for _, column in ipairs(columns) do table.insert(headings, ("%15s"):format(column.heading)) end
  print(table.concat(headings))
  for _, peer in ipairs(order) do
    local fields = peers[peer]
    if fields then
      local cells = { ("%-16s"):format(names[peer]) }
      for _, column in ipairs(columns) do
        local text
        if not fields[column.field] then
          text = "-" -- a peer that failed, or that this is not asked of
        elseif column.of then
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

-- Where the client had no time left, it may have been what limited the server.
local function warn(peers)
  for _, peer in ipairs(order) do
    local fields = peers and peers[peer]
    if fields and median(fields.client_load) > 0.9 then
      print(("%s: void, the client was busy all the time"):format(names[peer]))
    end
  end
end

local results = read(arg[1])

show("(a) every client with an interval of 500 ms: CPU time of the server per event", results.interval, {
  { heading = "us/event", field = "cpu_us_per_event", format = "%.2f" },
  { heading = "of floor", field = "cpu_us_per_event", of = "floor" },
  { heading = "of Go", field = "cpu_us_per_event", of = "go" },
  { heading = "of by hand", field = "cpu_us_per_event", of = "hand" },
  { heading = "lowest-highest", field = "cpu_us_per_event", range = true },
  { heading = "events", field = "events", format = "%.0f" },
  { heading = "bytes/event", field = "bytes_per_event", format = "%.1f" },
  { heading = "PSS KB", field = "pss_end_kb", format = "%.0f" },
  { heading = "failures", field = "failures", total = true },
})

show("(b) idle streams: memory of the server per stream", results.idle, {
  { heading = "bytes/stream", field = "pss_per_stream_bytes", format = "%.0f" },
  { heading = "of Go", field = "pss_per_stream_bytes", of = "go" },
  { heading = "of nchan", field = "pss_per_stream_bytes", of = "nchan" },
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

local delivery = {
  { heading = "events/s", field = "events_per_second", format = "%.0f" },
  { heading = "bytes/event", field = "bytes_per_event", format = "%.1f" },
  { heading = "server load", field = "server_load", format = "%.2f" },
  { heading = "client load", field = "client_load", format = "%.2f" },
  { heading = "missing", field = "missing", total = true },
  { heading = "undelivered", field = "undelivered", total = true },
  { heading = "repeated", field = "repeated", total = true },
  { heading = "malformed", field = "malformed", total = true },
  { heading = "failures", field = "failures", total = true },
}

local cost = {
  { heading = "us/event", field = "cpu_us_per_event", format = "%.3f" },
  { heading = "of floor", field = "cpu_us_per_event", of = "floor" },
  { heading = "of nchan", field = "cpu_us_per_event", of = "nchan" },
  { heading = "lowest-highest", field = "cpu_us_per_event", range = true },
  { heading = "median ms", field = "p50_ms", format = "%.1f" },
  { heading = "99 % ms", field = "p99_ms", format = "%.1f" },
  { heading = "99 % of floor", field = "p99_ms", of = "floor" },
}

show("(d) 100 events a second to all, each at once: CPU time of the server per event delivered, and delay",
  results.fanout, cost)
show("(d) what arrived", results.fanout, delivery)
warn(results.fanout)

show("(e) 5,000 events a second to all: CPU time of the server per event delivered, and delay", results.flood, cost)
show("(e) what arrived", results.flood, delivery)
warn(results.flood)

show("(h) 2,000 events a second to all: CPU time of the server per event delivered, and delay", results.torrent, cost)
show("(h) what arrived", results.torrent, delivery)
warn(results.torrent)

show("(f) idle subscribers: memory of the server for each, and one event to all until the last has it", results.crowd, {
  { heading = "bytes/stream", field = "pss_per_stream_bytes", format = "%.0f" },
  { heading = "open seconds", field = "open_seconds", format = "%.3f" },
  { heading = "last one ms", field = "last_ms", format = "%.1f" },
  { heading = "of floor", field = "last_ms", of = "floor" },
  { heading = "lowest-highest", field = "last_ms", range = true },
  { heading = "missing", field = "missing", total = true },
  { heading = "undelivered", field = "undelivered", total = true },
  { heading = "repeated", field = "repeated", total = true },
  { heading = "failures", field = "failures", total = true },
})

show("(g) publish, with all subscribers attached: the call alone, in the script", results.publish, {
  { heading = "us", field = "publish_us", format = "%.2f" },
  { heading = "lowest-highest", field = "publish_us", range = true },
  { heading = "turn's first", field = "publish_first_us", format = "%.2f" },
  { heading = "99 % us", field = "publish_p99_us", format = "%.2f" },
  { heading = "slowest us", field = "publish_max_us", format = "%.2f" },
  { heading = "failures", field = "failures", total = true },
})
