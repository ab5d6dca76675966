-- KEYS: the rooms by when they are due. ARGV: most, ms until they are due
-- again. Returns the names of those that are due.

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local rooms = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
local again = string.format('%.0f', now + tonumber(ARGV[2]))
for i = 1, #rooms do
  redis.call('ZADD', KEYS[1], again, rooms[i])
end
return rooms
