#!lua flags=allow-oom
-- Hold once more what a rebuilt store has forgotten, without asking any limit: the call is under way.
-- KEYS  1 epoch  2 events  3 leases  4 hold  5.. accounts
-- ARGV  1 epoch  2 sequence  3 hold_id  4 amount  5 candidate  6 tokens  7 account ids, by newline  8 owner  9 detail
--       10 lease_ms  11 when it was held, epoch ms ("": now)
-- Reply {'held' | the status that the hold has, sequence} | those of epoch.lua
-- include epoch.lua

local lost = doubt()
if lost then return lost end
local status = redis.call('HGET', KEYS[4], 'status')
if status then return {status, text(sequence)} end
local store_ms = clock_ms()
for i = 5, #KEYS do redis.call('HINCRBY', KEYS[i], 'held', ARGV[4]) end
redis.call('HSET', KEYS[4], 'status', 'held', 'amount', ARGV[4], 'candidate', ARGV[5], 'tokens', ARGV[6],
  'accounts', ARGV[7], 'owner', ARGV[8], 'detail', ARGV[9], 'held_ms', text(store_ms))
redis.call('ZADD', KEYS[3], text(store_ms + tonumber(ARGV[10])), ARGV[3])
append('type', 'hold', 'hold', ARGV[3], 'amount_nano', ARGV[4], 'candidate', ARGV[5], 'tokens', ARGV[6],
  'accounts', ARGV[7], 'owner', ARGV[8], 'detail', ARGV[9], 'at_ms', ARGV[11] ~= '' and ARGV[11] or text(store_ms))
return {'held', text(sequence)}
