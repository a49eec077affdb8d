--- The readers that this project did not write: which of them are installed, and how to drive them.
-- Chromium is driven over its debugging pipe (`--remote-debugging-pipe`: JSON messages that end in a NUL), so that its
-- events arrive on luv's loop beside those of the server under test, and so that it ends when this process does.

local uv = require "luv"
local json = require "dkjson"
local process = require "spec.support.process"

local readers = {}

local HERE = debug.getinfo(1, "S").source:match "^@(.*)support/readers%.lua$"
local FLAGS = { "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
  "--disable-background-networking", "--disable-component-update", "--disable-background-timer-throttling",
  "--disable-renderer-backgrounding", "--disable-dev-shm-usage", "--remote-debugging-pipe" }

--- Chromium's path, or nil.
readers.chromium = process.find "chromium" or process.find "chromium-browser"
--- Node's path if Node and the clients of spec/readers/package.json are installed, else nil.
readers.node = process.find "node"
for _, package in ipairs { "eventsource", "eventsource-parser", "undici" } do
  if not uv.fs_stat(HERE .. "readers/node_modules/" .. package) then readers.node = nil end
end

--- Starts one of spec/readers/*.mjs; it prints lines of JSON.
---@param name string  "eventsource", "eventsource-parser" or "undici"
---@param url string
---@param event_names? string[]
---@return spec.Process
function readers.npm(name, url, event_names)
  local args = { HERE .. "readers/" .. name .. ".mjs", url }
  for _, event_name in ipairs(event_names or {}) do args[#args + 1] = event_name end
  return process.spawn(readers.node, args)
end

---@class spec.Browser
local Browser = {}
Browser.__index = Browser

---@class spec.Page
---@field reports table[]   what the page passed to `report(object)`, in order
---@field problems string[] uncaught exceptions and the console's errors
---@field closed boolean?
local Page = {}
Page.__index = Page

--- Starts a headless Chromium with an empty profile; `browser:close()` ends it and removes the profile.
---@return spec.Browser
function readers.browser()
  local self = setmetatable({ answers = {}, pages = {}, last = 0 }, Browser)
  self.profile = assert(uv.fs_mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/chromium-XXXXXX"))
  local args = { "--user-data-dir=" .. self.profile }
  for _, flag in ipairs(FLAGS) do args[#args + 1] = flag end
  local commands, answers = uv.pipe(), uv.pipe() -- what it reads as descriptor 3, and writes as 4
  self.process = process.spawn(readers.chromium, args, { HOME = self.profile }, { commands.read, answers.write })
  uv.fs_close(commands.read)
  uv.fs_close(answers.write)
  self.input, self.output = uv.new_pipe(false), uv.new_pipe(false)
  self.input:open(commands.write)
  self.output:open(answers.read)
  local cut = process.cutter("\0", function(text) self:receive(json.decode(text)) end)
  self.output:read_start(function(_, chunk)
    if chunk then cut(chunk) else self.output:read_stop() end
  end)
  return self
end

function Browser:receive(message)
  if message.id then
    self.answers[message.id] = message
    return
  end
  local page, params = self.pages[message.sessionId], message.params
  if not page then return end
  if message.method == "Runtime.bindingCalled" then
    page.reports[#page.reports + 1] = json.decode(params.payload)
  elseif message.method == "Page.loadEventFired" then
    page.loaded = true
  elseif message.method == "Runtime.exceptionThrown" then
    local details = params.exceptionDetails
    page.problems[#page.problems + 1] = details.exception and details.exception.description or details.text
  elseif message.method == "Log.entryAdded" and params.entry.level == "error" then
    page.problems[#page.problems + 1] = params.entry.text .. " " .. (params.entry.url or "")
  end
end

--- One command of the DevTools protocol, and its result.
function Browser:call(method, params, session)
  self.last = self.last + 1
  local id = self.last
  local message = { id = id, method = method, params = params, sessionId = session }
  self.input:write(json.encode(message) .. "\0")
  process.wait(function() return self.answers[id] or self.process:exited() end, nil, function()
    return ("chromium's answer to %s\n%s"):format(method, self.process.stderr)
  end)
  local answer = self.answers[id]
  self.answers[id] = nil
  if not answer then error("chromium exited:\n" .. self.process.stderr, 2) end
  if answer.error then error(("%s: %s"):format(method, answer.error.message), 2) end
  return answer.result
end

--- A new page (a tab), which may call `report(object)`.
---@param url? string
---@return spec.Page
function Browser:page(url)
  local target = self:call("Target.createTarget", { url = "about:blank" }).targetId
  local session = self:call("Target.attachToTarget", { targetId = target, flatten = true }).sessionId
  local page = setmetatable({ browser = self, target = target, session = session, reports = {}, problems = {} }, Page)
  self.pages[session] = page
  page:call "Page.enable"
  page:call "Runtime.enable"
  page:call "Log.enable"
  page:call("Runtime.addBinding", { name = "reportText" })
  page:call("Page.addScriptToEvaluateOnNewDocument",
    { source = "globalThis.report = (object) => reportText(JSON.stringify(object))" })
  page:open(url or "about:blank")
  return page
end

--- Ends Chromium and removes its profile.
function Browser:close()
  self.input:write(json.encode { id = 0, method = "Browser.close" } .. "\0")
  self.process:wait_exit()
  self.input:close()
  self.output:close()
  uv.run "nowait" -- completes the closing
  os.execute(("rm -rf '%s'"):format(self.profile))
end

function Page:call(method, params) return self.browser:call(method, params, self.session) end

--- Goes to an address, and waits until the page has loaded.
function Page:open(url)
  self.loaded = false
  local result = self:call("Page.navigate", { url = url })
  if result.errorText then error(("open %s: %s"):format(url, result.errorText), 2) end
  process.wait(function() return self.loaded end, nil, "the page " .. url)
end

--- Evaluates JavaScript that goes to another page, and waits until that has loaded.
function Page:follow(expression)
  self.loaded = false
  self:evaluate(expression)
  process.wait(function() return self.loaded end, nil, "the page behind " .. expression)
end

--- Evaluates JavaScript in the page; a promise is awaited.
---@return any value
function Page:evaluate(expression)
  local answer = self:call("Runtime.evaluate", { expression = expression, awaitPromise = true, returnByValue = true })
  local details = answer.exceptionDetails
  if details then error(details.exception and details.exception.description or details.text, 2) end
  return answer.result.value
end

--- Waits, inside the page, until a JavaScript expression is true; returns its value.
---@return any value
function Page:wait(expression)
  return self:evaluate(([[new Promise((resolve, reject) => {
    const started = Date.now();
    const look = () => {
      const value = %s;
      if (value) resolve(value);
      else if (Date.now() - started > 20000) reject(new Error("never true: " + %s + "\n" + document.body.innerText));
      else setTimeout(look, 20);
    };
    look();
  })]]):format(expression, json.encode(expression)))
end

--- The next report that has all of these fields; reports before it are passed over.
---@param fields table
---@return table report
function Page:wait_report(fields)
  self.read = self.read or 0
  return process.wait(function()
    while self.read < #self.reports do
      self.read = self.read + 1
      local report, matches = self.reports[self.read], true
      for name, value in pairs(fields) do matches = matches and report[name] == value end
      if matches then return report end
    end
  end, nil, function()
    return ("a report like %s after\n  %s"):format(json.encode(fields), json.encode(self.reports))
  end)
end

function Page:close()
  self.browser:call("Target.closeTarget", { targetId = self.target })
  self.browser.pages[self.session] = nil
  self.closed = true
end

return readers
