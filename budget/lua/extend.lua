#!lua flags=allow-oom
-- Renew the leases of holds that are still held, by the store's clock; the reply names those that are not.
-- KEYS  1 epoch  2 events  3 leases   ARGV  1 epoch  2 sequence  3 lease_ms  4.. hold ids
-- Reply {'ok', hold ids ...} | those of epoch.lua
-- include epoch.lua

local lost = doubt()
if lost then return lost end
local until_ms = text(clock_ms() + tonumber(ARGV[3]))
local reply = {'ok'}
for i = 4, #ARGV do
  if redis.call('ZSCORE', KEYS[3], ARGV[i]) then
    redis.call('ZADD', KEYS[3], 'XX', until_ms, ARGV[i])
  else
    reply[#reply + 1] = ARGV[i]
  end
end
return reply
