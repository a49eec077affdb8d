-- What becomes of a request: refused, answered, or given to a handler.
local headers = require "eventstream.headers"

local M = {}

local function text(status, body, lines)
  return "answer", status, "Content-Type: text/plain; charset=utf-8\r\n" .. (lines or ""), body .. "\n"
end

local function methods_of(routes)
  local methods = {}
  for method in pairs(routes) do methods[#methods + 1] = method end
  if routes.GET and not routes.HEAD then methods[#methods + 1] = "HEAD" end
  if not routes.OPTIONS then methods[#methods + 1] = "OPTIONS" end
  table.sort(methods)
  return methods
end

local function allowed(routes)
  return ("Allow: %s\r\n"):format(table.concat(methods_of(routes), ", "))
end

-- What one of the script's functions returned, checked. Its line has gone by then: what is wrong is told with the one
-- where the function begins.
local function checked(check, f, who, ...)
  local ok, status, lines, body = pcall(check, who, ...)
  if ok then return status, lines, body end
  local info = debug.getinfo(f, "S")
  if info.what ~= "C" then status = ("%s:%d: %s"):format(info.short_src, info.linedefined, status) end
  error(status, 0)
end

-- The coroutine of an ordinary handler.
local function plain(handler, request)
  local who = ("handler of %s %s"):format(request.method, request.path)
  return checked(headers.result, handler, who, handler(request))
end

-- That of one which is ours, whose answer is checked already.
local function file(handler, request)
  return handler(request)
end

-- What a request's route says: what dispatch (below) returns, if nothing comes before.
local function route_of(routes, request)
  local method, path = request.method, request.path
  if path == "*" then
    if method == "OPTIONS" then return "answer", 204, "", "" end
    return text(400, "only OPTIONS has no path")
  end
  local found, malformed = routes:match(path)
  if not found then
    if malformed == true then return text(400, "the path is malformed") end
    return text(404, "not found")
  end
  local entry = found[method] or (method == "HEAD" and found.GET)
  if not entry then
    if method == "OPTIONS" then return "answer", 204, allowed(found), "" end
    return text(405, "method not allowed", allowed(found))
  end
  local route = entry.route
  if route.kind == "plain" then return "plain", plain, route.handler end
  if route.kind == "file" then return "plain", file, route.handler end
  if method == "HEAD" then return "head" end
  return "stream", route.handler
end

-- The first answer of those that come before, checked: status, lines, body; or nothing.
local function ask(befores, request)
  for _, before in ipairs(befores) do
    local status, body, fields = before(request)
    if status ~= nil then
      local who = ("before %s %s"):format(request.method, request.path)
      return checked(headers.result, before, who, status, body, fields)
    end
  end
end

-- The same as route_of, in the request's own coroutine, where those that come before may wait.
local function guarded(befores, kind, first, second, third)
  if kind == "plain" then
    return "plain", function(handler, request)
      local status, lines, body = ask(befores, request)
      if status then return status, lines, body end
      return first(handler, request)
    end, second
  end
  if kind == "answer" then
    return "plain", function(_, request)
      local status, lines, body = ask(befores, request)
      if status then return status, lines, body end
      return first, second, third
    end, false
  end
  return "stream", function(stream, request)
    local status, lines, body = ask(befores, request)
    if status then return stream:_answer(status, lines, body) end
    if kind == "stream" then return first(stream, request) end
  end
end

-- --- Pages of the app's own: app:page ---

-- What the app shows for a status: its page, with the lines that the answer had but the type.
local function show(app, request, status, lines)
  local page = app._pages[status]
  local body, second, third = page(request, status)
  local own, fields = status, second
  if type(body) == "number" then own, body, fields = body, second, third end
  local own_status, own_lines, own_body = checked(headers.answer, page, ("page %d"):format(status), own, body, fields)
  return own_status, own_lines .. headers.without(lines, "content-type"), own_body
end

local function trace(failure)
  if type(failure) == "userdata" then return failure end -- what ends the handler of a client that has left
  return { message = tostring(failure), traceback = debug.traceback("", 2) }
end

-- The coroutine of an ordinary handler whose error is shown on a page; it is reported as ever.
local function plain_shown(app)
  return function(handler, request)
    local ok, status, lines, body = xpcall(function() return plain(handler, request) end, trace)
    if ok then return status, lines, body end
    if type(status) == "userdata" then error(status, 0) end
    app._hooks.report(status.message, status.traceback)
    return show(app, request, 500, "")
  end
end

-- That of one of ours, whose refusal is shown on a page.
local function file_shown(app)
  return function(handler, request)
    local status, lines, body = handler(request)
    if app._pages[status] then return show(app, request, status, lines) end
    return status, lines, body
  end
end

-- The same as what it is given (what dispatch returns), with the app's pages where there are such.
local function shown(app, kind, first, second, third)
  local pages = app._pages
  if kind == "answer" and pages[first] then
    return "plain", function(_, request) return show(app, request, first, second) end, false
  end
  if kind == "plain" and first == plain and pages[500] then return kind, plain_shown(app), second end
  if kind == "plain" and first == file then return kind, file_shown(app), second end
  return kind, first, second, third
end

-- --- The whole ---

-- Whether a browser asks if a page of another origin may send a request. It does so without cookies and the like, so
-- that it is answered before anybody is asked who that is.
local function is_preflight(request)
  if request.method ~= "OPTIONS" then return false end
  local fields = request.headers
  return fields.origin and fields["access-control-request-method"]
end

--- What the core asks: what to do with a request (csrc/lua/app.c).
function M.new(app, refuses)
  local routes, befores = app._routes, app._befores
  return function(request)
    local has_pages = next(app._pages) ~= nil
    if refuses then
      local status, message, reason = refuses(request)
      if status then
        app._refused[reason] = app._refused[reason] + 1
        if has_pages then return shown(app, text(status, message)) end
        return text(status, message)
      end
    end
    if app._preflight and is_preflight(request) then
      local found = routes:match(request.path)
      if found and not found.OPTIONS then return "answer", 204, app._preflight(methods_of(found)), "" end
    end
    if #befores > 0 and has_pages then return guarded(befores, shown(app, route_of(routes, request))) end
    if #befores > 0 then return guarded(befores, route_of(routes, request)) end
    if has_pages then return shown(app, route_of(routes, request)) end
    return route_of(routes, request)
  end
end

--- A handler that returned without sending or holding anything is most often a mistake; it is told once a route.
function M.hinter(routes, warn)
  local told = {}
  return function(request)
    local found = routes:match(request.path)
    local entry = found and found[request.method]
    if not entry or told[entry] then return end
    told[entry] = true
    warn("the handler of %s %s returned, and nothing was sent and nothing feeds its stream, so the stream ended; keep "
      .. "it open with stream:subscribe, stream:every, stream:hold or a loop around stream:sleep; what it returns is "
      .. "no answer (stream:reject is one)", request.method, entry.pattern)
  end
end

return M
