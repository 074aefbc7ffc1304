-- Returns 1, or 0 if there is none of this name.
local name = unpack(ARGV)
redis.call('DEL', keys.firings(name))
redis.call('ZREM', keys.schedules, name)
return redis.call('DEL', keys.schedule(name))
