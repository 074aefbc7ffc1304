-- ARGV: ref, batch, fence, lease_ms. Keeps the job, and says how it stands.
-- Returns false if the lease is no longer the caller's, else {record or '', state of the batch or '', attempt that a pod
-- has registered for or '0', seconds, microseconds}.
if ARGV[3] == '' or not may_write(ARGV[1], ARGV[3]) then
  return false
end
redis.call('ZADD', P .. 'leases', now_ms() + ARGV[4], ARGV[1])
local now = redis.call('TIME')
return {
  redis.call('HGET', P .. 'job:' .. ARGV[1], 'record') or '',
  redis.call('HGET', P .. 'batch:' .. ARGV[2], 'state') or '',
  redis.call('HGET', P .. 'claim:' .. ARGV[1], 'attempt') or '0',
  now[1],
  now[2],
}
