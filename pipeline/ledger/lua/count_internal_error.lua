-- Counts internal errors over this job. The count starts again when the job is next written to a place other than held.
-- Returns how many there were, or 0 if the caller no longer holds the lease.
local ref, fence = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return 0
end
return redis.call('HINCRBY', keys.job(ref), 'stumbles', 1)
