-- What every writing script begins with. The store's memory has an epoch (an id) and a sequence, which counts its
-- events. A caller says in which epoch it works and the highest sequence that it has seen there; a store that knows
-- less has lost something, and takes nothing until it is rebuilt (budget/rebuild.py).
-- KEYS  1 epoch  2 events   ARGV  1 epoch's id, or 'rebuild'  2 highest sequence seen
-- Whole numbers are exact below 2^53. '%d' is half the price of '%.0f', and scripts write many of them.
local format = string.format
local function text(number) return format('%d', number) end
local function clock_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local sequence, opens_ms

-- nil, or the reply to give: {'lost', why} | {'moved', id} (rebuilt meanwhile) | {'foreign', id}
local function doubt()
  local e = redis.call('HMGET', KEYS[1], 'id', 'seq', 'doubt', 'opens')
  sequence, opens_ms = tonumber(e[2] or '0'), tonumber(e[4] or '0')
  if ARGV[1] == 'rebuild' then return not e[3] and {'lost', 'it is not being rebuilt'} or nil end
  if not e[1] then return {'lost', 'it is empty'} end
  if e[3] then return {'lost', e[3]} end
  if e[1] ~= ARGV[1] then
    return {redis.call('HEXISTS', KEYS[1], 'was:' .. ARGV[1]) == 1 and 'moved' or 'foreign', e[1]}
  end
  if sequence < tonumber(ARGV[2]) then
    local why = 'it went back from event ' .. ARGV[2] .. ' to ' .. text(sequence)
    redis.call('HSET', KEYS[1], 'doubt', why)
    return {'lost', why}
  end
end

-- An event is one text, names and values in turn, separated by US: as many fields cost twice as much to write.
local function told(...) return table.concat({...}, '\31') end

local function append(...)
  sequence = redis.call('HINCRBY', KEYS[1], 'seq', 1)
  redis.call('XADD', KEYS[2], '*', 'e', told('seq', text(sequence), ...))
end
