-- Takes from a limit over a window. KEYS[1]: a hash of counts by part of time.
-- ARGV: now (µs; 0: this server's), part (µs), parts that count, limit, charge, demand, want, share, whole,
-- until when whoever asks waits for the answer (µs of this server's clock; 0: for ever)
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
  local deadline = tonumber(ARGV[10])
  if deadline > 0 and now > deadline then
    -- nobody would hear of what was taken
    return {-1, 0, 0, now}
  end
end
local part, parts, limit = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local charge, demand, want = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local share, whole = tonumber(ARGV[8]), ARGV[9] == '1'
local function text(number) return string.format('%.0f', number) end

local at = math.floor(now / part)
local held = redis.call('HGETALL', KEYS[1])
local newest = at
for i = 1, #held, 2 do
  newest = math.max(newest, tonumber(held[i]))
end
if newest - at > parts then
  -- the clock has been set back by more than a window: what counts goes on to count, from now on
  local all = 0
  for i = 2, #held, 2 do
    all = all + tonumber(held[i])
  end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], text(at), text(all))
  held = {text(at), text(all)}
elseif newest > at then
  -- it never goes back for one counter
  at, now = newest, newest * part
end

local counts, sum, gone = {}, 0, {}
for i = 1, #held, 2 do
  local index, count = tonumber(held[i]), tonumber(held[i + 1])
  if index <= at - parts then
    gone[#gone + 1] = held[i]
  else
    counts[index] = count
    sum = sum + count
  end
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end

local room = math.max(0, limit - sum - charge)
local granted = 0
if whole then
  if demand <= room then granted = demand end
else
  granted = math.min(room, math.max(demand, math.min(want, math.floor(room / share))))
end
local taken = charge + granted
if taken > 0 then
  redis.call('HINCRBY', KEYS[1], text(at), text(taken))
  redis.call('PEXPIRE', KEYS[1], text(math.ceil((parts + 1) * part / 1000)))
  counts[at] = (counts[at] or 0) + taken
  sum = sum + taken
end
room = room - granted

-- until there is room: for what was refused, or else for more
local after, left = 0, sum
local wanted = 1
if granted < demand then wanted = math.min(demand, limit) end
for index = at - parts + 1, at do
  local count = counts[index]
  if count and count > 0 then
    left = left - count
    after = (index + parts) * part - now
    if room > 0 and granted >= demand then break end
    if limit - left >= wanted then break end
  end
end
return {granted, room, math.max(0, after), at}
