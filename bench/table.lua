-- Prints the tables of bench/run, fanout, redis and openresty: medians of their lines "part TAB peer TAB json".
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
  ["nchan-redis"] = "nchan through Redis",
  ["processes-1"] = "1 process",
  ["processes-2"] = "2 processes",
  ["processes-4"] = "4 processes",
  ["shared-1"] = "1 process, paced",
  ["shared-2"] = "2 processes, paced",
  ["shared-4"] = "4 processes, paced",
  hand = "by hand in nginx",
  openresty = "in nginx",
  ["openresty-batch"] = "in nginx, 20 ms",
  ["openresty-unchunked"] = "  unchunked",
  ["openresty-both"] = "  both",
}
local order = {
  "floor", "hand", "nchan", "nchan-redis", "openresty", "openresty-batch", "openresty-unchunked", "openresty-both",
  "eventstream", "redis", "eventstream-auto", "go", "go-all", "node", "processes-1", "processes-2", "processes-4",
  "shared-1", "shared-2", "shared-4",
}
local without = { redis = "eventstream", ["nchan-redis"] = "nchan" } -- the same without Redis

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

local function has_field(peers, field)
  for _, fields in pairs(peers) do
    if fields[field] then return true end
  end
  return false
end

-- One table, where there is something to show. A column is { heading, field, and one of: format; of (relative to this
-- peer, where it is there); total; range; added (what Redis adds) }. One that is optional is left out where no peer has
-- the field, and one with a peer where that is not there.
local function show(title, peers, all_columns)
  if not peers then return end
  local columns, width = {}, 16
  for _, column in ipairs(all_columns) do
    if (not column.of or peers[column.of]) and (not column.with or peers[column.with])
      and (not column.optional or has_field(peers, column.field)) then
      columns[#columns + 1] = column
    end
  end
  for peer in pairs(peers) do width = math.max(width, #names[peer] + 1) end
  local label = ("%%-%ds"):format(width)
  print(("\n%s"):format(title))
  local headings = { label:format("") }
  for _, column in ipairs(columns) do table.insert(headings, ("%15s"):format(column.heading)) end
  print(table.concat(headings))
  for _, peer in ipairs(order) do
    local fields = peers[peer]
    if fields then
      local cells = { label:format(names[peer]) }
      for _, column in ipairs(columns) do
        local text
        if not fields[column.field] then
          text = "-" -- a peer that failed, or that this is not asked of
        elseif column.of then
          local base = peers[column.of] and median(peers[column.of][column.field])
          if base and base > 0 then text = ("%.2f"):format(median(fields[column.field]) / base) end
        elseif column.added then
          local base = peers[without[peer]]
          text = base and column.format:format(median(fields[column.field]) - median(base[column.field])) or "-"
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

-- Names a row that does not count.
local function name_incomplete(peer, fields)
  for _, field in ipairs { "missing", "undelivered", "repeated", "malformed", "failures" } do
    if fields[field] and sum(fields[field]) > 0 then
      print(("%s: void, not all arrived once"):format(names[peer]))
      return
    end
  end
end

-- Where the client had no time left, it may have been what limited the server. It shares its core with what publishes
-- to nchan, and with Redis.
local function warn(peers)
  for _, peer in ipairs(order) do
    local fields = peers and peers[peer]
    if fields then name_incomplete(peer, fields) end
    if fields and median(fields.client_load) > 0.9 then
      print(("%s: void, the client was busy all the time"):format(names[peer]))
    elseif fields then
      local load = median(fields.client_load)
      for _, other in ipairs { "redis_load", "publisher_load" } do
        load = load + (fields[other] and median(fields[other]) or 0)
      end
      if load > 0.9 then print(("%s: void, the client's core was busy all the time"):format(names[peer])) end
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
  { heading = "Redis load", field = "redis_load", format = "%.2f", optional = true },
  { heading = "publisher load", field = "publisher_load", format = "%.2f", optional = true },
  { heading = "missing", field = "missing", total = true },
  { heading = "undelivered", field = "undelivered", total = true },
  { heading = "repeated", field = "repeated", total = true },
  { heading = "malformed", field = "malformed", total = true },
  { heading = "failures", field = "failures", total = true },
}

local cost = {
  { heading = "us/event", field = "cpu_us_per_event", format = "%.3f" },
  { heading = "of floor", field = "cpu_us_per_event", of = "floor" },
  { heading = "of eventstream", field = "cpu_us_per_event", of = "eventstream", with = "redis" },
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

show("(l) 100 events a second to a few: delay since the event was published", results.latency, {
  { heading = "median ms", field = "p50_ms", format = "%.2f" },
  { heading = "lowest-highest", field = "p50_ms", range = true },
  { heading = "Redis adds", field = "p50_ms", added = true, format = "%.2f" },
  { heading = "99 % ms", field = "p99_ms", format = "%.2f" },
  { heading = "lowest-highest", field = "p99_ms", range = true },
  { heading = "Redis adds", field = "p99_ms", added = true, format = "%.2f" },
})
show("(l) what arrived", results.latency, delivery)
warn(results.latency)

show("(m) 2,000 events a second, spread over many channels: CPU time of the server per event delivered, and delay",
  results.channels, cost)
show("(m) what arrived", results.channels, delivery)
warn(results.channels)

show("(p) processes that publish to one channel through Redis as fast as they can, and all read it",
  results.processes, {
  { heading = "published/s", field = "published_per_second", format = "%.0f" },
  { heading = "lowest-highest", field = "published_per_second", range = true },
  { heading = "read by each/s", field = "read_per_second", format = "%.0f" },
  { heading = "us/published", field = "cpu_us_per_published", format = "%.1f" },
  { heading = "Redis us", field = "redis_us_per_published", format = "%.1f" },
  { heading = "servers' load", field = "server_load", format = "%.2f" },
  { heading = "Redis load", field = "redis_load", format = "%.2f" },
  { heading = "client load", field = "client_load", format = "%.2f" },
})
show("(p) what arrived", results.processes, {
  { heading = "published", field = "published", total = true },
  { heading = "refused", field = "refused", total = true },
  { heading = "missing", field = "missing", total = true },
  { heading = "undelivered", field = "undelivered", total = true },
  { heading = "repeated", field = "repeated", total = true },
  { heading = "failures", field = "failures", total = true },
})
for _, peer in ipairs(order) do
  local fields = results.processes and results.processes[peer]
  if fields then name_incomplete(peer, fields) end
  if fields and median(fields.redis_load) + median(fields.client_load) > 0.9 then
    print(("%s: the core of Redis was busy all the time, and what limits them"):format(names[peer]))
  end
end

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
