--- Jobs with a progress that ends: each client gets it up to `done`, also one that was cut, and then stops coming back.
-- Run it:  lua examples/finish.lua       (another port: PORT=9000 lua examples/finish.lua)
-- See it:  open http://127.0.0.1:8080/   or: curl -N http://127.0.0.1:8080/jobs/1   (the first job starts by itself)
-- More:    curl -d '' http://127.0.0.1:8080/jobs   starts another, and prints its number
-- End it:  Ctrl-C

local eventstream = require "eventstream"

local folder = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or ""
local file = assert(io.open(folder .. "finish.html", "rb"))
local page = file:read "*a"
file:close()

local STEPS, STEP_SECONDS = 40, 0.25
local KEPT = 60 -- seconds after its end in which those who were cut can come back for the rest of a job

local app = eventstream.new { retry = 1000 }
local jobs, count = {}, 0

local function finish(job)
  job.done = job.channel:publish { event = "done", data = ("job %s took %d steps"):format(job.number, STEPS) }
  for _, stream in ipairs(job.channel:streams()) do stream:close() end -- once they have what was published
  app:after(KEPT, function()
    jobs[job.number] = nil
    job.channel:close()
  end)
end

local function start()
  count = count + 1
  local number = tostring(count)
  local job, step = { number = number, channel = app:channel("job:" .. number) }, 0
  jobs[number] = job
  local interval
  interval = app:every(STEP_SECONDS, function()
    step = step + 1
    job.channel:publish { event = "progress", data = ("%d/%d"):format(step, STEPS) }
    if step == STEPS then
      interval:stop()
      finish(job)
    end
  end)
  return number
end

app:get("/", function() return 200, page, { ["Content-Type"] = "text/html; charset=utf-8" } end)
app:post("/jobs", function() return 201, start() .. "\n" end)

app:stream("/jobs/:number", function(stream, request)
  local job = jobs[request.params.number]
  if not job or job.done and job.done == stream.last_event_id then return stream:reject(204) end -- nothing more to come
  stream:subscribe(job.channel, { newcomer = "all" })
  if job.done then stream:close() end -- once it has the rest; a browser comes back for its 204
end)

start()
return app:serve { port = tonumber(os.getenv "PORT" or 8080) }
