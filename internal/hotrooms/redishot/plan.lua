-- KEYS: the rooms by when they are due. ARGV: ttl ms; per room: name, ms from
-- now, or 0 = never.

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for a = 2, #ARGV, 2 do
  local again = tonumber(ARGV[a + 1])
  if again > 0 then
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + again), ARGV[a])
  else
    redis.call('ZREM', KEYS[1], ARGV[a])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
