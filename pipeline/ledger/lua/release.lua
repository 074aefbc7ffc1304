-- Gives the job up to the next claim after the delay; its pod keeps running.
-- Returns 1, or 0 if the caller does not hold the lease.
local ref, fence, delay_ms = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return 0
end
drop_lease(ref)
if tonumber(delay_ms) > 0 then
  redis.call('ZADD', keys.delayed, now_ms() + delay_ms, ref)
else
  to_backlog(ref)
end
return 1
