-- KEYS: per timeline meta, log, ring.
-- ARGV: marker, how, incarnation asked for, idle ms, highest age of a seed in
-- ms; then per timeline: mode, entries and bytes to keep, hard entries and
-- bytes, length of the ring, seed ("" or "epoch top gen off floor asked"), ring
-- of the seed, number of records; then per record: gen, off, id, value.
-- Returns "REWIND", or per timeline {status, epoch, now ms, verdict, seq, ...}
-- with status 0 applied, 2 reload, 3 full; verdict 1 new, 2 repeat, 3 dup.

local inc = incarnation()
if inc ~= ARGV[3] then return 'REWIND' end
local idle_ms, seed_age_ms = ARGV[4], tonumber(ARGV[5])

-- The entry that a record brought; entries are in the order of their offsets.
local function by_offset(s, log, gen, off)
  local lo, hi = s.first, s.top
  while lo <= hi do
    local mid = math.floor((lo + hi) / 2)
    local value = redis.call('HGET', log, fmt(mid))
    if not value then return 0 end
    local g, o = string.match(value, '^(%d+) (%d+) ')
    g, o = tonumber(g), tonumber(o)
    if g == gen and o == off then return mid end
    if g < gen or (g == gen and o < off) then lo = mid + 1 else hi = mid - 1 end
  end
  return 0
end

-- The ring holds the id of seq n in slot (n - 1) % length, 16 bytes each. top
-- is that of when the ring was read; what has been overwritten since is too old.
local function in_ring(ids, id, length, top, top_now)
  local at = 1
  while true do
    at = string.find(ids, id, at, true)
    if not at then return nil end
    if (at - 1) % 16 == 0 then
      local slot = (at - 1) / 16
      local seq = top - (top - 1 - slot) % length
      if seq > 0 and seq > top_now - length then return seq end
      return nil
    end
    at = at + 1
  end
end

local results = {}
local a = 6
for k = 1, #KEYS, 3 do
  local meta, log, ring = KEYS[k], KEYS[k + 1], KEYS[k + 2]
  local mode, keep, keep_bytes = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local hard, hard_bytes, length = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local seed, seed_ring, count = ARGV[a + 6], ARGV[a + 7], tonumber(ARGV[a + 8])
  local r = a + 9
  a = r + 4 * count

  local s = load(meta)
  if s and s.inc ~= inc then s = nil end
  local result
  if s and s.mode ~= mode then
    if s.mode == '2' and s.arch < s.top then
      result = {3, tonumber(s.epoch), 0}
    else
      s = nil
    end
  end
  local changed = false
  if not s and not result then
    local now = now_ms()
    local epoch, top, gen, off, floor, asked = string.match(seed, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
    if not epoch or now - tonumber(asked) > seed_age_ms then
      result = {2, 0, now}
    else
      redis.call('DEL', meta, log, ring)
      s = {
        inc = inc, mode = mode, epoch = epoch, top = tonumber(top), gen = tonumber(gen), off = tonumber(off),
        arch = tonumber(top), floor = tonumber(floor), first = tonumber(top) + 1, bytes = 0,
      }
      if seed_ring ~= '' then redis.call('SET', ring, seed_ring) end
      changed = true
    end
  end

  if not result then
    changed = trim(s, log, keep, keep_bytes) or changed
    result = {0, tonumber(s.epoch), 0}
    local ids, top_read = nil, s.top
    local fresh, fresh_ids = {}, {}
    for i = r, r + 4 * (count - 1), 4 do
      local gen, off, id, value = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
      local verdict, seq
      if s.top > 0 and (gen < s.gen or (gen == s.gen and off <= s.off)) then --guard
        verdict, seq = 2, by_offset(s, log, gen, off)
      else
        if not ids then ids = redis.call('GET', ring) or '' end
        seq = fresh[id]
        if seq and seq <= s.top - length then seq = nil end
        seq = seq or in_ring(ids, id, length, top_read, s.top)
        if seq then --ids
          verdict = 3
        else
          if s.first <= s.top and (s.top - s.first + 1 >= hard or s.bytes + #value > hard_bytes) then
            -- What may go goes: else hard bounds that are no wider than the others,
            -- or a value that is wider than the difference, would stop it for good.
            trim(s, log, math.min(keep, hard - 1), math.min(keep_bytes, hard_bytes - #value))
            if s.first <= s.top and (s.top - s.first + 1 >= hard or s.bytes + #value > hard_bytes) then
              result[1] = 3
              break
            end
          end
          s.top = s.top + 1
          verdict, seq = 1, s.top
          redis.call('HSET', log, fmt(seq), value)
          s.bytes = s.bytes + #value
          fresh[id] = seq
          fresh_ids[#fresh_ids + 1] = id
        end
        s.gen, s.off = gen, off
        changed = true
      end
      result[#result + 1] = verdict
      result[#result + 1] = seq
    end
    local i = 1
    while i <= #fresh_ids do
      local slot = (top_read + i - 1) % length
      local n = math.min(length - slot, #fresh_ids - i + 1)
      redis.call('SETRANGE', ring, slot * 16, table.concat(fresh_ids, '', i, i + n - 1))
      i = i + n
    end
    if changed then
      redis.call('HSET', meta, 'inc', inc, 'mode', s.mode, 'epoch', s.epoch, 'top', fmt(s.top), 'gen', fmt(s.gen),
        'off', fmt(s.off), 'arch', fmt(s.arch), 'floor', fmt(s.floor), 'first', fmt(s.first), 'bytes', fmt(s.bytes))
      expire(s, meta, log, ring, idle_ms)
    end
  end
  results[#results + 1] = result
end
return results
