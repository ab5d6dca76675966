-- Ends the lease of a node, if it is of this incarnation.
--
-- KEYS[1]  nodes   hash: field = name of the node,
--                  value = <ends ms>|<updated ms>|<incarnation>|<run id>|<info>
-- ARGV[1]  name
-- ARGV[2]  incarnation
--
-- Returns 1 if it was ended.
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and string.match(value, '^%d+|%d+|(%d+)|') == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
