-- Removes the entry of a key if it still names this session (F-003.13).
--
-- KEYS[1]  key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]  identity of the session: <node>|<incarnation>|<session>
--
-- Returns 1 if it was removed.
local value = redis.call('GET', KEYS[1])
local bar = value and string.find(value, '|', 1, true)
if bar and string.sub(value, bar + 1) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
