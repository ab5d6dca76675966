-- ARGV: marker, how, a random marker. Returns the incarnation; a server
-- without a marker gets one.

redis.call('SET', ARGV[1], ARGV[3], 'NX')
return incarnation()
