-- The app: routes, options, listeners.
local activation = require "eventstream.activation"
local channels = require "eventstream.channels"
local check = require "eventstream.check"
local core = require "eventstream.core"
local cors = require "eventstream.cors"
local dispatch = require "eventstream.dispatch"
local driver = require "eventstream.driver"
local guard = require "eventstream.guard"
local members = require "eventstream.members"
local place = require "eventstream.place"
local router = require "eventstream.router"
local static_files = require "eventstream.static"

---@class eventstream.App
local App = {}
App.__index = App

local apps = setmetatable({}, { __mode = "k" }) -- all that are not closed
local last_failure                              -- of a listen, for run()'s message

local function warn(message, ...)
  place.tell(message:format(...))
end

local LIMITS = {
  connections = check.whole(1),
  address_connections = check.or_false(check.whole(1), "a whole number, 1 or more, or false"),
  header_bytes = check.whole(256),
  header_seconds = check.seconds,
  body_bytes = check.whole(0),
  body_seconds = check.seconds,
  pipelined = check.whole(1),
  keep_alive_seconds = check.seconds,
  backlog_bytes = check.whole(1),
  total_bytes = check.whole(1),
  stream_seconds = check.optional_seconds,
  callback_seconds = check.optional_seconds,
}

local OPTIONS = {
  heartbeat = check.optional_seconds,
  retry = function(value)
    if value ~= false and check.whole(0)(value) then return "a whole number of milliseconds, or false" end
  end,
  limits = function(value)
    if type(value) ~= "table" then return "a table" end
  end,
  on_error = check.callable,
  cors = cors.option,
  channels = function(value)
    if type(value) ~= "table" then return "a table" end
  end,
  trusted = guard.trusted,
  hosts = guard.hosts,
  origins = guard.origins,
  backplane = function(value)
    if type(value) ~= "table" or type(value.attach) ~= "function" then
      return "a backplane, as eventstream.redis.new or eventstream.openresty.dict makes one"
    end
  end,
}

local DEFAULTS = {
  connections = 10000, address_connections = 500, header_bytes = 16384, header_seconds = 10, body_bytes = 1048576,
  body_seconds = 60, pipelined = 100, keep_alive_seconds = 60, backlog_bytes = 65536, total_bytes = 268435456,
  stream_seconds = false, callback_seconds = 1,
}

-- What the core takes: 0 is no limit. Loopback addresses count only where a script says how many they may have: a proxy
-- on the same machine brings everybody.
local function settings_of(limits)
  local settings = { loopback = limits.address_connections and 1 or 0 }
  for name, default in pairs(DEFAULTS) do
    local value = limits[name]
    if value == nil then value = default end
    settings[name] = value or 0
  end
  if place.nginx then settings.callback_seconds = 0 end -- it is nginx's loop that is held up, and not ours
  return settings
end

-- A handler's error goes to on_error; an error of on_error itself is told beside it, and never passed on.
local function reporter(app, on_error)
  return function(message, traceback, stream)
    app._errors = app._errors + 1
    if not on_error then return place.tell_error(message, traceback) end
    local function trace(e) return debug.traceback(tostring(e), 2) end
    local ok, failure = xpcall(function() on_error(message, traceback, stream) end, trace)
    if not ok then
      place.tell_error(message, traceback)
      place.tell_error("on_error: " .. failure, "")
    end
  end
end

-- --- Who watches subscriptions, and who is there ---

-- Calls the functions that watch for what begins, or what ends; an error of one is reported, and the others are called.
local function call_watchers(app, list, channel, stream)
  local function trace(message) return { message = tostring(message), traceback = debug.traceback("", 2) } end
  for _, each in ipairs(app._watchers[list] or {}) do
    local ok, failure = xpcall(function() each(channel, stream) end, trace)
    if not ok then app._hooks.report(failure.message, failure.traceback, stream) end
  end
end

local function tell_members(app, name)
  if app._place then app._place:tell_members(name) end
