-- Removes the entries of keys that still name these sessions (F-003.13).
--
-- KEYS[i]  key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[i]  identity of the session: <node>|<incarnation>|<session>
--
-- Returns how many were removed. A key that fails does not keep the others
-- from being done; the first error is the answer.
local removed, failed = 0, nil
for i, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    failed = failed or value
  else
    local bar = value and string.find(value, '|', 1, true)
    if bar and string.sub(value, bar + 1) == ARGV[i] then
      removed = removed + redis.call('DEL', key)
    end
  end
end
return failed or removed
