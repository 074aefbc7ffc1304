-- Shared by all scripts. KEYS[1] is the deployment's prefix; every key is built from it (one Redis, never a Cluster).
local P = KEYS[1] .. ':'

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function to_backlog(ref)
  local job = redis.call('HMGET', P .. 'job:' .. ref, 'tenant', 'score')
  if job[1] then
    redis.call('HSETNX', P .. 'tenants', job[1], 0)
    redis.call('ZADD', P .. 'backlog:' .. job[1], job[2], ref)
  end
end

local function drop_lease(ref)
  if redis.call('ZREM', P .. 'leases', ref) == 1 then
    local tenant = redis.call('HGET', P .. 'job:' .. ref, 'tenant')
    redis.call('HINCRBY', P .. 'tenants', tenant, -1)
    redis.call('HSET', P .. 'job:' .. ref, 'worker', '')
  end
end

-- Jobs whose lease ran out or whose delay is over may be claimed again. Returns how many there were of each.
local function promote(limit)
  local now = now_ms()
  local expired = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, limit)
  for _, ref in ipairs(expired) do
    drop_lease(ref)
    to_backlog(ref)
  end
  local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', now, 'LIMIT', 0, limit)
  for _, ref in ipairs(due) do
    redis.call('ZREM', P .. 'delayed', ref)
    to_backlog(ref)
  end
  return {#expired, #due}
end

-- A worker shows the fence of its lease; whoever shows none may only touch a job that nobody holds.
local function may_write(ref, fence)
  local held = redis.call('ZSCORE', P .. 'leases', ref)
  if fence == '' then
    return not held
  end
  return held and redis.call('HGET', P .. 'job:' .. ref, 'fence') == fence
end

-- Whether the record is of another incarnation than its writer read: the ledger was lost and rebuilt meanwhile.
local function is_another(key, incarnation)
  local found = redis.call('HGET', key, 'incarnation')
  return found and found ~= incarnation
end

local function tell(batch, what, id, state)
  redis.call('XADD', P .. 'batch:' .. batch .. ':events', 'MAXLEN', '~', 1000, '*', 'what', what, 'id', id, 'state', state)
end