end

-- The channel that has that name now, if there is one.
local function channel_of(app, name)
  local open, channel = pcall(app._hooks.known, "channel", name)
  return open and channel or nil
end

-- A subscription is over; the stream may have begun another one meanwhile.
local function leave(app, channel, stream)
  local now = channel_of(app, channel.name)
  if now and stream:_told(now) then return end
  if app._members:leave(channel, stream) then tell_members(app, channel.name) end
end

local function sweep(app)
  app._members:sweep(function(name)
    local channel = channel_of(app, name)
    return channel and channel:streams() or {}
  end, function(name) tell_members(app, name) end)
end

-- What is not there costs nothing: the core asks for these by name. missed: one that ended before was not told of.
local function hook(app, list)
  app._hooks[list] = app._hooks[list] or function(channel, stream, missed)
    if missed then sweep(app) end
    if list == "unsubscribed" then leave(app, channel, stream) end
    call_watchers(app, list, channel, stream)
  end
end

local function join(app, channel, stream, member)
  if member then
    hook(app, "unsubscribed")
    app._members:join(channel, stream, member)
  elseif not app._members:leave(channel, stream) then -- nor has it a name of an earlier subscription
    return
  end
  tell_members(app, channel.name)
end

local function tell_watchers_of_members(app, name)
  local channel = channel_of(app, name)
  if channel then call_watchers(app, "members", channel) end
end

local function members_of(app, name)
  local set = app._members:collect(name, {})
  if app._place then app._place:collect(name, set) end
  return members.sorted(set)
end

---@class eventstream.Options
---@field heartbeat number|false? seconds of silence after which a comment is sent; default 15
---@field retry integer|false? milliseconds after which a browser reconnects, jittered up to 1.5 times; default 3000
---@field limits eventstream.Limits?
---@field channels table<string, eventstream.ChannelOptions>? by name, or by pattern: "room:*"
---@field hosts string[]? the only ones that a request may name: "example.com", "*.example.com", "localhost:8080"
---@field origins string[]? the only ones that a browser's page may come from: "https://example.com"
---@field cors "*"|eventstream.Cors? which pages of other origins may read the answers; default: none
---@field trusted eventstream.Trusted? proxies that are believed who their clients are
---@field backplane table? what several processes of one app have in common
---@field on_error fun(message: string, traceback: string, stream: eventstream.Stream?)? default: to stderr

---@class eventstream.Cors
---@field origins "*"|string[] "https://example.com", "https://*.example.com"; "*": all, without credentials
---@field credentials boolean? a page may send its user's cookies; default false
---@field headers string[]? that a page may send, beside Authorization, Cache-Control, Content-Type, Last-Event-ID
---@field expose string[]? that a page may read, beside the usual ones
---@field max_age integer? seconds for which a browser need not ask again; default 600

---@class eventstream.Trusted
---@field [integer] string an address or a network: "127.0.0.1", "10.0.0.0/8", "unix"
---@field header "X-Forwarded-For"|"Forwarded"|nil in which they name their clients; default "X-Forwarded-For"

---@class eventstream.ChannelOptions
---@field history integer? events that are kept; default 1000
---@field history_bytes integer? of theirs, on the wire; default 1048576
---@field history_seconds number|false? their age; default 300; false: no limit
---@field slow "disconnect"|"skip"|nil what becomes of a slow reader; default "disconnect"
---@field flush "auto"|number|nil seconds between two passes over the subscribers, 0: each turn; default "auto"

---@class eventstream.Limits
---@field connections integer? clients at once; default 10000
---@field address_connections integer|false|nil of one address (IPv6: of 64 bits); default 500, but for loopback
---@field header_bytes integer? a request's line and headers; default 16384
---@field header_seconds number? until they are complete; default 10
---@field body_bytes integer? a request's body; default 1048576
---@field body_seconds number? until it is complete; default 60
---@field pipelined integer? requests behind one another that are answered; default 100
---@field keep_alive_seconds number? between two requests of a connection; default 60
---@field backlog_bytes integer? what may wait for one client's socket; default 65536
---@field total_bytes integer? what may wait for all, and their bodies; default 268435456
---@field stream_seconds number|false|nil a stream's age; default: no limit
---@field callback_seconds number|false|nil what runs longer is named in a warning; default 1

