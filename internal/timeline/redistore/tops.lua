-- KEYS: per timeline meta. ARGV: marker, how. Returns per timeline {} for a
-- miss, or {epoch, top, arch, floor}.

local inc = incarnation()
local results = {}
for k = 1, #KEYS do
  local s = load(KEYS[k])
  if s and s.inc == inc then
    results[k] = {tonumber(s.epoch), s.top, s.arch, s.floor}
  else
    results[k] = {}
  end
end
return results
