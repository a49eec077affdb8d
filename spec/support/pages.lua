--- For specs with a real EventSource: a headless Chromium for the whole file, pages that tell what their EventSource
-- sees, and servers for them. A spec calls launch() and quit() once, and finish() after each test.

local eventstream = require "eventstream"
local process = require "spec.support.process"
local readers = require "spec.support.readers"

local M = {}

--- EventSource.readyState.
M.CONNECTING, M.OPEN, M.CLOSED = 0, 1, 2

--- A page whose listen(name ...) opens "sse" and reports what that EventSource sees: {open, state}, {error, state} or
--- {event, data, id}.
M.PAGE = [[<!doctype html><link rel="icon" href="data:,"><script>
  function listen(...names) {
    const source = new EventSource("sse");
    const tell = (event) => report({ event: event.type, data: event.data, id: event.lastEventId });
    source.onopen = () => report({ open: true, state: source.readyState });
    source.onerror = () => report({ error: true, state: source.readyState });
    source.onmessage = tell;
    for (const name of names) source.addEventListener(name, tell);
  }
</script>]]

local browser
local opened, apps, servers = {}, {}, {}

function M.launch()
  browser = readers.browser()
end

function M.quit()
  browser:close()
end

--- Opens a page of a server on this machine.
---@param port integer|string
---@param path? string  without its first slash
---@return spec.Page
function M.open(port, path)
  local page = browser:page(("http://127.0.0.1:%s/%s"):format(port, path or ""))
  opened[#opened + 1] = page
  return page
end

--- An app of this process that serves that page, and the handler at /sse.
---@return table app, integer port
function M.serve(options, handler)
  local app = eventstream.new(options)
  app:get("/", function() return 200, M.PAGE, { ["Content-Type"] = "text/html" } end)
  app:stream("/sse", handler)
  local listener = assert(app:listen { port = 0 })
  apps[#apps + 1] = app
  return app, listener.port
end

--- Starts a script that listens and says so, on server.port (a string): a server that may be killed.
---@param args string[]
---@param env table<string, string>
---@return spec.Process server
function M.start(args, env)
  local server = process.lua(args, env)
  servers[#servers + 1] = server
  server.port = server:wait_line "listening on .-(%d+)/?$"
  return server
end

--- Ends a server as the kernel or a machine's end does.
function M.kill(server)
  server:kill "sigkill"
  server:wait_exit()
end

--- For after_each.
function M.finish()
  for _, page in ipairs(opened) do
    if not page.closed then page:close() end
  end
  for _, server in ipairs(servers) do M.kill(server) end
  for _, app in ipairs(apps) do app:close() end
  opened, apps, servers = {}, {}, {}
end

return M
