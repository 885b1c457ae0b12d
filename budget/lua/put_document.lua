#!lua
-- Write or delete one document of the snapshot and number the change, if nobody changed it since it was read.
-- KEYS  1 epoch  2 events  3 version  4 documents  5 changed
-- ARGV  1 epoch  2 sequence  3 kind:id  4 'put' | 'delete'  5 text  6 expected version ("" any)
-- Reply {'ok', sequence, version} | {'conflict', version} | those of epoch.lua
-- include epoch.lua

local lost = doubt()
if lost then return lost end
local have = redis.call('HEXISTS', KEYS[4], ARGV[3]) == 1
local was = have and redis.call('ZSCORE', KEYS[5], ARGV[3]) or '0'
if ARGV[6] ~= '' and tonumber(was) ~= tonumber(ARGV[6]) then return {'conflict', was} end
local version = text(redis.call('INCR', KEYS[3]))
if ARGV[4] == 'put' then redis.call('HSET', KEYS[4], ARGV[3], ARGV[5]) else redis.call('HDEL', KEYS[4], ARGV[3]) end
redis.call('ZADD', KEYS[5], version, ARGV[3])
append('type', 'document', 'id', ARGV[3], 'change', ARGV[4], 'version', version, 'text', ARGV[5],
  'at_ms', text(clock_ms()))
return {'ok', text(sequence), version}
