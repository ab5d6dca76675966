-- KEYS: meta, log. ARGV: marker, how, epoch, floor. Raises the floor and trims.

local inc = incarnation()
local s = load(KEYS[1])
if not s or s.inc ~= inc or s.epoch ~= ARGV[3] then return 0 end
local floor, highest = tonumber(ARGV[4]), s.top
if s.mode == '2' then highest = s.arch end
if floor > highest then floor = highest end
if floor <= s.floor then return 0 end
s.floor = floor
trim(s, KEYS[2], s.top, s.bytes)
redis.call('HSET', KEYS[1], 'floor', fmt(s.floor), 'first', fmt(s.first), 'bytes', fmt(s.bytes))
return 1
