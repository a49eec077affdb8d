--- Prices that move, a channel for each symbol; a stream has those that its client asks for.
-- Run it:  lua examples/ticker.lua       (another port: PORT=9000 lua examples/ticker.lua)
-- See it:  open http://127.0.0.1:8080/   or: curl -N 'http://127.0.0.1:8080/ticker?symbols=ACME,HOOLI'
-- End it:  Ctrl-C

local eventstream = require "eventstream"

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "ticker.html", "rb"))
local page = file:read "*a"
file:close()

local app = eventstream.new {
  retry = 1000, -- milliseconds that a browser waits before it comes back
  -- Prices of 0.1 s leave in one write. A reader that falls 50 prices behind goes on at the newest.
  channels = { ["price:*"] = { history = 100, flush = 0.1, slow = "skip" } },
}

local prices = { ACME = 120, GLOBEX = 48, HOOLI = 310, INITECH = 12, STARK = 205, TYRELL = 77, WAYNE = 150 }
local symbols, channels = {}, {}
for symbol in pairs(prices) do
  symbols[#symbols + 1] = symbol
  channels[symbol] = app:channel("price:" .. symbol)
end
table.sort(symbols)

app:every(0.05, function()
  for symbol, price in pairs(prices) do
    if math.random() < 0.25 then
      prices[symbol] = price * (1 + (math.random() - 0.5) / 100)
      channels[symbol]:publish { event = "price", data = ("%s %.2f"):format(symbol, prices[symbol]) }
    end
  end
end)

app:get("/", function()
  return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" }
end)

app:get("/symbols", function() return table.concat(symbols, "\n") end)

app:stream("/ticker", function(stream, request)
  local chosen = {}
  for symbol in (request.query.symbols or ""):gmatch "[^,]+" do
    if not channels[symbol] then return stream:reject(400, "no such symbol\n") end
    chosen[#chosen + 1] = channels[symbol]
  end
  if #chosen == 0 then return stream:reject(400, "choose symbols, as /symbols lists them: ?symbols=ACME,HOOLI\n") end
  stream:subscribe(chosen, { newcomer = "all" }) -- in the order of their publishing, whatever their channel
end)

return app:serve { port = tonumber(os.getenv "PORT" or 8080) }
