-- Forgets a counter. KEYS[1]: as in take_window or take_bucket
return {redis.call('DEL', KEYS[1])}
