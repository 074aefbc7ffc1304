-- Claims the best job: lowest priority number, then the tenant with the fewest leases, then the oldest.
-- Tenants at their limit of leases are left out, whatever the priority. A job of a paused batch is set aside until the
-- batch goes on, unless it still has an attempt to look after. A drained worker gets none.
-- server: which answers, by its own word, or ''
-- Returns false, {ref, fence, record}, or 'in doubt' if the ledger was last in order on another server, or is in doubt.
local worker, lease_ms, server = unpack(ARGV, 1, 3)
local limits = arguments_after(3) -- tenants ('*': all others), each followed by how many leases it may hold
if server ~= '' then
  local good = redis.call('HMGET', keys.generation, 'server', 'doubt')
  if good[1] and (good[1] ~= server or good[2] ~= '') then
    return 'in doubt'
  end
end
promote(100)
local drained = redis.call('HMGET', keys.draining, worker, '*')
if drained[1] or drained[2] then
  return false
end
local function head_of(tenant)
  local backlog = keys.backlog(tenant)
  for _ = 1, 1000 do
    local head = redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')
    if not head[1] then
      return head
    end
    local batch = batch_of(head[1])
    local state = of_own_type('HGET', keys.job(head[1]), 'state')
    local waits = state == 'queued' or state == 'retrying'
    if not waits or redis.call('HGET', keys.batch(batch), 'state') ~= 'paused' then
      return head
    end
    redis.call('ZREM', backlog, head[1])
    redis.call('SADD', keys.parked(batch), head[1])
  end
  return {}
end
local most = {}
for i = 1, #limits, 2 do
  most[limits[i]] = tonumber(limits[i + 1])
end
local best, best_tenant, best_priority, best_held, best_score
local tenants = redis.call('HGETALL', keys.tenants)
for i = 1, #tenants, 2 do
  local tenant, held = tenants[i], tonumber(tenants[i + 1])
  if not held then -- the controller counts them anew
    redis.call('HSET', keys.tenants, tenant, 0)
    held = 0
  end
  local room = held < (most[tenant] or most['*'] or math.huge)
  local head = room and head_of(tenant) or {}
  if head[1] then
    local score = tonumber(head[2])
    local priority = math.floor(score / PRIORITY_STEP)
    if not best or priority < best_priority
      or (priority == best_priority and (held < best_held or (held == best_held and score < best_score))) then
      best, best_tenant, best_priority, best_held, best_score = head[1], tenant, priority, held, score
    end
  elseif held <= 0 and redis.call('EXISTS', keys.backlog(tenant)) == 0 then
    redis.call('HDEL', keys.tenants, tenant)
  end
end
if not best then
  return false
end
local job = keys.job(best)
redis.call('ZREM', keys.backlog(best_tenant), best)
redis.call('HINCRBY', keys.tenants, best_tenant, 1)
redis.call('ZADD', keys.leases, now_ms() + lease_ms, best)
-- At least the current time: a ledger that was rolled back would otherwise give the same fence to two workers.
local fence = math.max((tonumber(redis.call('HGET', job, 'fence')) or 0) + 1, now_ms())
local text = string.format('%.0f', fence)
redis.call('HSET', job, 'worker', worker, 'fence', text)
redis.call('HSETNX', job, 'tenant', best_tenant) -- of one that is gone: its lease is counted, too
return {best, text, redis.call('HGET', job, 'record')}
