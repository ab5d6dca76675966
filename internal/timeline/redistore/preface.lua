-- Begins every script. ARGV[1] = name of the marker key ("" on a cluster, where
-- a script sees one slot only), ARGV[2] = "info" or "key": how the incarnation
-- is known.

local function fmt(n) return string.format('%.0f', n) end

-- A server that is another process has another run id; one that was promoted,
-- or follows another master, has another replication id; one that was flushed
-- has lost the marker.
local function incarnation()
  local marker = ''
  if ARGV[1] ~= '' then marker = redis.call('GET', ARGV[1]) or '' end
  if ARGV[2] == 'key' then return marker end
  local info = redis.call('INFO', 'server', 'replication')
  return string.match(info, 'run_id:(%w+)') .. ':' .. string.match(info, 'master_replid:(%w+)') .. ':' .. marker
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- State of a timeline, nil if it is not there. first = lowest seq in the
-- window, top + 1 when it is empty.
local function load(meta)
  local s = redis.call('HMGET', meta, 'inc', 'mode', 'epoch', 'top', 'gen', 'off', 'arch', 'floor', 'first', 'bytes')
  if not s[10] then return nil end
  return {
    inc = s[1], mode = s[2], epoch = s[3], top = tonumber(s[4]), gen = tonumber(s[5]), off = tonumber(s[6]),
    arch = tonumber(s[7]), floor = tonumber(s[8]), first = tonumber(s[9]), bytes = tonumber(s[10]),
  }
end

-- What waits for the archive does not expire; mode 2 is required.
local function expire(s, meta, log, ring, idle_ms)
  if s.mode == '2' and s.arch < s.top then
    redis.call('PERSIST', meta)
    redis.call('PERSIST', log)
    redis.call('PERSIST', ring)
  else
    redis.call('PEXPIRE', meta, idle_ms)
    redis.call('PEXPIRE', log, idle_ms)
    redis.call('PEXPIRE', ring, idle_ms)
  end
end

-- Drops at most 1000 of the oldest entries beyond the limits; what waits for
-- the archive stays. Without an archive (mode 0) what is dropped is nowhere.
local function trim(s, log, keep, keep_bytes)
  local gone = {}
  while s.first <= s.top and #gone < 1000 do
    if s.top - s.first + 1 <= keep and s.bytes <= keep_bytes and s.first > s.floor then break end
    if s.mode == '2' and s.first > s.arch then break end
    local seq = fmt(s.first)
    s.bytes = s.bytes - redis.call('HSTRLEN', log, seq)
    if s.mode == '0' and s.first > s.floor then s.floor = s.first end
    gone[#gone + 1] = seq
    s.first = s.first + 1
  end
  if #gone > 0 then redis.call('HDEL', log, unpack(gone)) end
  return #gone > 0
end
