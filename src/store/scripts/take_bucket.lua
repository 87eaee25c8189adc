-- Takes from a bucket. KEYS[1]: a hash of how full it is (`level`, of what has been taken), and when it was (`at`, µs).
-- ARGV: now (µs; 0: this server's), units, window (µs) that they come back in, burst, charge, demand, want, share, whole,
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
local units, window, burst = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local charge, demand, want = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local share, whole = tonumber(ARGV[8]), ARGV[9] == '1'

local held = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, since = tonumber(held[1] or 0), tonumber(held[2] or now)
if now > since then
  level = math.max(0, level - (now - since) * units / window)
end
level = level + charge
-- a billionth is rounding
local room = math.max(0, math.floor(burst - level + 1e-9))
local granted = 0
if whole then
  if demand <= room then granted = demand end
else
  granted = math.min(room, math.max(demand, math.min(want, math.floor(room / share))))
end
level = level + granted
room = room - granted
if charge + granted > 0 then
  redis.call('HSET', KEYS[1], 'level', string.format('%.17g', level), 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(level * window / units / 1000) + 1000))
end

-- until there is room: for what was refused, or for one where there is none, or else for all
local after = level
if granted < demand then
  after = level + math.min(demand, burst) - burst
elseif room == 0 then
  after = level + 1 - burst
end
return {granted, room, math.ceil(math.max(0, after) * window / units), now}
