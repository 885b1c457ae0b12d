#!lua flags=allow-oom
-- Renew the leases of holds that are still held, by the store's clock; the reply names those that are not.
-- KEYS 1 leases   ARGV 1 lease_ms  2.. hold ids
local time = redis.call('TIME')
local until_ms = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1]))
local gone = {}
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], 'XX', until_ms, ARGV[i])
  else
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
