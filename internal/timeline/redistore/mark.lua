-- KEYS: per timeline meta, log, ring. ARGV: marker, how, idle ms; then per
-- timeline: epoch, seq. Raises arch, at most to top.

local inc = incarnation()
local a = 4
for k = 1, #KEYS, 3 do
  local s = load(KEYS[k])
  local seq = tonumber(ARGV[a + 1])
  if s and s.inc == inc and s.epoch == ARGV[a] then
    if seq > s.top then seq = s.top end
    if seq > s.arch then
      s.arch = seq
      redis.call('HSET', KEYS[k], 'arch', fmt(seq))
      if s.arch == s.top then expire(s, KEYS[k], KEYS[k + 1], KEYS[k + 2], ARGV[3]) end
    end
  end
  a = a + 2
end
return 1
