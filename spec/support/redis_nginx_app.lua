--- The app of redis_spec inside nginx: Redis' socket lies in nginx's folder.
local eventstream = require "eventstream"

local app = eventstream.new {
  retry = false,
  backplane = require("eventstream.redis").new { path = ngx.config.prefix() .. "redis" },
  on_error = function(message) ngx.log(ngx.ERR, "script error: ", message) end,
}

app:stream("/", function(stream, request)
  local names = {}
  for name in request.query.to:gmatch "[^,]+" do names[#names + 1] = name end
  stream:header("X-Worker", tostring(ngx.worker.pid()))
  stream:subscribe(names)
end)

app:post("/publish", function(request)
  local id, why = eventstream.await(function(resume)
    app:channel(request.query.to):publish({ data = request.body }, resume)
  end)
  if not id then return 503, why end
  return id
end)

return app:serve { port = 0 }
