-- KEYS: the ranking; scores are below zero, so that equals are in order of
-- their names. ARGV: ttl ms; per room: name, speakers. Returns per room whether
-- it is or was in the ranking.

local was = {}
for a = 2, #ARGV, 2 do
  if tonumber(ARGV[a + 1]) > 0 then
    redis.call('ZADD', KEYS[1], '-' .. ARGV[a + 1], ARGV[a])
    was[#was + 1] = 1
  else
    was[#was + 1] = redis.call('ZREM', KEYS[1], ARGV[a])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return was
