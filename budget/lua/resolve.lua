#!lua flags=allow-oom
-- End a hold: release it, post what it cost, append the event, all or nothing. Posting is never refused for lack
-- of money, nor of memory (allow-oom): the provider has charged. Specification: budget/memory_store.py. What each (status, mode) does:
--
--            none         held               settled   voided    expired
--   settle   post         release, post      -         post      post the difference
--   void     remember     release            -         -         take back what was posted
--   expire   -            release, post all  -         -         -          (if the lease is over, or it is replayed)
--   true_up  -            -                  difference, once, for settled and expired
--   post     post         -                  -         -         -
--
-- KEYS  1 epoch  2 events  3 leases  4 hold  5 next hold (or the hold again)  6 index  7.. accounts
-- ARGV  1 epoch  2 sequence  3 hold_id  4 mode  5 cost  6 basis  7 detail  8 keep_ms  9 account ids, by newline
--       10 next hold's id ("" none)  11 its amount  12 its detail  13 lease_ms  14 owner
--       15 when it happened, epoch ms, where an old event is replayed ("": now)
--       16 the only owner whose hold it may touch ("" anybody's)
--       17.. per account, or none at all: terms ("limit soft stop_at")  period_end_ms ("" none)  keep_until_ms
-- Reply {status before, sequence, applied, delta, overage, spent, held, ...} | {'refused', field, rule}
--       | those of epoch.lua
-- include epoch.lua

local lost = doubt()
if lost then return lost end
local store_ms = clock_ms()
local replayed = ARGV[15] ~= ''
local at_ms = replayed and ARGV[15] or text(store_ms)

local row = redis.call('HMGET', KEYS[4], 'status', 'amount', 'cost', 'detail', 'trued', 'candidate', 'tokens', 'accounts', 'owner')
local status, mode = row[1] or 'none', ARGV[4]
local amount, posted = row[2] or '0', row[3] or '0'
local cost, basis, detail = ARGV[5], ARGV[6], ARGV[7]
local after, trued = nil, row[5]
-- A hold is on some of the accounts that its request named; only those are touched, in the hold's order.
local accounts = row[8] or ARGV[9]
local at_key, on = {}, {}
for i = 7, #KEYS do at_key[string.sub(KEYS[i], #KEYS[6] + 2)] = i end
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
  local until_ms = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[3]) or '0')
  if status == 'held' and (replayed or until_ms <= store_ms) then
    after, cost, detail = 'expired', amount, row[4]
  elseif status ~= 'held' then
    redis.call('ZREM', KEYS[3], ARGV[3])
  end
elseif mode == 'true_up' then
  if (status == 'settled' or status == 'expired') and not trued then
    after, trued = status, '1'
  end
end

if status == 'held' and ARGV[16] ~= '' and ARGV[16] ~= row[9] then after = nil end

local now = {}  -- {spent, held} of accounts as they are after this
local balances = function(head)
  local n = #head
  for i = 7, #KEYS do
    local b = now[i] or redis.call('HMGET', KEYS[i], 'spent', 'held')
    head[n + 1], head[n + 2], n = b[1] or 0, b[2] or 0, n + 2
  end
  return head
end
if not after then return balances({status, sequence, 0, 0, 0}) end

local delta = tonumber(cost) - tonumber(posted)
local overage = 0
if status == 'held' and tonumber(cost) > tonumber(amount) then overage = tonumber(cost) - tonumber(amount) end
local next_id = ''
if status == 'held' then next_id = ARGV[10] end
if next_id ~= '' and tonumber(cost) + tonumber(ARGV[11]) > tonumber(amount) then
  return {'refused', 'nextHold', 'must fit into what the cost leaves of its hold'}
end

local enter = function(key, id, spent, was, terms)  -- one event per change of state
  local limit, soft, stop_at = string.match(terms, '(%S+) (%S+) (%S+)')
  local to = '0'
  if spent >= tonumber(stop_at) then to = '3'
  elseif spent > tonumber(limit) then to = '2'
  elseif spent > tonumber(soft) then to = '1' end
  if to ~= was then
    redis.call('HSET', key, 'state', to)
    append('type', 'state', 'account', id, 'from', was, 'to', to, 'spent_nano', text(spent), 'limit_nano', limit,
      'cause', ARGV[3], 'why', 'spend', 'at_ms', at_ms)
  end
end

local released = status == 'held' and tonumber(amount) or 0
if next_id ~= '' then released = released - tonumber(ARGV[11]) end
local minus_released, plus_delta = text(-released), text(delta)
local spent_after = {}
for n, id in ipairs(on) do
  local i = at_key[id]
  local key, at = KEYS[i], 17 + 3 * (i - 7)
  local row = redis.call('HMGET', key, 'spent', 'held', 'state', 'terms')
  local terms = row[4]
  if ARGV[at] then
    if not row[1] then redis.call('HSET', key, 'spent', '0') end
    if not terms then
      redis.call('ZADD', KEYS[6], ARGV[at + 1] == '' and '+inf' or ARGV[at + 1], id)
      if ARGV[at + 2] ~= '' then redis.call('PEXPIREAT', key, ARGV[at + 2]) end
    end
    if terms ~= ARGV[at] then
      terms = ARGV[at]
      redis.call('HSET', key, 'terms', terms)
      append('type', 'terms', 'account', id, 'terms', terms, 'period_end_ms', ARGV[at + 1],
        'keep_until_ms', ARGV[at + 2], 'at_ms', at_ms)
    end
  end
  local spent, held = row[1] or 0, row[2] or 0
  if released ~= 0 then held = redis.call('HINCRBY', key, 'held', minus_released) end
  if delta ~= 0 then spent = redis.call('HINCRBY', key, 'spent', plus_delta) end
  now[i] = {spent, held}
  spent_after[n] = text(spent)
  if terms and (delta ~= 0 or ARGV[at]) then enter(key, id, tonumber(spent), row[3] or '0', terms) end
end

redis.call('HSET', KEYS[4], 'status', after, 'cost', cost, 'basis', basis, 'accounts', accounts)
if trued then redis.call('HSET', KEYS[4], 'trued', trued) end
redis.call('HDEL', KEYS[4], 'detail')
redis.call('PEXPIRE', KEYS[4], ARGV[8])
redis.call('ZREM', KEYS[3], ARGV[3])
-- A void of an id that was never reserved only bars a reserve that arrives late: no call, so no event.
if status ~= 'none' or mode ~= 'void' then
  append('type', mode, 'hold', ARGV[3], 'before', status, 'cost_nano', cost, 'delta_nano', plus_delta,
    'overage_nano', text(overage), 'held_nano', amount, 'basis', basis, 'accounts', accounts,
    'spent_after', table.concat(spent_after, ' '), 'at_ms', at_ms, 'detail', detail or '{}')
end
if next_id ~= '' then
  redis.call('HSET', KEYS[5], 'status', 'held', 'amount', ARGV[11], 'candidate', row[6], 'tokens', row[7],
    'accounts', accounts, 'owner', ARGV[14], 'detail', ARGV[12], 'held_ms', text(store_ms))
  redis.call('ZADD', KEYS[3], text(store_ms + tonumber(ARGV[13])), next_id)
  append('type', 'hold', 'hold', next_id, 'amount_nano', ARGV[11], 'candidate', row[6], 'tokens', row[7],
    'accounts', accounts, 'owner', ARGV[14], 'detail', ARGV[12], 'at_ms', at_ms)
end
return balances({status, sequence, 1, delta, overage})
