-- ARGV: batch. Brings back the jobs that were put aside while the batch was paused, unless it is again; returns how many.
local key = P .. 'batch:' .. ARGV[1]
if redis.call('HGET', key, 'state') == 'paused' then
  return 0
end
local parked = redis.call('SMEMBERS', key .. ':parked')
for _, ref in ipairs(parked) do
  to_backlog(ref)
end
redis.call('DEL', key .. ':parked')
return #parked