--- Makes an app.
---@param options eventstream.Options?
---@return eventstream.App
function App.new(options)
  options = check.call(check.options, "new", options, OPTIONS)
  local settings = settings_of(check.call(check.options, "new", options.limits, LIMITS, "limits."))
  check.call(cors.check, "new", options.cors)
  settings.heartbeat = options.heartbeat == nil and 15 or options.heartbeat or 0
  settings.retry = options.retry == nil and 3000 or options.retry or -1
  local known = check.call(channels.new, options.channels)
  local app = setmetatable({ _routes = router.new(), _limits = settings, _channels = known, _watchers = {},
    _befores = {}, _pages = {}, _refused = { host = 0, origin = 0 }, _errors = 0,
    _has_on_error = options.on_error ~= nil, _began = core.now() }, App)
  app._members = members.new(function() return app._watchers.members end,
    function(name) tell_watchers_of_members(app, name) end)
  local hooks = {
    dispatch = dispatch.new(app, guard.new(options)),
    hint = dispatch.hinter(app._routes, warn),
    members = function(name) return members_of(app, name) end,
    joined = function(channel, stream, member) join(app, channel, stream, member) end,
    longest_history = function() return channels.longest_history(known) end,
    params = function(method, path) return app._routes:params(method, path) end,
    report = reporter(app, options.on_error),
    channel = function(who, name) return channels.find(known, app._core, who, name) end,
    known = function(who, name) return channels.known(app._core, who, name) end,
    closed = function()
      local function over()
        apps[app] = nil
        driver.leave(app)
        if not App.any_busy() then driver.stop() end
      end
      if app._place and app._place.closed then app._place:closed(over) else over() end
    end,
  }
  app._hooks = hooks
  app._core = core.app(hooks, settings)
  if options.trusted then
    app._trusts = true
    app._core:trust(options.trusted, (options.trusted.header or ""):lower() == "forwarded")
  end
  if options.cors then app._preflight = cors.new(app._core, options.cors) end
  apps[app] = true
  check.call(driver.join, app, options.backplane)
  return app
end

--- Whether any app has something to do.
function App.any_busy()
  for app in pairs(apps) do
    if app._core:busy() or app._place and app._place.draining then return true end
  end
  return false
end

