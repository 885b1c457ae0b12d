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
-- ARGV  1 epoch  2 sequence  3 hold_id  4 mode  5 cost  6 basis  7 detail  8 keep_ms; all the following or none of it:
--       9 next hold's id ("" none)  10 its amount  11 its detail  12 lease_ms  13 owner
--       14 when it happened, epoch ms, where an old event is replayed ("": now)
--       15 the only owner whose hold it may touch ("" anybody's)
--       16.. per account, or none at all: terms ("limit soft stop_at")  period_end_ms ("" none)  keep_until_ms
-- Reply "status before, sequence, applied, delta, overage, spent, held, ..." (the last two per account)
--       | {'refused', field, rule} | those of epoch.lua
-- include epoch.lua
-- include hold.lua

local lost = doubt()
if lost then return lost end
local store_ms = clock_ms()
local replayed = (ARGV[14] or '') ~= ''
local at_ms = replayed and ARGV[14] or text(store_ms)

local hold = read_hold(KEYS[4])
local status, mode = hold and hold.status or 'none', ARGV[4]
local amount, posted = hold and hold.amount or '0', hold and hold.cost or '0'
local cost, basis, detail = ARGV[5], ARGV[6], ARGV[7]
local after, trued = nil, hold and hold.trued or ''
-- A hold is on some of the accounts that its request named; only those are touched, in the hold's order.
local at_key, on, named = {}, {}, {}
for i = 7, #KEYS do
  named[i - 6] = string.sub(KEYS[i], #KEYS[6] + 2)
  at_key[named[i - 6]] = i
end
local accounts = hold and hold.accounts or table.concat(named, '\n')
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
    after, cost, detail = 'expired', amount, hold.detail
  elseif status ~= 'held' then
    redis.call('ZREM', KEYS[3], ARGV[3])
  end
elseif mode == 'true_up' then
  if (status == 'settled' or status == 'expired') and trued == '' then
    after, trued = status, '1'
  end
end

if status == 'held' and (ARGV[15] or '') ~= '' and ARGV[15] ~= hold.owner then after = nil end

local now = {}  -- {spent, held} of accounts as they are after this
local reply = function(applied, delta, overage)
  local said = format('%s %d %d %d %d', status, sequence, applied, delta, overage)
  for i = 7, #KEYS do
    local b = now[i] or redis.call('HMGET', KEYS[i], 'spent', 'held')
    said = said .. format(' %d %d', b[1] or 0, b[2] or 0)
  end
  return said
end
if not after then return reply(0, 0, 0) end

local delta = tonumber(cost) - tonumber(posted)
local overage = 0
if status == 'held' and tonumber(cost) > tonumber(amount) then overage = tonumber(cost) - tonumber(amount) end
local next_id = ''
if status == 'held' then next_id = ARGV[9] or '' end
if next_id ~= '' and tonumber(cost) + tonumber(ARGV[10]) > tonumber(amount) then
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
if next_id ~= '' then released = released - tonumber(ARGV[10]) end
local minus_released, plus_delta = text(-released), text(delta)
local spent_after = {}
for n, id in ipairs(on) do
  local i = at_key[id]
  local key, at = KEYS[i], 16 + 3 * (i - 7)
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

write_hold(KEYS[4], {after, amount, cost, hold and hold.candidate or '', hold and hold.tokens or '',
  hold and hold.owner or '', trued, hold and hold.held_ms or '', accounts, ''}, ARGV[8])
redis.call('ZREM', KEYS[3], ARGV[3])
-- A void of an id that was never reserved only bars a reserve that arrives late: no call, so no event.
if status ~= 'none' or mode ~= 'void' then
  append('type', mode, 'hold', ARGV[3], 'before', status, 'cost_nano', cost, 'delta_nano', plus_delta,
    'overage_nano', text(overage), 'held_nano', amount, 'basis', basis, 'accounts', accounts,
    'spent_after', table.concat(spent_after, ' '), 'at_ms', at_ms, 'detail', detail or '{}')
end
if next_id ~= '' then
  write_hold(KEYS[5], {'held', ARGV[10], '0', hold.candidate, hold.tokens, ARGV[13], '', text(store_ms), accounts,
    ARGV[11]})
  redis.call('ZADD', KEYS[3], text(store_ms + tonumber(ARGV[12])), next_id)
  append('type', 'hold', 'hold', next_id, 'amount_nano', ARGV[10], 'candidate', hold.candidate,
    'tokens', hold.tokens, 'accounts', accounts, 'owner', ARGV[13], 'detail', ARGV[11], 'at_ms', at_ms)
end
return reply(1, delta, overage)
