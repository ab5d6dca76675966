-- KEYS: the user's hash: timeline -> "epoch acked read". ARGV: ttl ms, number
-- of seeds; per seed: timeline, epoch, acked, read; then per cursor the same.
-- Returns per cursor {epoch, acked, read, moved}, or {} when it is not known.

local function fmt(n) return string.format('%.0f', n) end

local a = 3
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HSETNX', KEYS[1], ARGV[a], ARGV[a + 1] .. ' ' .. ARGV[a + 2] .. ' ' .. ARGV[a + 3])
  a = a + 4
end
local results = {}
while a <= #ARGV do
  local old = redis.call('HGET', KEYS[1], ARGV[a])
  local result = {}
  if old then
    local epoch, acked, read = string.match(old, '^(%d+) (%d+) (%d+)$')
    acked, read = tonumber(acked), tonumber(read)
    local to_acked, to_read = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
    if epoch == ARGV[a + 1] then
      if to_acked < acked then to_acked = acked end
      if to_read < read then to_read = read end
    end
    local new = ARGV[a + 1] .. ' ' .. fmt(to_acked) .. ' ' .. fmt(to_read)
    local moved = 0
    if new ~= old then
      moved = 1
      redis.call('HSET', KEYS[1], ARGV[a], new)
    end
    result = {tonumber(ARGV[a + 1]), to_acked, to_read, moved}
  end
  results[#results + 1] = result
  a = a + 4
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return results
