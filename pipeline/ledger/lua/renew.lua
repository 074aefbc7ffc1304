-- Extends the lease. Returns false if the caller no longer holds it, else {record or '', state of the batch, attempt that a
-- pod has registered for or 0, seconds, microseconds}. The state is '' of a batch that is not known, or not as the one that
-- the job is of.
local ref, batch, fence, lease_ms = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return false
end
redis.call('ZADD', keys.leases, now_ms() + lease_ms, ref)
of_own_type('HGET', keys.ticket(ref), 'attempt') -- its pod could not read it
local found = redis.call('HMGET', keys.batch(batch), 'state', 'incarnation')
local is_known = found[1] and not (found[2] and is_of_another_incarnation(keys.job(ref), found[2]))
local now = redis.call('TIME')
return {
  redis.call('HGET', keys.job(ref), 'record') or '',
  is_known and found[1] or '',
  tonumber(of_own_type('HGET', keys.claim(ref), 'attempt') or nil) or 0,
  now[1],
  now[2],
}
