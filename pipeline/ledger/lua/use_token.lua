-- Counts one use of a token of the HTTP API. Returns its record, how many uses there were in this minute of Redis' clock
-- with this one, and that clock in milliseconds; nothing, and counts nothing, if there is no such token.
local id = unpack(ARGV)
local record = redis.call('HGET', keys.tokens, id)
if not record then
  return {}
end
local now = now_ms()
local key = keys.rate(id .. '@' .. math.floor(now / 60000))
local uses = redis.call('INCR', key)
redis.call('EXPIRE', key, 120)
return {record, uses, now}
