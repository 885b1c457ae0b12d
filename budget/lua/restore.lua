#!lua flags=allow-oom
-- Hold once more what a rebuilt store has forgotten, without asking any limit: the call is under way.
-- KEYS  1 epoch  2 events  3 leases  4 hold  5.. accounts
-- ARGV  1 epoch  2 sequence  3 hold_id  4 amount  5 candidate  6 tokens  7 account ids, by newline  8 owner  9 detail
--       10 lease_ms  11 when it was held, epoch ms ("": now)
-- Reply {'held' | the status that the hold has, sequence} | those of epoch.lua
-- include epoch.lua
-- include hold.lua

local lost = doubt()
if lost then return lost end
local known = read_hold(KEYS[4])
if known then return {known.status, text(sequence)} end
local store_ms = clock_ms()
for i = 5, #KEYS do redis.call('HINCRBY', KEYS[i], 'held', ARGV[4]) end
write_hold(KEYS[4], {'held', ARGV[4], '0', ARGV[5], ARGV[6], ARGV[8], '', text(store_ms), ARGV[7], ARGV[9]})
redis.call('ZADD', KEYS[3], text(store_ms + tonumber(ARGV[10])), ARGV[3])
append('type', 'hold', 'hold', ARGV[3], 'amount_nano', ARGV[4], 'candidate', ARGV[5], 'tokens', ARGV[6],
  'accounts', ARGV[7], 'owner', ARGV[8], 'detail', ARGV[9], 'at_ms', ARGV[11] ~= '' and ARGV[11] or text(store_ms))
return {'held', text(sequence)}
