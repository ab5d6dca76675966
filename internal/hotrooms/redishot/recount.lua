-- KEYS: the speakers of a room, by when they spoke. ARGV: window ms, most; per
-- new speaker: mid, ms ago. Returns {speakers, ms until the first one leaves}.

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local window, most = tonumber(ARGV[1]), tonumber(ARGV[2])
for a = 3, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', now - tonumber(ARGV[a + 1])), ARGV[a])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local n = redis.call('ZCARD', KEYS[1])
if n > most then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, n - most - 1)
  n = most
end
if n == 0 then
  return {0, 0}
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {n, tonumber(first[2]) + window - now}
