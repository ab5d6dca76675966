-- Removes the entries of keys that still name these sessions (F-003.13).
--
-- KEYS[i]  key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[i]  identity of the session: <node>|<incarnation>|<session>
--
-- Returns how many were removed.
local removed = 0
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  local bar = value and string.find(value, '|', 1, true)
  if bar and string.sub(value, bar + 1) == ARGV[i] then
    removed = removed + redis.call('DEL', key)
  end
end
return removed
