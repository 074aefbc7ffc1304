-- Turns what happened to a batch into deliveries, and remembers that: in one step, so that none is lost or made twice.
-- revision: of the batch as its reader saw it; before, after: which events have been handed over
-- Returns 1, or 0 if others have been handed over meanwhile.
local id, revision, before, after, kept_s, most = unpack(ARGV, 1, 6)
local deliveries = arguments_after(6) -- ids, each followed by its record
local handed = keys.handed(id)
if (redis.call('GET', handed) or '') ~= before then
  return 0
end
if after ~= before and redis.call('EXISTS', keys.batch(id)) == 1 then
  redis.call('SET', handed, after)
end
local now = now_ms()
for i = 1, #deliveries, 2 do
  local one = deliveries[i]
  if redis.call('SET', keys.delivery(one), deliveries[i + 1], 'NX', 'EX', kept_s) then
    redis.call('ZADD', keys.deliveries, now + i / 1000, one)
    redis.call('ZADD', keys.undelivered, now + i / 1000, one)
  end
end
if #deliveries > 0 then
  redis.call('ZREMRANGEBYSCORE', keys.deliveries, '-inf', now - kept_s * 1000)
  redis.call('ZREMRANGEBYRANK', keys.deliveries, 0, -most - 1)
end
if (redis.call('HGET', keys.batch(id), 'revision') or revision) == revision then
  redis.call('SREM', keys.watched, id)
end
return 1
