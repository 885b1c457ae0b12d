#!lua
-- Hold the ceiling of the first candidate that fits, on every account that watches it, or on none.
-- Specification: budget/policy.py `decide` and budget/memory_store.py. Everything is read and checked before the
-- first write, because a script is isolated but never rolled back. Amounts are added with HINCRBY on their text;
-- numbers here are doubles, exact below 2^53, which no limit reaches.
--
-- KEYS  1 epoch  2 events  3 version  4 leases  5 refusals  6 hold  7 index  8.. accounts
-- ARGV  1 epoch  2 sequence  3 now_ms  4 version  5 hold_id  6 lease_ms  7 owner  8 detail
--       then per account "limit soft stop_at hard period_end_ms" (the last may be -)
--       then per candidate "base out_pico tokens min_tokens watched" (the last "" where there are no accounts)
-- Reply "held sequence candidate tokens amount spent held state ..." (the last three per account)
--       {'refused', sequence, code, account, needed, spent, held, state, ...}
--       {'stale', version} | {'skew', store_ms} | {'resolved', status} | those of epoch.lua
-- include epoch.lua
-- include hold.lua

-- As in budget/ports.py: how far off a worker's clock may be, and how long an account is kept after its period.
local MAX_CLOCK_SKEW_MS, ACCOUNT_KEPT_AFTER_END_MS = 5000, 3456000000
local ACTIVE, DEGRADED, STOPPED = 0, 2, 3

local store_ms = clock_ms()
local lost = doubt()
if lost then return lost end
if store_ms < opens_ms then return {'lost', 'it was rebuilt and opens in ' .. text(opens_ms - store_ms) .. ' ms'} end

local again = read_hold(KEYS[6])
if again and (again.status ~= 'held' or again.owner ~= ARGV[7]) then return {'resolved', again.status} end
if not again then
  if math.abs(store_ms - tonumber(ARGV[3])) > MAX_CLOCK_SKEW_MS then return {'skew', text(store_ms)} end
  local version = redis.call('GET', KEYS[3]) or '0'
  if version ~= ARGV[4] then return {'stale', version} end
end

local count = #KEYS - 7
local account = {}
for i = 1, count do
  local row = redis.call('HMGET', KEYS[7 + i], 'spent', 'held', 'state', 'terms')
  local limits, hard, period_end = string.match(ARGV[8 + i], '^(%S+ %S+ %S+) (%S+) (%S+)$')
  local limit, soft, stop_at = string.match(limits, '(%S+) (%S+) (%S+)')
  local a = {
    known = row[1], spent = tonumber(row[1] or '0'), held = tonumber(row[2] or '0'),
    was = tonumber(row[3] or '0'), terms_were = row[4],
    limit = tonumber(limit), hard = tonumber(hard), period_end = '', keep_until = '', terms = limits,
  }
  if period_end ~= '-' then
    a.period_end, a.keep_until = period_end, text(tonumber(period_end) + ACCOUNT_KEPT_AFTER_END_MS)
  end
  if a.spent >= tonumber(stop_at) then a.state = STOPPED
  elseif a.spent > a.limit then a.state = DEGRADED
  elseif a.spent > tonumber(soft) then a.state = 1
  else a.state = ACTIVE end
  account[i] = a
end

local reply = function(candidate, tokens, amount)
  local said = format('held %d %s %s %s', sequence, candidate, tokens, amount)
  for i = 1, count do
    local a = account[i]
    said = said .. format(' %d %d %d', a.spent, a.held, a.state)
  end
  return said
end

if again then  -- its worker has only now heard of it, so its lease begins now
  redis.call('ZADD', KEYS[4], text(store_ms + tonumber(ARGV[6])), ARGV[5])
  return reply(again.candidate, again.tokens, again.amount)
end

