#!lua
-- End a claim: its answer is there, or its key is free for the next try. Nothing if the claim is not the present one:
-- it has ended, or ran out and another request has the key.
-- KEYS 1 answer   ARGV 1 holder  2 keep_ms  3 status  4 field  5 value
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'holder')
redis.call('HSET', KEYS[1], 'status', ARGV[3], ARGV[4], ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
