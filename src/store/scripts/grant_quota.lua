-- Lets a quota of one period be used for more. KEYS[1]: as in take_quota. ARGV: how much, for how long it is kept (ms)
redis.call('HINCRBY', KEYS[1], '1', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {0}
