-- Runs a script in a process of its own, and anew when a file of it changes. The parent holds the listening socket, so
-- that clients wait in its queue meanwhile, and passes the history on, so that they resume.
local command = require "eventstream.command"

local M = {}

local REST_MS = 150     -- an editor writes a file in several steps
local PATIENCE_MS = 5000 -- for a child that is to hand over, and may be caught in a loop
local BEGIN_MS = 5000    -- a script that has told nothing by then may be caught in one, too
local PAGES = { html = true, css = true, js = true, lua = true }

local function directory_of(path)
  return path:match "^(.*)/[^/]*$" or "."
end

local function can_be_read(path)
  local file = io.open(path, "r")
  if file then file:close() end
  return file ~= nil
end

-- --- The child ---

-- The file of a module along package.path or package.cpath; or nil and all that were looked at.
local function find(name, templates)
  local all = {}
  for template in templates:gmatch "[^;]+" do
    local path = template:gsub("%?", (name:gsub("%.", "/"))):gsub("^%./", "")
    if can_be_read(path) then return path end
    all[#all + 1] = path
  end
  return nil, all
end

-- Calls the function with the file of each module that the script asks for, before it is loaded: one that fails is not
-- in package.loaded, and its repair is waited for. Until the function that is returned is called, also with the files
-- that a missing module may come to stand in; later not, so that what clients make it ask for adds nothing.
local function record(tell)
  local starting, told = true, {}
  local function searcher(name)
    if package.preload[name] then return end
    local found, missing = find(name, package.path)
    if not found and (not starting or find(name, package.cpath)) then return end
    for _, path in ipairs(found and { found } or missing) do
      if not told[path] then tell(path) end
      told[path] = true
    end
  end
  table.insert(package.searchers or package.loaders, 1, searcher)
  return function() starting = false end
end

-- What is sent is lines, and texts whose length their line tells.
local function reader(handlers)
  local buffer, wanted, name = "", nil, nil
  return function(bytes)
    buffer = buffer .. bytes
    while true do
      if wanted then
        if #buffer < wanted then return end
        local text = buffer:sub(1, wanted)
        buffer = buffer:sub(wanted + 1)
        wanted = nil
        handlers[name](text)
      end
      local line, rest = buffer:match "^([^\n]*)\n(.*)$"
      if not line then return end
      buffer = rest
      local what, size = line:match "^(%l+) (%d+)$"
      name, wanted = what, tonumber(size)
    end
  end
end

local function packet(name, text)
  text = text or ""
  return ("%s %d\n%s"):format(name, #text, text)
end

local function key_of(where)
  if where.path then return "path=" .. where.path end
  return where.port and ("%s:%d"):format(where.host or "127.0.0.1", where.port) or "another"
end

--- The child's part: as serve.run, with a parent at descriptor 3, and at 4 the socket that it holds for `held`.
function M.child(serve, script, options, arguments)
  local uv = require "luv"
  local pipe = uv.new_pipe(true)
  pipe:open(3)
  local held = options.control ~= "none" and options.control or nil
  local history, app, gone
  local writing = 0 -- what the parent has not taken yet
  local function write(...)
    writing = writing + 1
    local given = { ... }
    local done = given[2]
    local function written()
      writing = writing - 1
      if done then done() end
    end
    if given[3] then return pipe:write2(given[1], given[3], written) end
    pipe:write(given[1], written)
  end
  local function leave(grace)
    if app then app:close { grace = grace, spread = 0.5 } end
  end
  local read = reader {
    history = function(text) history = text end,
    leave = function()
      write(packet("history", require("eventstream.handover").export(app)))
      leave(1) -- at once: nothing is published in between
    end,
  }
  pipe:read_start(function(_, bytes)
    if bytes then return read(bytes) end
    pipe:read_stop()
    gone = true
    leave(5) -- the parent is gone
  end)
  while not history and not gone do uv.run "once" end
  if gone then return 1 end
  uv.unref(pipe)

  local eventstream = require "eventstream"
  local handover = require "eventstream.handover"
  local started = record(function(path) write(packet("file", path)) end)
  local loaded, serves = serve.load(script, arguments, options)
  started()
  local function fail(message)
    command.say("%s", message)
    write(packet "failed")
    while writing > 0 and not gone do uv.run "once" end
    return 1
  end
  if not loaded then return serves and fail(serves) or 0 end
  app = loaded
  if history ~= "" then
    local fine, message = handover.import(app, history)
    if not fine then command.say("the history is lost: %s", message) end
  end
  local where = serve.where(serves, options)
  local key, listener = key_of(where), nil
  if held and held ~= key then -- it listens elsewhere now
    local other = uv.new_pipe(false)
    other:open(4)
    other:close()
  end
  local ok, message = pcall(function()
    local why
    if held == key then
      listener, why = app:listen { fd = 4, proxy_protocol = where.proxy_protocol }
    else
      listener, why = app:listen(where)
    end
    if not listener then error(why, 0) end
  end)
  if not ok then return fail((tostring(message):match "^[^\n]*")) end
  local copy = where.path and uv.new_pipe(false) or uv.new_tcp()
  copy:open(require("eventstream.core").duplicate(listener:share()))
  write(packet("ready", key), function() copy:close() end, copy)
  serve.tell(app, listener)
  eventstream.run()
  while writing > 0 and not gone do uv.run "once" end -- a long history takes the parent a while
  return 0
end

-- --- The parent ---

-- What runs this: the interpreter, its own arguments, and the command.
local function prefix_of(list)
  local first = 0
  while list[first - 1] do first = first - 1 end
  local prefix = {}
  for i = first, 0 do prefix[#prefix + 1] = list[i] end
  return prefix
end

--- Runs a script, and anew when it changes; returns the exit code.
function M.run(script, options, arguments)
  local found, uv = pcall(require, "luv")
  if not found then
    command.say "--watch needs luv: luarocks install luv"
    return 1
  end
  local prefix = prefix_of(_G.arg or {})
  local child                          -- { process, pipe, ready }
  local held, key, socket              -- what is listened on, which it is, and its file as it was, if it has one
  local history = ""
  local watchers, seen, rest = {}, {}, uv.new_timer()
  local ending, code = false, 0

  local function look(path) -- what tells one version of a file from another
    local stat = uv.fs_stat(path)
    return stat and ("%d.%d %d %d"):format(stat.mtime.sec, stat.mtime.nsec, stat.size, stat.ino) or "none"
  end

  local start, reload

  local function changed()
    local list = {}
    for path, was in pairs(seen) do
      local now = look(path)
      if now ~= was and now ~= "none" then
        seen[path] = now
        list[#list + 1] = path
      end
    end
    table.sort(list)
    return list
  end

  local watch

  local function on_rest()
    watch() -- folders that have come
    local list = changed()
    if #list == 0 or ending then return end
    for _, path in ipairs(list) do
      local fine, message = true, nil
      if path:find "%.lua$" then fine, message = loadfile(path) end
      if not fine then
        return command.say(child and "%s (what was there runs on)" or "%s", (message:match "^[^\n]*"))
      end
    end
    command.say("%s changed", table.concat(list, ", "))
    reload()
  end

  local function watch_directory(directory, pages) -- pages: it is the script's own
    if watchers[directory] then return end
    local folder = directory == "" and "/" or directory
    local stat = uv.fs_stat(folder)
    if not stat or stat.type ~= "directory" then -- where it would lie tells when it comes
      if folder ~= "." and folder ~= "/" then watch_directory(directory_of(directory)) end
      return
    end
    local watcher = uv.new_fs_event()
    watchers[directory] = watcher
    watcher:start(folder, {}, function(failure, name)
      if failure then return end
      local path = name and (directory == "." and script:sub(1, 2) ~= "./" and name or directory .. "/" .. name)
      if pages and path and PAGES[name:match "%.(%w+)$"] and not seen[path] then seen[path] = "new" end
      -- What is none of ours, as a log that is written all the time, does not put off the others.
      if not path or seen[path] or not rest:is_active() then rest:start(REST_MS, 0, on_rest) end
    end)
  end

  local function watch_file(path)
    seen[path] = seen[path] or look(path)
    watch_directory(directory_of(path))
  end

  function watch()
    for path in pairs(seen) do watch_directory(directory_of(path)) end
  end

  local function remove_socket() -- a Unix socket's file, unless it is another's by now
    local path = held and key:match "^path=(.*)$"
    if path and socket ~= "none" and look(path) == socket then uv.fs_unlink(path) end
  end

  local function stop()
    remove_socket()
    for _, watcher in pairs(watchers) do watcher:stop() end
    rest:stop()
    uv.stop()
  end

  local function on_exit(self, status, signal)
    if not self.pipe:is_closing() then self.pipe:close() end
    if not self.begins:is_closing() then self.begins:close() end
    if child ~= self then return end -- it has a successor
    code = signal ~= 0 and 128 + signal or status
    if self.done and not ending then return self.done() end -- it left, and handed nothing over
    child = nil
    if ending or (status == 0 and signal == 0) then return stop() end
    command.say("%s ended%s; waiting for a change", script, self.ready and " with " .. code or "")
  end

  function start()
    local pipe = uv.new_pipe(true)
    local self = { pipe = pipe, ready = false }
    local args = {}
    for i = 2, #prefix do args[#args + 1] = prefix[i] end
    args[#args + 1] = "--control"
    args[#args + 1] = held and key or "none"
    for _, name in ipairs { "host", "port" } do
      if options[name] then
        args[#args + 1] = "--" .. name
        args[#args + 1] = tostring(options[name])
      end
    end
    args[#args + 1] = script
    args[#args + 1] = "--"
    for _, argument in ipairs(arguments) do args[#args + 1] = argument end
    local process, failure = uv.spawn(prefix[1], {
      args = args, stdio = { 0, 1, 2, pipe, held and held:fileno() }, detached = true, -- signals go through here
    }, function(status, signal)
      self.process:close()
      on_exit(self, status, signal)
    end)
    if not process then
      command.say("%s: %s", prefix[1], failure)
      code = 1
      return stop()
    end
    self.process = process
    self.begins = uv.new_timer()
    self.begins:start(BEGIN_MS, 0, function()
      command.say("%s listens nowhere yet: it may be caught in a loop", script)
    end)
    child = self
    local read = reader {
      file = watch_file,
      failed = function() self.begins:stop() end,
      ready = function(text)
        self.begins:stop()
        self.ready, history = true, ""
        if text == key then return end
        remove_socket()
        if held then held:close() end
        held, key = self.copy, text
        socket = look(text:match "^path=(.*)$" or "")
        self.copy = nil
      end,
      history = function(text)
        history = text
        if child == self then self.done() end
      end,
    }
    pipe:read_start(function(_, bytes)
      while pipe:pending_count() > 0 do
        local copy = pipe:pending_type() == "tcp" and uv.new_tcp() or uv.new_pipe(false)
        pipe:accept(copy)
        self.copy = copy
      end
      if bytes then read(bytes) end
      if self.copy and self.ready then -- it is the one that is held already
        self.copy:close()
        self.copy = nil
      end
    end)
    pipe:write(packet("history", history))
  end

  function reload()
    local old = child
    if not old then return start() end
    if old.done then return end -- it leaves already, and the next one reads what is there then
    local patience = uv.new_timer()
    function old.done()
      if patience:is_closing() then return end
      patience:close()
      child = nil
      if ending then return stop() end
      start()
    end
    if not old.ready then -- it had not begun: its history is still here
      old.process:kill "sigkill"
      return old.done()
    end
    patience:start(PATIENCE_MS, 0, function()
      command.say "it does not hand its history over, and is ended"
      if not old.process:is_closing() then old.process:kill "sigkill" end
      old.done()
    end)
    old.pipe:write(packet "leave")
  end

  for _, name in ipairs { "sigint", "sigterm" } do
    local signal = uv.new_signal()
    signal:start(name, function()
      ending = true
      if not child then return stop() end
      child.process:kill "sigterm"
    end)
  end
  watch_directory(directory_of(script), true)
  watch_file(script)
  start()
  uv.run()
  return code
end

return M
