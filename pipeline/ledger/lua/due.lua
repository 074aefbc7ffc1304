-- ARGV: name, every_ms. Returns 1, for one of all who ask, if it is so long ago that it did, or if the clock was set back;
-- but not while it rests.
if redis.call('EXISTS', P .. 'rest:' .. ARGV[1]) == 1 then
  return 0
end
local key, now = P .. 'due:' .. ARGV[1], now_ms()
local last = tonumber(redis.call('GET', key) or '0')
if now >= last and now - last < tonumber(ARGV[2]) then
  return 0
end
redis.call('SET', key, now)
return 1
