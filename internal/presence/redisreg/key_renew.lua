-- Extends the entry of a key, or restores it, unless it names another session.
--
-- KEYS[1]  key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]  <mid>@<run id>
-- ARGV[2]  identity of the session: <node>|<incarnation>|<session>
-- ARGV[3]  time to live, ms
-- ARGV[4]  the other value that may be replaced, '' = none
--
-- Returns the value that names another session, or nil when the key is ours.
-- Whether that session's node lives stands in another hash slot: the caller
-- looks there, and calls again with the value as ARGV[4] if it may be replaced.
local value = redis.call('GET', KEYS[1])
if value and value ~= ARGV[4] then
  local bar = string.find(value, '|', 1, true)
  if not bar or string.sub(value, bar + 1) ~= ARGV[2] then
    return value
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
return false
