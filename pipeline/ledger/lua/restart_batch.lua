-- Puts another record, of another incarnation, in the place of a batch's, and forgets all states of its images and jobs.
-- Returns 1, or 0 if the record has another revision or incarnation than its reader saw.
local id, revision, incarnation, record, state, new_incarnation, new_revision, images, created_ms = unpack(ARGV)
local batch = keys.batch(id)
if redis.call('HGET', batch, 'revision') ~= revision or is_of_another_incarnation(batch, incarnation) then
  return 0
end
redis.call('DEL', keys.counts(id), keys.images(id), keys.jobs(id), keys.begun(id), keys.parked(id))
redis.call('HSET', keys.counts(id), 'image.queued', images)
redis.call(
  'HSET', batch, 'record', record, 'state', state, 'revision', new_revision, 'incarnation', new_incarnation
)
redis.call('ZADD', keys.batches, created_ms, id)
redis.call('SADD', keys.open, id)
add_event(id, 'batch', id, state)
watch(id)
return 1
