-- Takes from a quota of one period. KEYS[1]: a hash of what was used (0) and what was given beside the limit (1).
-- ARGV: charge, demand, limit, for how long it is kept (ms), until when whoever asks waits for the answer (µs of this
-- server's clock; 0: for ever)
local deadline = tonumber(ARGV[5])
if deadline > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  if now > deadline then
    -- nobody would hear of what was taken
    return {-1, 0, 0, now}
  end
end
local charge, demand, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], '0', '1')
local used, given = tonumber(held[1] or 0) + charge, tonumber(held[2] or 0)
local room = math.max(0, limit + given - used)
local granted = 0
if demand <= room then granted = demand end
local taken = charge + granted
if taken > 0 then
  redis.call('HINCRBY', KEYS[1], '0', string.format('%.0f', taken))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {granted, room - granted, used + granted, given}
