-- Extends the lease. Returns false if the caller no longer holds it, else {record or '', state of the batch or '',
-- attempt that a pod has registered for or '0', seconds, microseconds}.
local ref, batch, fence, lease_ms = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return false
end
redis.call('ZADD', keys.leases, now_ms() + lease_ms, ref)
local now = redis.call('TIME')
return {
  redis.call('HGET', keys.job(ref), 'record') or '',
  redis.call('HGET', keys.batch(batch), 'state') or '',
  redis.call('HGET', keys.claim(ref), 'attempt') or '0',
  now[1],
  now[2],
}
