-- Returns 1, to one caller only, if this work was last done at least every_ms ago or the clock was set back since; 0
-- otherwise, and while the work rests.
local name, every_ms = unpack(ARGV)
if redis.call('EXISTS', keys.rest(name)) == 1 then
  return 0
end
local now = now_ms()
local last = tonumber(redis.call('GET', keys.due(name)) or '0')
if now >= last and now - last < tonumber(every_ms) then
  return 0
end
redis.call('SET', keys.due(name), now)
return 1
