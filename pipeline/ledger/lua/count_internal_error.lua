-- ARGV: ref, fence. Counts a failure of our own program over this job, until the job is next written as over or waiting.
-- Returns how many there were, or 0 if the lease is no longer the caller's.
if ARGV[2] == '' or not may_write(ARGV[1], ARGV[2]) then
  return 0
end
return redis.call('HINCRBY', P .. 'job:' .. ARGV[1], 'stumbles', 1)