local choice, refusal = nil, nil
for c = 1, #ARGV - 8 - count do
  local base, out_pico, tokens, min_tokens, watched =
    string.match(ARGV[8 + count + c], '^(%S+) (%S+) (%S+) (%S+) (.*)$')
  base, out_pico, tokens, min_tokens = tonumber(base), tonumber(out_pico), tonumber(tokens), tonumber(min_tokens)
  local ceiling = function(n) return base + math.ceil(n * out_pico / 1000) end
  local room, permitted, stopped, watching = nil, true, nil, false
  for i = 1, count do
    local mark, a = string.sub(watched, i, i), account[i]
    if mark ~= '-' then
      watching = true
      if mark == '0' and a.state >= DEGRADED then permitted = false end
      if a.state == STOPPED and not stopped then stopped = i end
      local free = a.hard - a.spent - a.held
      if not room or free < room then room = free end
    end
  end
  if not watching then
    refusal = refusal or {'no_budget', '', '0'}
  elseif permitted then
    local fit = nil
    if ceiling(tokens) <= room then
      fit = tokens
    elseif min_tokens < tokens and room >= base then
      local shorter = math.floor((room - base) * 1000 / out_pico)
      if shorter >= min_tokens then fit = shorter end
    end
    if fit and not stopped then
      choice = {index = c, tokens = fit, amount = ceiling(fit), watched = watched}
      break
    end
    local needed, code, who = ceiling(min_tokens), nil, nil
    if stopped then
      code, who = 'budget_stopped', stopped
    else
      for i = 1, count do
        if not who and string.sub(watched, i, i) ~= '-' and account[i].spent + needed > account[i].hard then
          code, who = 'budget_exceeded', i
        end
      end
      for i = 1, count do
        if not who and string.sub(watched, i, i) ~= '-'
            and account[i].spent + account[i].held + needed > account[i].hard then
          code, who = 'budget_held', i
        end
      end
    end
    if not refusal or refusal[1] ~= 'budget_held' then refusal = {code, text(who - 1), text(needed)} end
  end
end
if count == 0 then refusal = {'no_budget', '', '0'} end
if not choice and not refusal then refusal = {'no_model_available', '', '0'} end

-- From here on only writes that can't fail for what was read above.
-- The newest terms are kept also when nothing is held: settlements of older holds are judged by them.
for i = 1, count do
  local a, key = account[i], KEYS[7 + i]
  local id = string.sub(key, #KEYS[7] + 2)
  local held = choice and string.sub(choice.watched, i, i) ~= '-'
  if a.terms ~= a.terms_were and (held or a.known or a.state ~= a.was) then
    redis.call('HSET', key, 'terms', a.terms)
    if not a.terms_were then
      redis.call('HSETNX', key, 'spent', '0')
      redis.call('ZADD', KEYS[7], a.period_end == '' and '+inf' or a.period_end, id)
      if a.keep_until ~= '' then redis.call('PEXPIREAT', key, a.keep_until) end
    end
    append('type', 'terms', 'account', id, 'terms', a.terms, 'period_end_ms', a.period_end,
      'keep_until_ms', a.keep_until, 'at_ms', text(store_ms))
  end
  if a.state ~= a.was then
    redis.call('HSET', key, 'state', text(a.state))
    append('type', 'state', 'account', id, 'from', text(a.was), 'to', text(a.state), 'spent_nano', text(a.spent),
      'limit_nano', text(a.limit), 'cause', ARGV[5], 'why', 'limits', 'at_ms', text(store_ms))
  end
end

if not choice then
  local ids, balances = {}, {}  -- of each account, "spent held state limit hard": what was decided from
  local refused = {'refused', sequence, refusal[1], refusal[2], refusal[3]}
  for i = 1, count do
    local a = account[i]
    ids[i] = string.sub(KEYS[7 + i], #KEYS[7] + 2)
    balances[i] = format('%d %d %d %d %d', a.spent, a.held, a.state, a.limit, a.hard)
    for _, number in ipairs({a.spent, a.held, a.state}) do refused[#refused + 1] = number end
  end
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', '100000', '*', 'e', told('hold', ARGV[5], 'code', refusal[1],
    'account', refusal[2], 'needed_nano', refusal[3], 'accounts', table.concat(ids, '\n'),
    'balances', table.concat(balances, '\n'), 'detail', ARGV[8], 'at_ms', text(store_ms)))
  return refused
end

local held_on, at_ms = {}, text(store_ms)
local index, tokens, amount = text(choice.index - 1), text(choice.tokens), text(choice.amount)
for i = 1, count do
  local a, key = account[i], KEYS[7 + i]
  if string.sub(choice.watched, i, i) ~= '-' then
    a.held = redis.call('HINCRBY', key, 'held', amount)
    held_on[#held_on + 1] = string.sub(key, #KEYS[7] + 2)
  end
end
local accounts = table.concat(held_on, '\n')
write_hold(KEYS[6], {'held', amount, '0', index, tokens, ARGV[7], '', at_ms, accounts, ARGV[8]})
redis.call('ZADD', KEYS[4], text(store_ms + tonumber(ARGV[6])), ARGV[5])
append('type', 'hold', 'hold', ARGV[5], 'amount_nano', amount, 'candidate', index, 'tokens', tokens,
  'accounts', accounts, 'owner', ARGV[7], 'detail', ARGV[8], 'at_ms', at_ms)
return reply(index, tokens, amount)
