-- What runs inside Redis: each of these is one atomic step.
local M = {}

-- Begins a term where this is another run of Redis than the last one that was seen. Its numbers begin with the time, so
-- that they are above all that were, also where nobody knows these any more.
-- KEYS: state. ARGV: run, nonce, leap, terms, the highest number that the caller knows, but for mere beginnings of
-- terms, and the highest with them. Returns: number, terms; Redis' time in milliseconds; where the term begins; and for
-- each term before which numbers were lost "nonce:number;", by which number that was told.
M.hello = [[
local state = redis.call('HMGET', KEYS[1], 'run', 'sequence', 'terms', 'nonce', 'start', 'losses')
local sequence, terms, losses, known = tonumber(state[2] or 0), state[3] or '', state[6] or '', tonumber(ARGV[5])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + time[2] / 1000)
if state[1] == ARGV[1] and state[4] and known <= sequence then
  return { string.format('%.0f', sequence), terms, now, state[5], losses }
end
local start = math.max(math.max(sequence, tonumber(ARGV[6])) + tonumber(ARGV[3]), time[1] * tonumber(ARGV[3]))
if terms ~= '' then terms = terms .. ':' .. string.format('%.0f', sequence) .. ';' end
terms = terms .. ARGV[2]
local text = string.format('%.0f', start)
if known > sequence then losses = losses .. ARGV[2] .. ':' .. text .. ';' end
local function newest(list)
  local _, count = string.gsub(list, ';', ';')
  for _ = 1, count + 1 - tonumber(ARGV[4]) do list = string.gsub(list, '^[^;]*;', '', 1) end
  return list
end
terms, losses = newest(terms), newest(losses)
redis.call('HSET', KEYS[1], 'run', ARGV[1], 'nonce', ARGV[2], 'sequence', text, 'terms', terms, 'start', text,
  'losses', losses)
return { text, terms, now, text, losses }
]]

