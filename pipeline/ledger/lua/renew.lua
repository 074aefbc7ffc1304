-- ARGV: ref, fence, lease_ms. Returns 1, or 0 if the lease is no longer the caller's.
if ARGV[2] == '' or not may_write(ARGV[1], ARGV[2]) then
  return 0
end
redis.call('ZADD', P .. 'leases', now_ms() + ARGV[3], ARGV[1])
return 1
