-- Makes keys name sessions.
--
-- KEYS[i]    key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]    time to live, ms
-- ARGV[2]    when the caller has given up, Unix ms (Redis's clock), '0' = never
-- ARGV[2+i]  the value of KEYS[i]
--
-- Returns the values before, nil where there was none.
if ARGV[2] ~= '0' then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[2]) then
    return redis.error_reply('LATE the caller has given up')
  end
end
local before = {}
for i, key in ipairs(KEYS) do
  before[i] = redis.call('SET', key, ARGV[2 + i], 'PX', ARGV[1], 'GET')
end
return before