-- Appends events, but for those that were appended already, when the answer was not heard. The news have, for each such
-- step, which streams it appended to, each with "number entry" where that is one small event, so that it need not be
-- read there, else with ""; their number is that of the step's last event. They say what the newest number before was,
-- and in which term.
-- KEYS: state, channels, done, control, news. ARGV: the term's nonce, process, channels that are remembered, prefix,
-- the first event's count; and for each row of events of one channel and kind: channel, kind, history, milliseconds,
-- how many, each of them packed. Returns rows for the first so many of them: a number, and how many have that and
-- those behind it; or why they failed, and how many did. The rest was left alone, and is to be sent again. An error
-- that nobody's row is to blame for is the reply's.
M.publish = [=[
local nonce, sequence, floor = unpack(redis.call('HMGET', KEYS[1], 'nonce', 'sequence', 'floor'))
if nonce ~= ARGV[1] then return redis.error_reply('TERM another term has begun') end
local process, most, prefix, count = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local done_count, done_number = string.match(redis.call('GET', KEYS[3]) or '0 0', '^(%d+) (%d+)$')
done_count, done_number = tonumber(done_count), tonumber(done_number)
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + time[2] / 1000)
local KEPT, KEPT_MS, HOUR_MS, DAY_MS = 1000, 60000, 3600000, 86400000 -- at least: readers may be behind
local SMALL = 2048 -- bytes of a step's entries that stand in the news
local function text(number) return string.format('%.0f', number) end

local before = text(tonumber(sequence))
sequence, floor = tonumber(sequence), floor or '0'
local lasts, lives, news = {}, {}, {} -- numbers by channel; milliseconds by key; what the news have of a key
local control -- the number of the control stream's last entry

-- The number of a channel's last event.
local function last_of(channel, key)
  if lasts[channel] then return lasts[channel] end
  local last = redis.call('ZSCORE', KEYS[2], channel)
  if last then return text(tonumber(last)) end
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  return newest and string.match(newest[1], '^%d+') or floor
end

local function append(channel, kind, packed, history, milliseconds)
  local number = text(sequence + 1)
  local head = kind .. ' ' .. now .. ' ' .. process .. ' ' .. text(count) .. ' '
  local key, entry
  if kind == 'none' then -- for those who listen: it is no part of the history, and takes no place in it
    key, entry = prefix .. ':live:' .. channel, head .. '0 ' .. packed
    redis.call('XADD', key, 'MAXLEN', '~', KEPT, number .. '-0', 'e', entry)
    lives[key] = KEPT_MS
  elseif kind == 'own' or kind == 'given' then
    key = prefix .. ':channel:' .. channel
    entry = head .. last_of(channel, key) .. ' ' .. packed
    -- not less than who reads it may be behind: the bounds are those of each process' own log
    redis.call('XADD', key, 'MAXLEN', '~', math.max(history, KEPT), number .. '-0', 'e', entry)
    lives[key] = milliseconds > 0 and math.max(milliseconds, KEPT_MS) or 0
    lasts[channel] = number
  else -- for all processes
    if kind == 'loss' then -- packed: before which term; each process that knows of it says so, and the first one counts
      local losses = redis.call('HGET', KEYS[1], 'losses') or ''
      local at = string.match(losses, packed .. ':(%d+);')
      packed = packed .. ':' .. (at or number)
      if not at then redis.call('HSET', KEYS[1], 'losses', losses .. packed .. ';') end
    end
    control = control or redis.call('HGET', KEYS[1], 'control') or '0'
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', KEPT, number .. '-0', 'e', head .. control .. ' ' .. packed, 'c',
      channel)
    news[KEYS[4]], control = '', number
    if kind == 'close' then -- what was before it is read up to here, and is no history any more
      key = prefix .. ':channel:' .. channel
      redis.call('XADD', key, 'MAXLEN', '~', KEPT, number .. '-0', 'e', head .. last_of(channel, key) .. ' ')
      lives[key] = KEPT_MS
      lasts[channel] = number
    elseif kind == 'members' and packed ~= '' then
      redis.call('HSET', prefix .. ':members:' .. channel, process, packed)
      lives[prefix .. ':members:' .. channel] = HOUR_MS
    elseif kind == 'members' then
      redis.call('HDEL', prefix .. ':members:' .. channel, process)
    end
  end
  if key then news[key] = entry and not news[key] and number .. ' ' .. entry or '' end
  sequence = sequence + 1
end

-- What was done, and not heard of, is told again, and nothing else is done: so what one answer is about has numbers
-- without a hole.
if count <= done_count then return { done_number - (done_count - count), done_count - count + 1 } end

local replies, first, i = {}, sequence + 1, 6
while i <= #ARGV do
  local channel, kind, history, milliseconds = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local last, why = i + 4 + tonumber(ARGV[i + 4]), nil
  for at = i + 5, last do
    local fine, failure = pcall(append, channel, kind, ARGV[at], history, milliseconds)
    if not fine then
      why = type(failure) == 'table' and failure.err or tostring(failure)
      local own = string.find(why, 'WRONGTYPE', 1, true) or string.find(why, 'ID specified', 1, true)
      if sequence < first and not own then return redis.error_reply(why) end
      replies = { why, last - at + 1 } -- so that what is counted as done has no hole
      break
    end
    count = count + 1
  end
  if why then break end
  i = last + 1
end
if sequence < first then return replies end
local last = text(sequence)
redis.call('HSET', KEYS[1], 'sequence', last)
if control then redis.call('HSET', KEYS[1], 'control', control) end
redis.call('SET', KEYS[3], text(count - 1) .. ' ' .. last, 'PX', DAY_MS)
for key, milliseconds in pairs(lives) do
  if milliseconds > 0 then redis.call('PEXPIRE', key, milliseconds) else redis.call('PERSIST', key) end
end
for channel, number in pairs(lasts) do redis.call('ZADD', KEYS[2], number, channel) end
while redis.call('ZCARD', KEYS[2]) > most do
  redis.call('HSET', KEYS[1], 'floor', text(tonumber(redis.call('ZPOPMIN', KEYS[2])[2])))
