#!lua flags=allow-oom
-- End a hold: release it, post what it cost, append the event, all or nothing. Posting is never refused for lack
-- of money, nor of memory (allow-oom): the provider has charged. Specification: budget/memory_store.py. What each (status, mode) does:
--
--            none         held               settled   voided    expired
--   settle   post         release, post      -         post      post the difference
--   void     remember     release            -         -         take back what was posted
--   expire   -            release, post all  -         -         -          (only if the lease is over)
--   true_up  -            -                  difference, once, for settled and expired
--   post     post         -                  -         -         -
--
-- KEYS  1 leases  2 events  3 hold  4 next hold (or the hold again)  5 index  6.. accounts
-- ARGV  1 hold_id  2 mode  3 cost  4 basis  5 detail  6 keep_ms  7 account ids, by newline
--       8 next hold's id ("" none)  9 its amount  10 its detail  11 lease_ms  12 owner
--       13.. per account, or none at all: terms ("limit soft stop_at")  period_end_ms ("" none)  keep_until_ms
-- Reply {status before, applied, delta, overage, spent, held, ...} | {'refused', field, rule}

local text = function(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local store_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local row = redis.call('HMGET', KEYS[3], 'status', 'amount', 'cost', 'detail', 'trued', 'candidate', 'tokens', 'accounts')
local status, mode = row[1] or 'none', ARGV[2]
local amount, posted = row[2] or '0', row[3] or '0'
local cost, basis, detail = ARGV[3], ARGV[4], ARGV[5]
local after, trued = nil, row[5]
-- A hold is on some of the accounts that its request named; only those are touched, in the hold's order.
local accounts = row[8] or ARGV[7]
local at_key, on = {}, {}
for i = 6, #KEYS do at_key[string.sub(KEYS[i], #KEYS[5] + 2)] = i end
for id in string.gmatch(accounts, '[^\n]+') do
  if not at_key[id] then return {'refused', 'accountIds', 'must name every account of the hold'} end
  on[#on + 1] = id
end

if mode == 'settle' then
  if status ~= 'settled' then after = 'settled' end
elseif mode == 'post' then
  if status == 'none' then after = 'settled' end
elseif mode == 'void' then
  cost = '0'
  if status == 'none' or status == 'held' or status == 'expired' then after = 'voided' end
elseif mode == 'expire' then
  local until_ms = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
  if status == 'held' and until_ms <= store_ms then
    after, cost, detail = 'expired', amount, row[4]
  elseif status ~= 'held' then
    redis.call('ZREM', KEYS[1], ARGV[1])
  end
elseif mode == 'true_up' then
  if (status == 'settled' or status == 'expired') and not trued then
    after, trued = status, '1'
  end
end

local balances = function(head)
  for i = 6, #KEYS do
    local b = redis.call('HMGET', KEYS[i], 'spent', 'held')
    head[#head + 1] = b[1] or '0'
    head[#head + 1] = b[2] or '0'
  end
  return head
end
if not after then return balances({status, '0', '0', '0'}) end

local delta = tonumber(cost) - tonumber(posted)
local overage = 0
if status == 'held' and tonumber(cost) > tonumber(amount) then overage = tonumber(cost) - tonumber(amount) end
local next_id = ''
if status == 'held' then next_id = ARGV[8] end
if next_id ~= '' and tonumber(cost) + tonumber(ARGV[9]) > tonumber(amount) then
  return {'refused', 'nextHold', 'must fit into what the cost leaves of its hold'}
end

local enter = function(key, id)  -- one event per change of state
  local a = redis.call('HMGET', key, 'spent', 'state', 'terms')
  if not a[3] then return end
  local limit, soft, stop_at = string.match(a[3], '(%S+) (%S+) (%S+)')
  local spent, was, now = tonumber(a[1]), a[2] or '0', '0'
  if spent >= tonumber(stop_at) then now = '3'
  elseif spent > tonumber(limit) then now = '2'
  elseif spent > tonumber(soft) then now = '1' end
  if now ~= was then
    redis.call('HSET', key, 'state', now)
    redis.call('XADD', KEYS[2], '*', 'type', 'state', 'account', id, 'from', was, 'to', now,
      'spent_nano', a[1], 'limit_nano', limit, 'cause', ARGV[1], 'why', 'spend', 'at_ms', text(store_ms))
  end
end

local spent_after = {}
for _, id in ipairs(on) do
  local key, at = KEYS[at_key[id]], 13 + 3 * (at_key[id] - 6)
  if ARGV[at] then
    redis.call('HSETNX', key, 'spent', '0')
    if redis.call('HSETNX', key, 'terms', ARGV[at]) == 1 then
      redis.call('ZADD', KEYS[5], ARGV[at + 1] == '' and '+inf' or ARGV[at + 1], id)
      if ARGV[at + 2] ~= '' then redis.call('PEXPIREAT', key, ARGV[at + 2]) end
    end
    redis.call('HSET', key, 'terms', ARGV[at])
  end
  if status == 'held' then
    if amount ~= '0' then redis.call('HINCRBY', key, 'held', '-' .. amount) end  -- '-0' is no integer to HINCRBY
    if next_id ~= '' then redis.call('HINCRBY', key, 'held', ARGV[9]) end
  end
  if delta ~= 0 then redis.call('HINCRBY', key, 'spent', text(delta)) end
  spent_after[#spent_after + 1] = redis.call('HGET', key, 'spent') or '0'
  if delta ~= 0 then enter(key, id) end
end

redis.call('HSET', KEYS[3], 'status', after, 'cost', cost, 'basis', basis, 'accounts', accounts)
if trued then redis.call('HSET', KEYS[3], 'trued', trued) end
redis.call('HDEL', KEYS[3], 'detail')
redis.call('PEXPIRE', KEYS[3], ARGV[6])
redis.call('ZREM', KEYS[1], ARGV[1])
-- A void of an id that was never reserved only bars a reserve that arrives late: no call, so no event.
if status ~= 'none' or mode ~= 'void' then
  redis.call('XADD', KEYS[2], '*', 'type', mode, 'hold', ARGV[1], 'before', status, 'cost_nano', cost,
    'delta_nano', text(delta), 'overage_nano', text(overage), 'held_nano', amount, 'basis', basis,
    'accounts', accounts, 'spent_after', table.concat(spent_after, ' '), 'at_ms', text(store_ms),
    'detail', detail or '{}')
end
if next_id ~= '' then
  redis.call('HSET', KEYS[4], 'status', 'held', 'amount', ARGV[9], 'candidate', row[6], 'tokens', row[7],
    'accounts', accounts, 'owner', ARGV[12], 'detail', ARGV[10], 'held_ms', text(store_ms))
  redis.call('ZADD', KEYS[1], text(store_ms + tonumber(ARGV[11])), next_id)
end
return balances({status, '1', text(delta), text(overage)})
