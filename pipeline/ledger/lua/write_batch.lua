-- expected: the revision that the record must have now (0: must not exist); final: 1 or 0
-- Returns 1, or 0 if the record has another revision or incarnation.
local id, expected, state, record, final, images, created_ms, incarnation = unpack(ARGV)
local batch = keys.batch(id)
local revision = redis.call('HGET', batch, 'revision') or '0'
if revision ~= expected or is_of_another_incarnation(batch, incarnation) then
  return 0
end
redis.call('HSET', batch, 'record', record, 'state', state, 'revision', revision + 1, 'incarnation', incarnation)
if expected == '0' then
  redis.call('ZADD', keys.batches, created_ms, id)
  redis.call('HSET', keys.counts(id), 'image.queued', images)
end
if final == '1' then
  redis.call('SREM', keys.open, id)
else
  redis.call('SADD', keys.open, id)
end
add_event(id, 'batch', id, state)
return 1
