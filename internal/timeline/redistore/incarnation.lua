-- ARGV: marker, how, a random marker. Returns the incarnation; a server
-- without a marker gets one.

if ARGV[1] ~= '' then redis.call('SET', ARGV[1], ARGV[3], 'NX') end
return incarnation()
