-- One pod an attempt: the first to come with the attempt on record has the claim.
-- Returns '', or why not, or false if the job is not known here at all.
local ref, attempt, token, uid = unpack(ARGV)
local ticket = redis.call('HMGET', keys.ticket(ref), 'attempt', 'token', 'state', 'open')
if not ticket[1] then
  return false
end
if ticket[1] ~= attempt or ticket[2] ~= redis.sha1hex(token) then
  return 'attempt ' .. attempt .. ' is not the one on record (' .. ticket[1] .. ')'
end
if ticket[4] ~= '1' then
  return 'the job is ' .. ticket[3]
end
local claim = redis.call('HMGET', keys.claim(ref), 'attempt', 'pod')
if claim[1] == attempt and claim[2] ~= uid then
  return 'another pod has registered for this attempt'
end
redis.call('HSET', keys.claim(ref), 'attempt', attempt, 'pod', uid)
return ''
