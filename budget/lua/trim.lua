#!lua flags=allow-oom
-- Forget the oldest events, and remember what they come to. Who asks has added them up (budget/readers.py).
-- KEYS  1 epoch  2 events  3 trimmed  4 holds that began in what is trimmed and had not ended there
-- ARGV  1 epoch  2 sequence  3 id of the last event trimmed before ("" none)  4 id of the last to be trimmed now
--       5 how many  6 number of accounts, then per account its id and what was posted
--       then the number of holds that began, their ids, and the ids of those that ended
-- Reply {'ok', last id trimmed} | {'passed', the same}: somebody else trimmed meanwhile | those of epoch.lua
-- include epoch.lua

local lost = doubt()
if lost then return lost end
local last = redis.call('HGET', KEYS[3], 'id') or ''
if last ~= ARGV[3] then return {'passed', last} end
local at = 7
for _ = 1, tonumber(ARGV[6]) do
  redis.call('HINCRBY', KEYS[3], 'a:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
local began = tonumber(ARGV[at])
for i = at + 1, at + began do redis.call('SADD', KEYS[4], ARGV[i]) end
for i = at + began + 1, #ARGV do redis.call('SREM', KEYS[4], ARGV[i]) end
redis.call('HINCRBY', KEYS[3], 'events', ARGV[5])
redis.call('HSET', KEYS[3], 'id', ARGV[4])
local ms, number = string.match(ARGV[4], '^(%d+)-(%d+)$')
redis.call('XTRIM', KEYS[2], 'MINID', '=', ms .. '-' .. text(tonumber(number) + 1))
return {'ok', ARGV[4]}
