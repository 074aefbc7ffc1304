-- Puts the jobs that were set aside while the batch was paused back into the backlog, unless it is paused again.
-- Returns how many.
local batch = unpack(ARGV)
if redis.call('HGET', keys.batch(batch), 'state') == 'paused' then
  return 0
end
local parked = redis.call('SMEMBERS', keys.parked(batch))
for _, ref in ipairs(parked) do
  to_backlog(ref)
end
redis.call('DEL', keys.parked(batch))
return #parked
