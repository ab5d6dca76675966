-- KEYS: per timeline meta, log. ARGV: marker, how; then per timeline: from,
-- entries, bytes. Returns per timeline {} for a miss, or {epoch, top, arch,
-- floor, first (0 = empty), seq, value, ...}.

local inc = incarnation()
local results = {}
local a = 3
for k = 1, #KEYS, 2 do
  local from, entries, bytes = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  a = a + 3
  local s = load(KEYS[k])
  local result = {}
  if s and s.inc == inc then
    local first = s.first
    if first > s.top then first = 0 end
    result = {tonumber(s.epoch), s.top, s.arch, s.floor, first}
    local seq = math.max(from + 1, s.first)
    local n, size = 0, 0
    while seq <= s.top and (n == 0 or n < entries) do
      local value = redis.call('HGET', KEYS[k + 1], fmt(seq))
      if not value then break end
      size = size + #value
      if n > 0 and size > bytes then break end
      result[#result + 1] = seq
      result[#result + 1] = value
      n = n + 1
      seq = seq + 1
    end
  end
  results[#results + 1] = result
end
return results
