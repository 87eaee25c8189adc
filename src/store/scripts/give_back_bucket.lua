-- Gives back to a bucket. KEYS[1]: as in take_bucket. ARGV: now (µs; 0: this server's), units, window (µs) that they
-- come back in, how many are given back, when they were taken (µs). What has come back since then is not given back too.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local units, window = tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'level', 'at')
if not held[1] then return {0} end
local level, since = tonumber(held[1]), tonumber(held[2])
if now > since then
  level = math.max(0, level - (now - since) * units / window)
end
local back = tonumber(ARGV[4]) - math.max(0, now - tonumber(ARGV[5])) * units / window
back = math.max(0, math.min(back, level))
redis.call('HSET', KEYS[1], 'level', string.format('%.17g', level - back), 'at', string.format('%.0f', now))
return {math.floor(back)}
