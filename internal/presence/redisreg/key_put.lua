-- Makes a key name a session.
--
-- KEYS[1]  key:<key>   string: <mid>@<run id>|<node>|<incarnation>|<session>
-- ARGV[1]  the value
-- ARGV[2]  time to live, ms
-- ARGV[3]  when the caller has given up, Unix ms (Redis's clock), '0' = never
--
-- Returns the value before, or nil.
if ARGV[3] ~= '0' then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[3]) then
    return redis.error_reply('LATE the caller has given up')
  end
end
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'GET')
