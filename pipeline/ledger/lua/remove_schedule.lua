-- ARGV: name
local key = P .. 'schedule:' .. ARGV[1]
redis.call('DEL', key .. ':firings')
redis.call('ZREM', P .. 'schedules', ARGV[1])
return redis.call('DEL', key)
