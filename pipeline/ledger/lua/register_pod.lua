-- One pod per attempt: the first that registers for the attempt on record gets the claim.
-- Returns '', or the reason why it is refused, or false if the ledger does not know the job.
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
