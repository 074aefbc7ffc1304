-- expected: the revision it must have now (0: must not exist); fence: or ''; attempt: its number or 0; token: or ''
-- place: 'backlog' may be claimed, 'held' stays with its lease, 'delayed' waits, 'done' is final
-- indices: the job's images, as in 0-99,120, or '' where they are not known
-- cut_into: for a new job, how many jobs the batch's record has by its writer ('': it is not cut yet)
-- anew: 1 to have everything beside the record follow from it, also of which incarnation the job is
-- Returns -1 if the record has another revision, -2 without the lease, -3 if the ledger does not know the batch of a job
-- that is new or written anew as its writer read it, else how many jobs of the batch are not final.
local ref, batch, expected, fence, state, record, place, delay_ms, tenant, score, index, attempt, token, incarnation,
  indices, cut_into, anew = unpack(ARGV)
-- How many jobs the batch's record has, as text; '' before it is cut. The field beside the record is of the revision that
-- it names: an earlier version writes records without it.
local function jobs_of(id)
  local found = redis.call('HMGET', keys.batch(id), 'revision', 'cut_at', 'cut_into')
  if found[2] and found[2] == found[1] then
    return found[3]
  end
  local jobs = cjson.decode(redis.call('HGET', keys.batch(id), 'record')).jobs
  return jobs and jobs ~= cjson.null and string.format('%.0f', jobs) or ''
end
local job, counts, jobs, begun = keys.job(ref), keys.counts(batch), keys.jobs(batch), keys.begun(batch)
local revision = of_own_type('HGET', job, 'revision') or '0'
if revision ~= expected or (anew ~= '1' and is_of_another_incarnation(job, incarnation)) then
  return -1
end
if anew == '1' and lacks_batch(batch, incarnation) then
  return -3
end
if expected ~= '0' then
  if not may_write(ref, fence) then
    return -2
  end
elseif lacks_batch(batch, incarnation) or jobs_of(batch) ~= cut_into then
  return -3
end
local before = redis.call('HGET', job, 'state')
if before then
  redis.call('HINCRBY', counts, 'job.' .. before, -1)
  if place ~= 'done' and redis.call('ZSCORE', jobs, ref) == false then
    redis.call('HINCRBY', counts, 'reopened', 1) -- so that who opens jobs again knows whether they all stayed open
  end
  if anew == '1' then
    redis.call('HSET', job, 'tenant', tenant, 'score', score, 'incarnation', incarnation)
  end
else
  local lost = of_own_type('HGET', keys.ticket(ref), 'state') -- of a record that is gone, and still counted
  if lost then
    redis.call('HINCRBY', counts, 'job.' .. lost, -1)
  end
  -- The fence starts at the current time, so that it differs from every fence of a ledger that was lost.
  redis.call('HSET', job, 'tenant', tenant, 'score', score, 'incarnation', incarnation, 'fence', now_ms(), 'worker', '')
end
if place ~= 'done' then
  redis.call('ZADD', jobs, index, ref) -- also a job that was final and is reopened
end
if place ~= 'done' and state ~= 'queued' then
  redis.call('ZADD', begun, index, ref)
else
  redis.call('ZREM', begun, ref)
end
redis.call('HINCRBY', counts, 'job.' .. state, 1)
redis.call('HSET', job, 'record', record, 'state', state, 'revision', revision + 1)
-- What a pod may read of its job: not the record, which holds the token.
local open = place ~= 'done' and state ~= 'queued' and state ~= 'retrying' and 1 or 0
of_own_type(
  'HSET', keys.ticket(ref), 'attempt', attempt, 'token', redis.sha1hex(token), 'state', state, 'open', open
)
if indices ~= '' then
  redis.call('HSET', keys.ticket(ref), 'indices', indices)
end
if place ~= 'held' then
  drop_lease(ref)
  redis.call('HSET', job, 'stumbles', 0)
  redis.call('DEL', keys.claim(ref)) -- the attempt is over: its pod may report no more
end
if place == 'backlog' then
  to_backlog(ref)
elseif place == 'delayed' then
  redis.call('ZREM', keys.backlog(tenant), ref)
  redis.call('ZADD', keys.delayed, now_ms() + delay_ms, ref)
elseif place == 'done' then
  redis.call('ZREM', keys.backlog(tenant), ref)
  redis.call('ZREM', keys.delayed, ref)
  redis.call('ZREM', jobs, ref)
end
if before ~= state then
  add_event(batch, 'job', ref, state)
end
return redis.call('ZCARD', jobs)
