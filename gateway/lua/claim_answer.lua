#!lua
-- Claim an idempotency key for one request, or say what became of it.
-- KEYS 1 answer   ARGV 1 fingerprint  2 running_ms  3 holder: names this claim, for end_claim.lua
-- Reply {'claimed', tries} | {'running'} | {'differs'} | {'done', answer}
local row = redis.call('HMGET', KEYS[1], 'fingerprint', 'status', 'answer', 'tries')
if row[1] and row[1] ~= ARGV[1] then return {'differs'} end
if row[2] == 'running' then return {'running'} end
if row[2] == 'done' then return {'done', row[3]} end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'status', 'running', 'holder', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'claimed', row[4] or '0'}
