-- ARGV: ref, batch, revision that must stand (0: must not exist), fence or '', state, record, place, delay_ms,
--       tenant, score, index, attempt number or 0, attempt's token or '', incarnation
-- place: 'backlog' may be claimed, 'held' stays with its lease, 'delayed' waits, 'done' is final
-- Returns: -1 the revision moved on, -2 the lease is somebody else's, else how many jobs of the batch are not final.
local ref, batch, expected, fence, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local key, batch_key = P .. 'job:' .. ref, P .. 'batch:' .. batch
local revision = redis.call('HGET', key, 'revision') or '0'
if revision ~= expected or is_another(key, ARGV[14]) then
  return -1
end
if expected ~= '0' and not may_write(ref, fence) then
  return -2
end
local before = redis.call('HGET', key, 'state')
if before then
  redis.call('HINCRBY', batch_key .. ':counts', 'job.' .. before, -1)
else
  -- The fence begins at the time: no lease of a ledger that was lost can have the number of a lease of this one.
  redis.call('HSET', key, 'tenant', ARGV[9], 'score', ARGV[10], 'incarnation', ARGV[14], 'fence', now_ms(), 'worker', '')
end
if ARGV[7] ~= 'done' then
  redis.call('ZADD', batch_key .. ':jobs', ARGV[11], ref) -- also a job that was over and is opened again
end
if ARGV[7] ~= 'done' and state ~= 'queued' then
  redis.call('ZADD', batch_key .. ':begun', ARGV[11], ref)
else
  redis.call('ZREM', batch_key .. ':begun', ref)
end
redis.call('HINCRBY', batch_key .. ':counts', 'job.' .. state, 1)
redis.call('HSET', key, 'record', ARGV[6], 'state', state, 'revision', revision + 1)
local place = ARGV[7]
-- What a pod may read of its job: not the record, which holds the token.
local open = place ~= 'done' and state ~= 'queued' and state ~= 'retrying' and 1 or 0
redis.call('HSET', P .. 'ticket:' .. ref, 'attempt', ARGV[12], 'token', redis.sha1hex(ARGV[13]), 'state', state, 'open', open)
if place ~= 'held' then
  drop_lease(ref)
  redis.call('HSET', key, 'stumbles', 0)
  redis.call('DEL', P .. 'claim:' .. ref) -- the attempt is over: what its pod still says is not heard
end
if place == 'backlog' then
  to_backlog(ref)
elseif place == 'delayed' then
  redis.call('ZREM', P .. 'backlog:' .. ARGV[9], ref)
  redis.call('ZADD', P .. 'delayed', now_ms() + ARGV[8], ref)
elseif place == 'done' then
  redis.call('ZREM', P .. 'backlog:' .. ARGV[9], ref)
  redis.call('ZREM', P .. 'delayed', ref)
  redis.call('ZREM', batch_key .. ':jobs', ref)
end
if before ~= state then
  tell(batch, 'job', ref, state)
end
return redis.call('ZCARD', batch_key .. ':jobs')
