-- What an app counts, as Prometheus reads it (the text exposition format, version 0.0.4).
local M = {}

-- In the order in which they are told: the name, its kind, what it is, and the field of app:stats().
local METRICS = {
  { "connections", "gauge", "Open connections.", "connections" },
  { "streams", "gauge", "Open event streams.", "streams" },
  { "channels", "gauge", "Channels that exist.", "channels" },
  { "subscribers", "gauge", "Subscriptions of streams to channels.", "subscribers" },
  { "backlog_bytes", "gauge", "Bytes that wait for clients, and of request bodies.", "backlog" },
  { "loop_lag_seconds", "gauge", "How long something was kept waiting at most, in the last seconds.", "loop_lag" },
  { "uptime_seconds", "gauge", "How long the app has been there.", "uptime" },
  { "accepted_total", "counter", "Connections that were accepted.", "accepted" },
  { "requests_total", "counter", "Whole requests that were taken.", "requests" },
  { "published_total", "counter", "Events that were published to channels.", "published" },
  { "events_total", "counter", "Events that were handed to sockets, once for each stream.", "events" },
  { "received_bytes_total", "counter", "Bytes that were read from clients.", "bytes_in" },
  { "sent_bytes_total", "counter", "Bytes that were handed to clients' sockets.", "bytes_out" },
  { "resumes_total", "counter", "Subscriptions that went on where they had stopped.", "resumes" },
  { "gaps_total", "counter", "Gaps that were told.", "gaps" },
  { "slow_disconnects_total", "counter", "Streams that were cut because their clients did not read.", "slow" },
  { "skipped_total", "counter", "Times that a slow reader was moved on over events.", "skipped" },
  { "errors_total", "counter", "Errors of the script's.", "errors" },
  -- where there is one that may be away
  { "backplane_connected", "gauge", "Whether the backplane is there: 1, or 0.", "backplane_connected" },
  { "backplane_waiting", "gauge", "Events that wait for the backplane.", "backplane_waiting" },
  { "backplane_connects_total", "counter", "Times that it was connected to.", "backplane_connects" },
}

local REASONS = { "address", "closing", "full", "host", "large", "late", "malformed", "origin" }

local function add(lines, name, kind, help)
  lines[#lines + 1] = ("# HELP eventstream_%s %s"):format(name, help)
  lines[#lines + 1] = ("# TYPE eventstream_%s %s"):format(name, kind)
end

--- The metrics of an app, for a route of its own or of another one.
---@param app eventstream.App
---@return string text to be served as "text/plain; version=0.0.4"
function M.text(app)
  local stats, lines = app:stats(), {}
  for _, metric in ipairs(METRICS) do
    local name, value = metric[1], stats[metric[4]]
    if value then
      add(lines, name, metric[2], metric[3])
      lines[#lines + 1] = ("eventstream_%s " .. (value % 1 == 0 and "%d" or "%.6f")):format(name, value)
    end
  end
  add(lines, "rejected_total", "counter", "Clients that were not served, by the reason.")
  for _, reason in ipairs(REASONS) do
    lines[#lines + 1] = ('eventstream_rejected_total{reason="%s"} %d'):format(reason, stats["rejected_" .. reason])
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
