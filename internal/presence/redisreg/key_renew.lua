-- Extends the entries of keys, or restores them, unless they name other sessions.
--
-- KEYS[i]    key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]    time to live, ms
-- then three of each key:
--   <mid>@<run id>
--   identity of the session: <node>|<incarnation>|<session>
--   the other value that may be replaced, '' = none
--
-- Returns the values that name other sessions, nil where the key is ours.
-- Whether such a session's node lives stands in another hash slot: the caller
-- looks there, and calls again with the value if it may be replaced.
--
-- A key that fails does not keep the others from being done; the first error
-- is the answer.
local foreign, failed = {}, nil
for i, key in ipairs(KEYS) do
  local prefix, id, replaced = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local value = redis.pcall('GET', key)
  foreign[i] = false
  if type(value) == 'table' then
    failed = failed or value
  else
    local bar = value and string.find(value, '|', 1, true)
    if value and value ~= replaced and not (bar and string.sub(value, bar + 1) == id) then
      foreign[i] = value
    else
      redis.call('SET', key, prefix .. '|' .. id, 'PX', ARGV[1])
    end
  end
end
return failed or foreign
