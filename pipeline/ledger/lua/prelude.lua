-- Shared by all scripts. pipeline/ledger/scripts.py puts the table `keys` and the constants before it.

local function arguments_after(count)
  return {unpack(ARGV, count + 1)}
end

local moment -- a step takes no time
local function now_ms()
  if not moment then
    local t = redis.call('TIME')
    moment = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return moment
end

local function batch_of(ref)
  return string.match(ref, '^(.*)/')
end

-- Runs a command of a key. What stands in the key's place and is of another type goes: nothing can be known of it, and
-- an error in the middle of a step would leave the half of it done.
local function of_own_type(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    if string.find(found.err, 'WRONGTYPE', 1, true) then
      redis.call('DEL', key)
    end
    return redis.call(command, key, ...) -- another error is raised
  end
  return found
end

local function to_backlog(ref)
  local job = of_own_type('HMGET', keys.job(ref), 'tenant', 'score')
  if job[1] and tonumber(job[2]) then
    redis.call('HSETNX', keys.tenants, job[1], 0)
    redis.call('ZADD', keys.backlog(job[1]), job[2], ref)
  end
end

local function drop_lease(ref)
  if redis.call('ZREM', keys.leases, ref) == 1 then
    local tenant = of_own_type('HGET', keys.job(ref), 'tenant')
    if tenant then -- a ledger that was rolled back may have the lease of a job that it does not know
      if type(redis.pcall('HINCRBY', keys.tenants, tenant, -1)) == 'table' then
        redis.call('HSET', keys.tenants, tenant, 0) -- no number stood there
      end
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
  return held and of_own_type('HGET', keys.job(ref), 'fence') == fence
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

-- Whatever lies in the stream's place is in no step's way: the controller finds it.
local function add_event(batch, what, id, state)
  redis.pcall(
    'XADD', keys.events(batch), 'MAXLEN', '~', EVENTS_KEPT, '*', 'what', what, 'id', id, 'state', state
  )
end

-- Has the controller look which webhooks are to hear of the batch. Who has no right to ask for it is not in the way: the
-- controller also looks at every open batch from time to time.
local function watch(batch)
  redis.pcall('SADD', keys.watched, batch)
end

