-- Gives the jobs of a batch that are not final this priority; those in the backlog change their places. Repeating it
-- changes nothing. Returns how many there are.
-- mark: what is left beside the batch's record to say that it was done, or '' to leave nothing
local batch, priority, mark = unpack(ARGV)
local refs = redis.call('ZRANGE', keys.jobs(batch), 0, -1)
for _, ref in ipairs(refs) do
  local job = of_own_type('HMGET', keys.job(ref), 'tenant', 'score')
  if job[1] and tonumber(job[2]) then
    local score = string.format('%.0f', priority * PRIORITY_STEP + tonumber(job[2]) % PRIORITY_STEP)
    redis.call('HSET', keys.job(ref), 'score', score)
    redis.call('ZADD', keys.backlog(job[1]), 'XX', score, ref)
  end
end
if mark ~= '' and redis.call('HEXISTS', keys.batch(batch), 'revision') == 1 then
  redis.call('HSET', keys.batch(batch), 'prioritized', mark)
end
return #refs