end
local fields, size = { 'before', before .. ' ' .. nonce }, 0
for _, entry in pairs(news) do size = size + #entry end
for key, entry in pairs(news) do fields[#fields + 1], fields[#fields + 2] = key, size <= SMALL and entry or '' end
pcall(redis.call, 'XADD', KEYS[5], 'MAXLEN', '~', KEPT, last .. '-0', unpack(fields)) -- readers find out what is wrong
redis.call('PEXPIRE', KEYS[5], DAY_MS)
return { first, sequence - first + 1, replies[1], replies[2] }
]=]

-- members_of(key, nodes, time): each process that lives, and its names; what dead ones left is dropped.
local MEMBERS = [[
local function members_of(key, nodes, time)
  local members, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local alive = redis.call('ZSCORE', nodes, all[i])
    if alive and tonumber(alive) >= tonumber(time[1]) then
      members[#members + 1], members[#members + 2] = all[i], all[i + 1]
    else
      redis.call('HDEL', key, all[i])
    end
  end
  return members
end
]]

-- All that is kept of a channel. KEYS: state, channels, stream, members, nodes. ARGV: channel. Returns: the number, the
-- channel's last number, its entries, the time in milliseconds, the members of each process, and the term's nonce.
M.history = MEMBERS .. [[
local state = redis.call('HMGET', KEYS[1], 'sequence', 'floor', 'nonce')
local last = redis.call('ZSCORE', KEYS[2], ARGV[1]) or state[2] or '0'
local time = redis.call('TIME')
return { state[1] or '0', string.format('%.0f', tonumber(last)), redis.call('XRANGE', KEYS[3], '-', '+'),
  string.format('%.0f', time[1] * 1000 + time[2] / 1000), members_of(KEYS[4], KEYS[5], time), state[3] or '' }
]]

-- What has become of channels that a process has read, when it has not for a while. KEYS: state, channels, nodes.
-- ARGV: prefix, channels. Returns: the number, the term's nonce, and the losses, as `hello` has them; and for each
-- channel its last number, whether it has any entry, and the members of each process.
M.lapsed = MEMBERS .. [=[
local state = redis.call('HMGET', KEYS[1], 'sequence', 'floor', 'nonce', 'losses')
local time, replies = redis.call('TIME'), { state[1] or '0', state[3] or '', state[4] or '' }
for i = 2, #ARGV do
  local last = redis.call('ZSCORE', KEYS[2], ARGV[i]) or state[2] or '0'
  replies[#replies + 1] = string.format('%.0f', tonumber(last))
  replies[#replies + 1] = redis.call('EXISTS', ARGV[1] .. ':channel:' .. ARGV[i])
  replies[#replies + 1] = members_of(ARGV[1] .. ':members:' .. ARGV[i], KEYS[3], time)
end
return replies
]=]

-- The members of a channel. KEYS: members, nodes. Returns each process that lives, and its names.
M.names = MEMBERS .. "return members_of(KEYS[1], KEYS[2], redis.call('TIME'))"

-- How many subscribers a channel has in the other processes that live; what dead ones left is dropped.
-- KEYS: presence, nodes. ARGV: process. Returns the sum.
M.total = [[
local now, sum = tonumber(redis.call('TIME')[1]), 0
local counts = redis.call('HGETALL', KEYS[1])
for i = 1, #counts, 2 do
  local alive = redis.call('ZSCORE', KEYS[2], counts[i])
  if not alive or tonumber(alive) < now then
    redis.call('HDEL', KEYS[1], counts[i])
  elseif counts[i] ~= ARGV[1] then
    sum = sum + tonumber(counts[i + 1])
  end
end
return sum
]]

-- Tells that a process lives, for so many seconds. KEYS: nodes. ARGV: process, seconds. Returns whether it was not
-- known before (1, or 0), and those that live.
M.alive = [[
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60)
local new = redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return { new, redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf') }
]]

return M
