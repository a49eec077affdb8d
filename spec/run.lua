-- Starts busted on the Lua that runs this file: `lua5.4 spec/run.lua spec`. Debian's own `busted` starts Lua 5.1.

-- A child gets the sanitizer only if it asks for it: in curl or Chromium it would find what is not ours.
local has_luv, uv = pcall(require, "luv")
if has_luv then uv.os_unsetenv("LD_PRELOAD") end

-- Where every reader is installed, as in CI, a pending spec is one that did not run: an error.
if os.getenv("EVENTSTREAM_REQUIRE_ALL") then
  local new_core = require "busted.core"
  package.loaded["busted.core"] = function()
    local busted = new_core()
    busted.subscribe({ "test", "end" }, function(element, parent, status)
      if status == "pending" then
        busted.publish({ "error", element.descriptor }, element, parent, "pending, though every spec is required")
      end
      return nil, true
    end)
    return busted
  end
end

io.stdout:setvbuf "line" -- the summary must be out before a sanitizer ends the process at its exit

require "busted.runner" { standalone = false }
