#!lua
-- Write or delete one document of the snapshot and number the change, if nobody changed it since it was read.
-- KEYS 1 version  2 documents  3 changed  4 events   ARGV 1 kind:id  2 'put' | 'delete'  3 text  4 expected version ("" any)
local have = redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1
local was = have and redis.call('ZSCORE', KEYS[3], ARGV[1]) or '0'
if ARGV[4] ~= '' and tonumber(was) ~= tonumber(ARGV[4]) then return {'conflict', was} end
local version = redis.call('INCR', KEYS[1])
if ARGV[2] == 'put' then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) else redis.call('HDEL', KEYS[2], ARGV[1]) end
redis.call('ZADD', KEYS[3], version, ARGV[1])
local time = redis.call('TIME')
redis.call('XADD', KEYS[4], '*', 'type', 'document', 'id', ARGV[1], 'change', ARGV[2], 'version', version,
  'text', ARGV[3], 'at_ms', string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
return {'ok', tostring(version)}
