-- Gives back to a limit over a window. KEYS[1]: as in take_window. ARGV: units, the part that they were taken in
local held = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0)
local back = math.min(held, tonumber(ARGV[1]))
if back > 0 then
  redis.call('HINCRBY', KEYS[1], ARGV[2], string.format('%.0f', -back))
end
return {back}
