-- KEYS: meta, ring. ARGV: marker, how, id, length of the ring. Returns {} or
-- {epoch, seq, arch}.

local inc = incarnation()
local s = load(KEYS[1])
if not s or s.inc ~= inc then return {} end
local ids, id, length = redis.call('GET', KEYS[2]) or '', ARGV[3], tonumber(ARGV[4])
local at = 1
while true do
  at = string.find(ids, id, at, true)
  if not at then return {} end
  if (at - 1) % 16 == 0 then break end
  at = at + 1
end
local seq = s.top - (s.top - 1 - (at - 1) / 16) % length
if seq < 1 then return {} end
return {tonumber(s.epoch), seq, s.arch}