--- Closes every app, as a signal does.
function App.close_all()
  local all = {}
  for app in pairs(apps) do
    if app._core:busy() ~= nil then all[#all + 1] = app end -- else it is being collected
  end
  for _, app in ipairs(all) do app:close() end
end

function App.last_failure()
  return last_failure
end

local function check_self(app, who)
  if getmetatable(app) ~= App then error(("%s: call it with a colon: app:%s(...)"):format(who, who), 0) end
end

local function add_route(app, who, methods, path, handler, kind)
  local called, failure = pcall(check_self, app, who)
  if not called then error(failure, 3) end
  if type(handler) ~= "function" then
    error(("%s: handler must be a function, not %s"):format(who, handler == nil and "nil" or "a " .. type(handler)), 3)
  end
  for _, method in ipairs(methods) do
    local ok, message = pcall(app._routes.add, app._routes, who, method, path, { kind = kind, handler = handler })
    if not ok then error(message, 3) end
  end
end

local STREAM_OPTIONS = {
  methods = function(value)
    if type(value) ~= "table" or #value == 0 then return "a list of at least one method" end
    for _, method in ipairs(value) do
      if type(method) ~= "string" or not method:find("^%u[%u-]*$") or method == "HEAD" then
        return "a list of methods in upper case (HEAD comes with GET)", method
      end
    end
  end,
}

---@alias eventstream.Handler fun(stream: eventstream.Stream, request: eventstream.Request)

--- Adds a route whose answer is an event stream. A HEAD request gets the head, and runs no handler.
---@param path string "/rooms/:room", "/files/*"
---@param options { methods: string[] }? default: { "GET" }
---@param handler eventstream.Handler
---@overload fun(self: eventstream.App, path: string, handler: eventstream.Handler): eventstream.App
---@return eventstream.App self
function App:stream(path, options, handler)
  if handler == nil and type(options) ~= "table" then options, handler = nil, options end
  options = check.call(check.options, "stream", options, STREAM_OPTIONS)
  add_route(self, "stream", options.methods or { "GET" }, path, handler, "stream")
  return self
end

--- Adds a route for ordinary HTTP. The handler returns status, body, headers; or only a string (200); or nothing (204).
--- It may wait (eventstream.await).
---@param method string
---@param path string
---@param handler fun(request: eventstream.Request): integer|string|nil, string?, table<string, any>?
---@return eventstream.App self
function App:route(method, path, handler)
  if type(method) ~= "string" or not method:find("^%u[%u-]*$") then
    error(("route: method must be a name in upper case, not %s"):format(check.show(method)), 2)
  end
  add_route(self, "route", { method }, path, handler, "plain")
  return self
end

---@param path string
---@param handler fun(request: eventstream.Request): integer|string|nil, string?, table<string, any>?
---@return eventstream.App self
function App:get(path, handler)
  add_route(self, "get", { "GET" }, path, handler, "plain")
  return self
end

---@param path string
---@param handler fun(request: eventstream.Request): integer|string|nil, string?, table<string, any>?
---@return eventstream.App self
function App:post(path, handler)
  add_route(self, "post", { "POST" }, path, handler, "plain")
  return self
end

--- Calls the function for each request before its route is looked at. What it returns (status, body, headers, as a
--- handler) is the answer then; nothing: the request goes on, with what the function set on it. It may wait
--- (eventstream.await). Several are called in order, until one answers.
---@param callback fun(request: eventstream.Request): integer|string|nil, string?, table<string, any>?
---@return eventstream.App self
function App:before(callback)
  check.call(check_self, self, "before")
  if type(callback) ~= "function" then
    error(("before: function expected, got %s"):format(type(callback)), 2)
  end
  self._befores[#self._befores + 1] = callback
  return self
end

-- With these the core refuses what is no whole request yet: there is none to show a page for.
local UNSHOWN = { [408] = true, [411] = true, [413] = true, [414] = true, [417] = true, [431] = true, [501] = true,
  [505] = true }

--- Shows something of the app's own where the server refuses or fails: for the status, what the function returns: body
--- and headers, as a handler does, with that status; or another status, body and headers. Not for streams, nor for what
--- is no HTTP. Raises for 408, 411, 413, 414, 417, 431, 501 and 505, with which the server refuses what is no whole
--- request. On Lua 5.1, handlers cannot wait where there is a page for 500.
---@param status integer 400 to 599: 404, 405, 500, ...
---@param handler fun(request: eventstream.Request, status: integer): string|table|integer, any, any
---@return eventstream.App self
function App:page(status, handler)
  check.call(check_self, self, "page")
  if type(status) ~= "number" or status % 1 ~= 0 or status < 400 or status > 599 then
    error(("page: status must be a whole number from 400 to 599, not %s"):format(check.show(status)), 2)
  end
  if UNSHOWN[status] then
    error(("page: %d is the answer to what is no whole request: there is none to show a page for"):format(status), 2)
  end
  if type(handler) ~= "function" then error(("page: function expected, got %s"):format(type(handler)), 2) end
  self._pages[status] = handler
  return self
end

---@class eventstream.Answer
---@field request eventstream.Request
---@field status integer 0 where the client left before there was one
---@field bytes integer of a stream: that were handed to its socket; else of the body
---@field seconds number since the request was there
---@field reason "done"|eventstream.Reason why it is over

--- Calls the function when an answer is over: a stream at its end, another when it is written. Several are called in
--- order. eventstream.access_log makes one. Not for what was refused as no request.
---@param callback fun(answer: eventstream.Answer)
---@return eventstream.App self
function App:on_answer(callback)
  check.call(check_self, self, "on_answer")
  if type(callback) ~= "function" then error(("on_answer: function expected, got %s"):format(type(callback)), 2) end
  if place.nginx then error("on_answer: inside nginx its access_log does that", 2) end
  self._core:log()
  local list = self._watchers.answered or {}
  self._watchers.answered = list
  list[#list + 1] = callback
  self._hooks.answered = self._hooks.answered or function(request, status, bytes, seconds, reason)
    local answer = { request = request, status = status, bytes = bytes, seconds = seconds, reason = reason }
    call_watchers(self, "answered", answer)
  end
  return self
end

---@class eventstream.StaticOptions
---@field max_age integer? seconds for which a browser need not ask again; default: it asks each time, by the ETag
---@field index string|false? the file that stands for a folder; default "index.html"
---@field types table<string, string>? media types by a name's ending, beside the usual ones
---@field hidden boolean? files whose names begin with a dot are served, too; default false

local function static(app, prefix, folder, options)
  check_self(app, "static")
  if type(prefix) ~= "string" or not prefix:find "^/" or prefix:find "[:*]" then
    local shown = check.show(prefix)
    error(("static: path must be a string that starts with '/', without ':' and '*', not %s"):format(shown), 0)
  end
  local handler = static_files.new(folder, options)
  prefix = prefix:gsub("/+$", "")
  app._routes:add("static", "GET", prefix .. "/*", { kind = "file", handler = handler })
  if prefix ~= "" then app._routes:add("static", "GET", prefix, { kind = "file", handler = static_files.redirect }) end
end

--- Serves the files of a folder, and nothing outside it, for GET and HEAD: with their types, ETags, ranges. Raises if
--- the folder cannot be read.
---@param path string "/" or "/assets"
---@param folder string
---@param options eventstream.StaticOptions?
---@return eventstream.App self
function App:static(path, folder, options)
  check.call(static, self, path, folder, options)
  return self
end

local LISTEN = {
  host = check.string, port = check.port, path = check.path, fd = check.whole(0), activated = check.activated,
  proxy_protocol = check.boolean, reuse_port = check.boolean,
}

local ADVICE = {
  EADDRINUSE = "another program listens there: stop it, or take another port, or port = 0 for any free one",
  EADDRINUSE_PATH = "another program listens there, or the file is no socket: stop it, or take another path",
  EACCES = "ports below 1024 and files of others need permission: take a port from 1024 on",
  EPERM = "ports below 1024 and files of others need permission: take a port from 1024 on",
  EADDRNOTAVAIL = "no interface of this machine has that address: 127.0.0.1 is for this machine, 0.0.0.0 for all",
  EAI_NONAME = "the host is no address and no name that is known here",
  EINVAL = "the descriptor is no listening stream socket",
  ENOTSOCK = "the descriptor is no socket",
  EBADF = "the descriptor is not open",
}

local function describe(options)
  if options.path then return options.path end
  if options.activated then return "an activated socket" end
  if options.fd then return "fd " .. options.fd end
  local host = options.host or "127.0.0.1"
  return (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, options.port)
end

--- Warns when the process may not open as many descriptors as the limit of connections needs.
local function raise_descriptors(limits)
  local may = core.raise_descriptors()
  if may > 0 and may < limits.connections + 64 and not limits.warned then
    limits.warned = true
    warn("limits.connections is %d, but the process may open only %d descriptors (ulimit -n)", limits.connections, may)
  end
end

---@class eventstream.ListenOptions
---@field host string? default "127.0.0.1"
---@field port integer? 0: any free one
---@field path string? a Unix socket
---@field fd integer? an inherited listening socket
---@field activated true|string|nil the first one that a service manager passed on, or the one of that name
---@field reuse_port boolean? several processes may listen on the port
---@field proxy_protocol boolean? each connection begins with the PROXY protocol's header, from a trusted proxy

---@class eventstream.Listener
---@field host string?
---@field port integer?
---@field path string?
---@field close fun(self: eventstream.Listener)
---@field share fun(self: eventstream.Listener): integer? its descriptor, for a process that goes on listening

local function check_listen(app, who, options, elsewhere) -- elsewhere: the address may be told by others
  check_self(app, who)
  if options == nil and not elsewhere then error(who .. ": options must be a table, not nil: { port = 8080 }", 0) end
  options = check.options(who, options, LISTEN)
  local ways = 0
  for _, way in ipairs { "port", "path", "fd", "activated" } do ways = ways + (options[way] ~= nil and 1 or 0) end
  if ways > 1 or ways == 0 and not elsewhere then error(who .. ": give one of port, path, fd and activated", 0) end
  if options.reuse_port ~= nil and not options.port then error(who .. ": reuse_port is for a port", 0) end
  if options.proxy_protocol and not app._trusts then
    error(who .. ": proxy_protocol needs proxies that are trusted: eventstream.new { trusted = { '127.0.0.1' } }", 0)
  end
end

local function listen(app, options)
  check_self(app, "listen")
  if place.nginx then error("listen: inside nginx its own `listen` directives do that", 0) end
  check_listen(app, "listen", options)
  raise_descriptors(app._limits)
  local listener, name, message
  local core_app, proxied = app._core, options.proxy_protocol or false
  if options.path then
    listener, name, message = core_app:listen("unix", proxied, options.path)
  elseif options.port then
    local host = options.host or "127.0.0.1"
    listener, name, message = core_app:listen("tcp", proxied, host, options.port, options.reuse_port)
  else
    local fd = options.fd
    if not fd then fd, message = activation.find(options.activated) end
    if not fd then
      last_failure = "listen: " .. message
      return nil, last_failure
    end
    listener, name, message = core_app:listen("fd", proxied, fd)
  end
  driver.attach()
  if listener then return listener end
  local advice = options.path and ADVICE[name .. "_PATH"] or ADVICE[name]
  last_failure = ("listen: %s: %s: %s%s"):format(name, message, describe(options),
    advice and (" (%s)"):format(advice) or "")
  return nil, last_failure
end

--- Listens on { host =, port = }, { path = }, { fd = } or { activated = true }.
---@param options eventstream.ListenOptions
---@return eventstream.Listener?, string? message
function App:listen(options)
  local listener, message = check.call(listen, self, options) -- no tail call: the position is our caller's
  return listener, message
end

--- Listens, or raises, and runs until the app is closed: the last line of a script. Inside nginx, under the command and
--- where eventstream.test is loaded it only returns the app, for eventstream.openresty, the command, or the test.
---@param options eventstream.ListenOptions
---@return eventstream.App self
function App:serve(options)
  if place.nginx then
    check.call(check_self, self, "serve")
    return self
  end
  if place.command or place.tested then
    check.call(check_listen, self, "serve", options, true)
    self._serves = options
    return self
  end
  local listener, message = check.call(listen, self, options)
  if not listener then error(message, 2) end
  local where = listener.path or not listener.host and "a Unix socket"
    or (listener.host:find(":", 1, true) and "http://[%s]:%d/" or "http://%s:%d/"):format(listener.host, listener.port)
  self:after(0, function() warn("listening on %s", where) end) -- told once it is true of signals, too
  require("eventstream").run()
  return self
end

--- Calls the function every so many seconds, without drifting; a late one skips the ticks that it missed.
---@param seconds number
---@param callback fun()
---@return eventstream.Interval
function App:every(seconds, callback)
  local interval = check.call(self._core.every, self._core, seconds, driver.elected(self, callback))
  driver.attach()
  return interval
end

--- Calls the function once, after so many seconds.
---@param seconds number
---@param callback fun()
---@return eventstream.Interval
function App:after(seconds, callback)
  local interval = check.call(self._core.after, self._core, seconds, driver.elected(self, callback))
  driver.attach()
  return interval
end

local function find_channel(app, name, options)
  check_self(app, "channel")
  return channels.find(app._channels, app._core, "channel", name, options)
end

--- The channel of that name, made where there is none. Options hold from now on; those that are left out are as `new`
--- says of the name, else the defaults.
---@param name string
---@param options eventstream.ChannelOptions?
---@return eventstream.Channel
function App:channel(name, options)
  local channel = check.call(find_channel, self, name, options) -- no tail call: the position is our caller's
  driver.attach()
  return channel
end

--- The channels that there are now: those with a handle, a subscriber or an event that is kept.
---@return eventstream.Channel[]
function App:channels()
  check.call(check_self, self, "channels")
  local list = {}
  for i, name in ipairs(core.handover.names(self._core)) do list[i] = self._core:channel(name) end
  return list
end

local function watch(app, who, list, callback)
  check_self(app, who)
  if type(callback) ~= "function" then
    error(("%s: function expected, got %s"):format(who, type(callback)), 0)
  end
  local watchers = app._watchers[list] or {}
  app._watchers[list] = watchers
  watchers[#watchers + 1] = callback
  if list ~= "members" then hook(app, list) end
end

--- Calls the function for each subscription that begins, once it gets what is published.
---@param callback fun(channel: eventstream.Channel, stream: eventstream.Stream)
---@return eventstream.App self
function App:on_subscribe(callback)
  check.call(watch, self, "on_subscribe", "subscribed", callback)
  return self
end

--- Calls the function for each subscription that is over, behind the stream's on_close functions.
---@param callback fun(channel: eventstream.Channel, stream: eventstream.Stream)
---@return eventstream.App self
function App:on_unsubscribe(callback)
  check.call(watch, self, "on_unsubscribe", "unsubscribed", callback)
  return self
end

--- Calls the function, in each process of the app, when others may be there than before, as channel:members() tells:
--- a millisecond later, once for all that came and went meanwhile.
---@param callback fun(channel: eventstream.Channel)
---@return eventstream.App self
function App:on_members(callback)
  check.call(watch, self, "on_members", "members", callback)
  return self
end

--- All open streams.
---@return eventstream.Stream[]
function App:streams()
  return self._core:streams()
end

--- Counters: accepted, requests, rejected (malformed, large, late, full, address, closing: rejected_malformed ...; host
--- and origin, which are requests, too), published, events, bytes_in, bytes_out, resumes, gaps, slow, skipped, errors;
--- gauges: backlog (bytes that wait for clients, and of bodies), connections, streams, channels, subscribers, loop_lag
--- (the most that anything was kept waiting lately) and uptime (seconds). With Redis: backplane_connected (1, or 0),
--- backplane_waiting (events) and backplane_connects.
---@return table<string, number>
function App:stats()
  local stats = self._core:stats()
  stats.errors, stats.uptime = self._errors, core.now() - self._began
  for reason, count in pairs(self._refused) do
    stats["rejected_" .. reason], stats.rejected = count, stats.rejected + count
  end
  if self._place and self._place.stats then self._place:stats(stats) end
  return stats
end

local CLOSE = { grace = check.duration, spread = check.duration }

--- Stops accepting and ends every stream, each told to come back at a time of its own within spread seconds (default
--- 10). Returns at once; what has not gone out after grace seconds (default 5) is cut.
---@param options { grace: number?, spread: number? }?
function App:close(options)
  options = check.call(check.options, "close", options, CLOSE)
  local grace = options.grace or 5
  self._core:close(grace, options.spread or 10)
  self._members:stop()
  if self._place and self._place.closing then self._place:closing(grace) end
  driver.attach()
end

return App
