-- Records sessions of users, or renews them.
--
-- KEYS[i]    pres:{u:<mid>}   hash: field <node>/<incarnation>/<session>,
--                             value = Unix ms (Redis's clock) when the entry ends
-- ARGV[1]    time to live, ms
-- ARGV[2]    when the caller has given up, Unix ms (Redis's clock), '0' = never
-- ARGV[2+i]  the field of KEYS[i]
--
-- A hash lives as long as its youngest entry, so entries that nobody removed
-- must be pruned. That happens when the count of entries reaches a power of
-- two from 8 on: garbage at most doubles a hash, and a user with n sessions
-- costs O(n) once per doubling instead of at each connect.
--
-- A key that fails does not keep the others from being done; the first error
-- is the answer.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[2] ~= '0' and now > tonumber(ARGV[2]) then
  return redis.error_reply('LATE the caller has given up')
end

local function prune(key)
  local all = redis.call('HGETALL', key)
  local ended = {}
  for i = 1, #all, 2 do
    if (tonumber(all[i + 1]) or 0) <= now then
      ended[#ended + 1] = all[i]
    end
  end
  for i = 1, #ended, 1000 do
    redis.call('HDEL', key, unpack(ended, i, math.min(i + 999, #ended)))
  end
end

local ends = string.format('%.0f', now + ARGV[1])
local failed
for i, key in ipairs(KEYS) do
  local added = redis.pcall('HSET', key, ARGV[2 + i], ends)
  if type(added) == 'table' then
    failed = failed or added
  else
    redis.call('PEXPIRE', key, ARGV[1])
  end
  if added == 1 then
    local count = redis.call('HLEN', key)
    local power = 8
    while power < count do
      power = power * 2
    end
    if power == count then
      prune(key)
    end
  end
end
return failed or #KEYS
