-- Says that a gateway is there, and tells how many there are. KEYS[1]: a sorted set by the time of their last word.
-- ARGV: who, how long a word lasts (µs)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - tonumber(ARGV[2])))
-- a clock that was set back leaves times that are yet to come
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(tonumber(ARGV[2]) / 1000)))
return {redis.call('ZCARD', KEYS[1]), now}
