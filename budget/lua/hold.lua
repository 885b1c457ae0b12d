-- A hold is one text, its parts separated by US (budget/texts.py reads it too): status amount cost candidate tokens
-- owner trued held_ms accounts detail. A hash of as many fields costs three times as much to write.
local function write_hold(key, parts, keep_ms)
  local hold = table.concat(parts, '\31')
  if keep_ms then redis.call('SET', key, hold, 'PX', keep_ms) else redis.call('SET', key, hold) end
end

-- nil if it is not remembered
local function read_hold(key)
  local hold = redis.call('GET', key)
  if not hold then return nil end
  local status, amount, cost, candidate, tokens, owner, trued, held_ms, at = string.match(hold,
    '^(.-)\31(.-)\31(.-)\31(.-)\31(.-)\31(.-)\31(.-)\31(.-)\31()')
  local stop = string.find(hold, '\31', at, true)
  return {status = status, amount = amount, cost = cost, candidate = candidate, tokens = tokens, owner = owner,
    trued = trued, held_ms = held_ms, accounts = string.sub(hold, at, stop - 1), detail = string.sub(hold, stop + 1)}
end
