-- ARGV: ref, fence, delay_ms. Hands the job to whoever claims next once the delay is over; what runs for it goes on.
-- Returns 1, or 0 if it was not ours.
if ARGV[2] == '' or not may_write(ARGV[1], ARGV[2]) then
  return 0
end
drop_lease(ARGV[1])
if tonumber(ARGV[3]) > 0 then
  redis.call('ZADD', P .. 'delayed', now_ms() + ARGV[3], ARGV[1])
else
  to_backlog(ARGV[1])
end
return 1
