-- Renews the lease of a node.
--
-- KEYS[1]  nodes   hash: field = name of the node,
--                  value = <ends ms>|<updated ms>|<incarnation>|<run id>|<info>
-- ARGV[1]  name
-- ARGV[2]  incarnation (decimal; too big for a Lua number, so only compared as text)
-- ARGV[3]  time to live, ms
-- ARGV[4]  info, JSON
-- ARGV[5]  when the caller has given up, Unix ms (Redis's clock), '0' = never
--
-- Returns the start of the run id of Redis, with a + before it if a lease of the
-- same incarnation was there, had not ended, and was written by this process of
-- Redis: one that restarted from a snapshot, or a replica that took over, may
-- lack what nodes think it has. A Redis that does not tell its run id (ACL,
-- other servers) has an empty one.
-- Ended leases are pruned when a node joins: only then can they grow in number.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[5] ~= '0' and now > tonumber(ARGV[5]) then
  return redis.error_reply('LATE the caller has given up')
end

local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
run = string.sub(run, 1, 8) -- is enough to tell two apart

local existed = ''
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then
  local ends, incarnation, writer = string.match(old, '^(%d+)|%d+|(%d+)|(%w*)|')
  if incarnation == ARGV[2] and writer == run and tonumber(ends) > now then
    existed = '+'
  end
end

local added = redis.call('HSET', KEYS[1], ARGV[1],
  string.format('%.0f|%.0f|', now + ARGV[3], now) .. ARGV[2] .. '|' .. run .. '|' .. ARGV[4])
if added == 1 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local ends = tonumber(string.match(all[i + 1], '^(%d+)|'))
    if not ends or ends <= now then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
return existed .. run
