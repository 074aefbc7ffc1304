-- Shared by all scripts. pipeline/ledger/scripts.py puts the table `keys` and the constants before it.

local function arguments_after(count)
  return {unpack(ARGV, count + 1)}
end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function batch_of(ref)
  return string.match(ref, '^(.*)/')
end

local function to_backlog(ref)
  local job = redis.call('HMGET', keys.job(ref), 'tenant', 'score')
  if job[1] and job[2] then
    redis.call('HSETNX', keys.tenants, job[1], 0)
    redis.call('ZADD', keys.backlog(job[1]), job[2], ref)
  end
end

local function drop_lease(ref)
  if redis.call('ZREM', keys.leases, ref) == 1 then
    local tenant = redis.call('HGET', keys.job(ref), 'tenant')
    if tenant then -- a ledger that was rolled back may have the lease of a job that it does not know
      redis.call('HINCRBY', keys.tenants, tenant, -1)
      redis.call('HSET', keys.job(ref), 'worker', '')
    end
  end
end

-- Puts jobs whose lease expired or whose delay is over back into the backlog. Returns how many there were of each.
local function promote(limit)
  local now = now_ms()
  local expired = redis.call('ZRANGEBYSCORE', keys.leases, '-inf', now, 'LIMIT', 0, limit)
  for _, ref in ipairs(expired) do
    drop_lease(ref)
    to_backlog(ref)
  end
  local due = redis.call('ZRANGEBYSCORE', keys.delayed, '-inf', now, 'LIMIT', 0, limit)
  for _, ref in ipairs(due) do
    redis.call('ZREM', keys.delayed, ref)
    to_backlog(ref)
  end
  return {#expired, #due}
end

-- A worker must show the fence of its lease; without one, only a job that has no lease may be changed.
local function may_write(ref, fence)
  local held = redis.call('ZSCORE', keys.leases, ref)
  if fence == '' then
    return not held
  end
  return held and redis.call('HGET', keys.job(ref), 'fence') == fence
end

-- Whether the record has another incarnation than the one its writer read: the ledger was lost and rebuilt meanwhile.
local function is_of_another_incarnation(key, incarnation)
  local found = redis.call('HGET', key, 'incarnation')
  return found and found ~= incarnation
end

-- Whether the ledger does not know the batch as its writer read it: it was rolled back, or lost and rebuilt, meanwhile.
-- Whoever may not say which incarnation it read ('': a pod, whose token says more) assumes only that there is one.
local function lacks_batch(id, incarnation)
  local found = redis.call('HMGET', keys.batch(id), 'revision', 'incarnation') -- commands that a pod may use
  return not found[1] or (incarnation ~= '' and found[2] and found[2] ~= incarnation)
end

local function add_event(batch, what, id, state)
  redis.call(
    'XADD', keys.events(batch), 'MAXLEN', '~', EVENTS_KEPT, '*', 'what', what, 'id', id, 'state', state
  )
end

-- Has the controller look which webhooks are to hear of the batch. Who has no right to ask for it is not in the way: the
-- controller also looks at every open batch from time to time.
local function watch(batch)
  redis.pcall('SADD', keys.watched, batch)
end

