-- Gives the job up to the next claim after the delay; its pod keeps running. One of a batch that the ledger does not know
-- is forgotten: who finds the batch in the bucket makes its jobs again.
-- Returns 1, or 0 if the caller does not hold the lease.
local ref, fence, delay_ms = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return 0
end
drop_lease(ref)
local batch = batch_of(ref)
if not batch or redis.call('EXISTS', keys.batch(batch)) == 0 then
  redis.call('DEL', keys.job(ref), keys.ticket(ref), keys.claim(ref))
elseif tonumber(delay_ms) > 0 then
  redis.call('ZADD', keys.delayed, now_ms() + delay_ms, ref)
else
  to_backlog(ref)
end
return 1
