#!lua flags=allow-oom
-- Give an account that a rebuilt store has forgotten its limits and its place in the index.
-- KEYS  1 epoch  2 events  3 index  4 account
-- ARGV  1 epoch  2 sequence  3 account's id  4 terms ("limit soft stop_at")  5 period_end_ms ("" none)  6 keep_until_ms
-- Reply {'ok', sequence} | those of epoch.lua
-- include epoch.lua

local lost = doubt()
if lost then return lost end
if redis.call('HGET', KEYS[4], 'terms') ~= ARGV[4] then
  redis.call('HSET', KEYS[4], 'terms', ARGV[4])
  redis.call('HSETNX', KEYS[4], 'spent', '0')
  redis.call('ZADD', KEYS[3], ARGV[5] == '' and '+inf' or ARGV[5], ARGV[3])
  if ARGV[6] ~= '' then redis.call('PEXPIREAT', KEYS[4], ARGV[6]) end
  append('type', 'terms', 'account', ARGV[3], 'terms', ARGV[4], 'period_end_ms', ARGV[5], 'keep_until_ms', ARGV[6],
    'at_ms', text(clock_ms()))
end
return {'ok', text(sequence)}
