-- Makes keys name sessions.
--
-- KEYS[i]    key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]    time to live, ms
-- ARGV[2]    when the caller has given up, Unix ms (Redis's clock), '0' = never
-- ARGV[2+i]  the value of KEYS[i]
--
-- Returns the values before, nil where there was none. A key that fails does
-- not keep the others from being done; the first error is the answer.
if ARGV[2] ~= '0' then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[2]) then
    return redis.error_reply('LATE the caller has given up')
  end
end
local before, failed = {}, nil
for i, key in ipairs(KEYS) do
  before[i] = redis.pcall('SET', key, ARGV[2 + i], 'PX', ARGV[1], 'GET')
  if type(before[i]) == 'table' then
    failed = failed or before[i]
  end
end
return failed or before
