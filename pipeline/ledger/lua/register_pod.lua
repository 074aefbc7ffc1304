-- ARGV: ref, attempt number, token, pod's UID
-- One pod an attempt: the first to come with the attempt on record has the claim.
-- Returns '', or why not, or false if the job is not known here at all.
local key = P .. 'job:' .. ARGV[1]
local job = redis.call('HMGET', key, 'attempt', 'token', 'pod', 'pod_attempt', 'state')
if not job[1] then
  return false
end
if job[1] ~= ARGV[2] or job[2] ~= ARGV[3] then
  return 'attempt ' .. ARGV[2] .. ' is not the one on record (' .. job[1] .. ')'
end
local unfinished = P .. 'batch:' .. string.match(ARGV[1], '^(.*)/') .. ':jobs'
if job[5] == 'queued' or job[5] == 'retrying' or not redis.call('ZSCORE', unfinished, ARGV[1]) then
  return 'the job is ' .. job[5]
end
if job[4] == ARGV[2] and job[3] ~= ARGV[4] then
  return 'another pod has registered for this attempt'
end
redis.call('HSET', key, 'pod', ARGV[4], 'pod_attempt', ARGV[2])
return ''
