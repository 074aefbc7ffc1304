-- Counts a failure of our own program over this job, until the job is next written as over or waiting.
-- Returns how many there were, or 0 if the lease is no longer the caller's.
local ref, fence = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return 0
end
return redis.call('HINCRBY', keys.job(ref), 'stumbles', 1)
