-- Counts internal errors over this job. The count starts again when the job is next written to a place other than held.
-- Returns how many there were, or 0 if the caller no longer holds the lease.
local ref, fence = unpack(ARGV)
if fence == '' or not may_write(ref, fence) then
  return 0
end
if type(redis.pcall('HINCRBY', keys.job(ref), 'stumbles', 1)) == 'table' then
  redis.call('HSET', keys.job(ref), 'stumbles', 1) -- no number stood there
end
return tonumber(redis.call('HGET', keys.job(ref), 'stumbles'))
