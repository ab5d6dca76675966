-- Records a session of a user, or renews it.
--
-- KEYS[1]  pres:{u:<mid>}   hash: field <node>/<incarnation>/<session>,
--                           value = Unix ms (Redis's clock) when the entry ends
-- ARGV[1]  the field
-- ARGV[2]  time to live, ms
-- ARGV[3]  when the caller has given up, Unix ms (Redis's clock), '0' = never
--
-- The hash lives as long as its youngest entry, so entries that nobody removed
-- must be pruned. That happens when the count of entries reaches a power of
-- two from 8 on: garbage at most doubles a hash, and a user with n sessions
-- costs O(n) once per doubling instead of at each connect.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[3] ~= '0' and now > tonumber(ARGV[3]) then
  return redis.error_reply('LATE the caller has given up')
end

local added = redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if added == 0 then
  return 0
end

local count = redis.call('HLEN', KEYS[1])
local power = 8
while power < count do
  power = power * 2
end
if power ~= count then
  return 0
end

local all = redis.call('HGETALL', KEYS[1])
local ended = {}
for i = 1, #all, 2 do
  if (tonumber(all[i + 1]) or 0) <= now then
    ended[#ended + 1] = all[i]
  end
end
for i = 1, #ended, 1000 do
  redis.call('HDEL', KEYS[1], unpack(ended, i, math.min(i + 999, #ended)))
end
return #ended
