-- Renews the lease of a node.
--
-- KEYS[1]  nodes   hash: field = name of the node,
--                  value = <ends ms>|<updated ms>|<incarnation>|<info>
-- ARGV[1]  name
-- ARGV[2]  incarnation (decimal; too big for a Lua number, so only compared as text)
-- ARGV[3]  time to live, ms
-- ARGV[4]  info, JSON
--
-- Returns 1 if a lease of the same incarnation was there and had not ended.
-- Ended leases are pruned when a node joins: only then can they grow in number.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local existed = 0
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
  local ends, incarnation = string.match(old, '^(%d+)|%d+|(%d+)|')
  if incarnation == ARGV[2] and tonumber(ends) > now then
    existed = 1
  end
end

local added = redis.call('HSET', KEYS[1], ARGV[1],
  string.format('%.0f|%.0f|', now + ARGV[3], now) .. ARGV[2] .. '|' .. ARGV[4])
if added == 1 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local ends = tonumber(string.match(all[i + 1], '^(%d+)|'))
    if not ends or ends <= now then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
return existed
