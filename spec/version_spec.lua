local eventstream = require "eventstream"

local function load_rockspec(path)
  local rockspec = {}
  local chunk
  if setfenv then -- luacheck: ignore
    chunk = setfenv(assert(loadfile(path)), rockspec) -- luacheck: ignore
  else
    chunk = assert(loadfile(path, "t", rockspec))
  end
  chunk()
  return rockspec
end

describe("version", function()
  local version = eventstream._VERSION
  local released = load_rockspec("eventstream-" .. version .. "-1.rockspec")

  it("is the rockspec's", function()
    assert.equal(version .. "-1", released.version)
    assert.equal("v" .. version, released.source.tag)
  end)

  it("is the newest in the changelog", function()
    local file = assert(io.open "CHANGELOG.md")
    local newest = file:read("*a"):match "\n## %[(%d[^%]]*)%]"
    file:close()
    assert.equal(version, newest)
  end)

  it("is all that sets the rockspecs apart", function()
    local scm = load_rockspec "eventstream-scm-1.rockspec"
    scm.version, scm.source.branch = released.version, nil
    scm.source.tag = released.source.tag
    assert.same(released, scm)
  end)
end)
