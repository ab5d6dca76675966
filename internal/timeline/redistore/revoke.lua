-- KEYS: meta, log. ARGV: marker, how, epoch, seq, ... Leaves of each entry its
-- offset and the first 27 bytes of its value, with the reason 2 (revoked).

local inc = incarnation()
local s = load(KEYS[1])
if not s or s.inc ~= inc or s.epoch ~= ARGV[3] then return 0 end
for i = 4, #ARGV do
  local value = redis.call('HGET', KEYS[2], ARGV[i])
  if value then
    local head = string.match(value, '^%d+ %d+ ')
    local n = #head
    local empty = head .. string.sub(value, n + 1, n + 1) .. string.char(2) .. string.sub(value, n + 3, n + 27)
    redis.call('HSET', KEYS[2], ARGV[i], empty)
    s.bytes = s.bytes - #value + #empty
  end
end
redis.call('HSET', KEYS[1], 'bytes', fmt(s.bytes))
return 1
