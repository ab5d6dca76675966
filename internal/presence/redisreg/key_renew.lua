-- Extends the entries of keys, or restores them, unless they name other sessions.
--
-- KEYS[i]    key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]    time to live, ms
-- ARGV[2]    when the caller has given up, Unix ms (Redis's clock), '0' = never
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
if ARGV[2] ~= '0' then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[2]) then
    return redis.error_reply('LATE the caller has given up')
  end
end
local foreign, failed = {}, nil
for i, key in ipairs(KEYS) do
  local prefix, id, replaced = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
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
