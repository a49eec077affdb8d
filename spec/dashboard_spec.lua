--- examples/dashboard.lua in Chromium: each chart is drawn, as its picture shows, at desktop and phone width, light and
-- dark; it lives on what comes, and survives the server's end.

local pages = require "spec.support.pages"
local readers = require "spec.support.readers"

local CHARTS = { "connections", "events", "bytes", "cpu", "memory", "lag" }

-- How many points of a picture have the line's colour. The page looks at it: it can decode PNG.
local COUNT = [[(async () => {
  const image = new Image();
  image.src = "data:image/png;base64,%s";
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  const wanted = [1, 3, 5].map((i) => parseInt(accent.slice(i, i + 2), 16));
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (wanted.every((value, j) => Math.abs(data[i + j] - value) < 24)) count++;
  }
  return count;
})()]]

describe("dashboard.lua", function()
  if not readers.chromium then return pending "Chromium is not installed" end

  setup(pages.launch)
  teardown(pages.quit)
  after_each(pages.finish)

  local function drawn(page, id)
    local box = page:evaluate(([[(() => {
      const box = document.querySelector("#%s svg").getBoundingClientRect();
      return { x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1 };
    })()]]):format(id))
    local picture = page:call("Page.captureScreenshot", { format = "png", clip = box, captureBeyondViewport = true })
    return page:evaluate(COUNT:format(picture.data))
  end

  local function set(page, width, height, scheme)
    page:call("Emulation.setDeviceMetricsOverride",
      { width = width, height = height, deviceScaleFactor = 1, mobile = width < 500 })
    page:call("Emulation.setEmulatedMedia", { features = { { name = "prefers-color-scheme", value = scheme } } })
  end

  it("shows what its server does", function()
    local server = pages.start({ "examples/dashboard.lua" }, { PORT = "0" })
    local page = pages.open(server.port)
    page:wait 'charts.every((chart) => chart.values.filter((value) => value > 0 || chart.id === "lag").length >= 6)'

    local looks = { { 1280, 900, "light" }, { 1280, 900, "dark" }, { 375, 800, "light" }, { 375, 800, "dark" } }
    for _, look in ipairs(looks) do
      set(page, look[1], look[2], look[3])
      assert.is_true(page:evaluate "document.scrollingElement.scrollWidth <= innerWidth", "it is wider than the screen")
      for _, id in ipairs(CHARTS) do
        local points = drawn(page, id)
        assert.is_true(points >= 3, ("%s at %d, %s: %d points"):format(id, look[1], look[3], points))
      end
    end

    -- what was counted is the line: without it there is none
    page:evaluate 'document.head.append(make("style", ".line, .area { display: none }"))'
    for _, id in ipairs(CHARTS) do assert.equal(0, drawn(page, id)) end

    assert.is_true(page:evaluate 'charts.every((chart) => /\\d/.test(chart.value.textContent))')
    page:wait 'rows.children.length >= 5 && /^room \\d+\\d+\\.\\d\\d+$/.test(rows.children[0].textContent)'
    assert.is_true(page:evaluate 'parseFloat(rows.children[0].children[1].textContent) > 0')
    assert.same({}, page.problems)
  end)

  it("tells under the pointer what was when", function()
    local server = pages.start({ "examples/dashboard.lua" }, { PORT = "0" })
    local page = pages.open(server.port)
    page:wait "charts[0].values.length >= 2"
    page:evaluate [[(() => {
      const box = charts[0].svg.getBoundingClientRect();
      charts[0].svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.right, clientY: box.top + 5 }));
    })()]]
    assert.matches("^%d+, 0 s ago$", (page:evaluate "charts[0].note.textContent"))
    page:evaluate 'charts[0].svg.dispatchEvent(new PointerEvent("pointerleave"))'
    assert.equal("", (page:evaluate "charts[0].note.textContent"))
  end)

  it("comes back, and begins its rates anew, when the server was gone", function()
    local server = pages.start({ "examples/dashboard.lua" }, { PORT = "0" })
    local page = pages.open(server.port)
    page:wait 'charts[1].values.length >= 3 && $("state").textContent === "live"'
    server:kill()
    server:wait_exit()
    page:wait '$("state").textContent === "connecting"'
    local before = page:evaluate "charts[1].values.length"
    pages.start({ "examples/dashboard.lua" }, { PORT = server.port })
    page:wait('$("state").textContent === "live" && charts[1].values.length >= ' .. before + 3)
    assert.is_true(page:evaluate(("charts[1].values[%d] === null"):format(before)))
    assert.is_true(page:evaluate "charts[1].values.at(-1) !== null")
    assert.is_true(page:evaluate "charts[1].values.every((value) => value === null || value >= 0)")
  end)
end)
