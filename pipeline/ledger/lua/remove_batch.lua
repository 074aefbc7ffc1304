-- Removes the jobs that are named, and the batch itself if `ending` is 1.
-- Returns 1, or 0 if the record has another revision or incarnation.
local id, revision, incarnation, ending = unpack(ARGV, 1, 4)
local refs = arguments_after(4)
local batch = keys.batch(id)
if redis.call('HGET', batch, 'revision') ~= revision or is_of_another_incarnation(batch, incarnation) then
  return redis.call('EXISTS', batch) == 0 and 1 or 0
end
for _, ref in ipairs(refs) do
  local tenant = of_own_type('HGET', keys.job(ref), 'tenant')
  drop_lease(ref)
  redis.call('ZREM', keys.delayed, ref)
  if tenant then
    redis.call('ZREM', keys.backlog(tenant), ref)
  end
  redis.call('DEL', keys.job(ref), keys.ticket(ref), keys.claim(ref))
end
if ending == '1' then
  redis.call('ZREM', keys.batches, id)
  redis.call('SREM', keys.open, id)
  redis.call(
    'DEL', keys.counts(id), keys.images(id), keys.jobs(id), keys.begun(id), keys.parked(id), keys.events(id), batch
  )
  redis.pcall('DEL', keys.handed(id), keys.shares(id))
end
return 1
