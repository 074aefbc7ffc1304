-- ARGV: worker, lease_ms, then tenants ('*': all others), each with how many leases it may hold
-- The best job that may be claimed: least priority number, then the tenant that holds fewest leases, then age.
-- A tenant that holds as many leases as it may is left out, whatever its priority.
-- A job of a paused batch is put aside until the batch goes on, unless an attempt of it is still to be looked after.
-- A worker that is drained gets none. Returns false, or {ref, fence, record}.
promote(100)
if redis.call('HEXISTS', P .. 'draining', ARGV[1]) == 1 or redis.call('HEXISTS', P .. 'draining', '*') == 1 then
  return false
end
local function head_of(tenant)
  local backlog = P .. 'backlog:' .. tenant
  for _ = 1, 1000 do
    local head = redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')
    if not head[1] then
      return head
    end
    local batch = P .. 'batch:' .. string.match(head[1], '^(.*)/')
    local state = redis.call('HGET', P .. 'job:' .. head[1], 'state')
    local waits = state == 'queued' or state == 'retrying'
    if not waits or redis.call('HGET', batch, 'state') ~= 'paused' then
      return head
    end
    redis.call('ZREM', backlog, head[1])
    redis.call('SADD', batch .. ':parked', head[1])
  end
  return {}
end
local most = {}
for i = 3, #ARGV, 2 do
  most[ARGV[i]] = tonumber(ARGV[i + 1])
end
local best, best_tenant, best_priority, best_held, best_score
local tenants = redis.call('HGETALL', P .. 'tenants')
for i = 1, #tenants, 2 do
  local tenant, held = tenants[i], tonumber(tenants[i + 1])
  local room = held < (most[tenant] or most['*'] or math.huge)
  local head = room and head_of(tenant) or {}
  if head[1] then
    local score = tonumber(head[2])
    local priority = math.floor(score / 1e13)
    if not best or priority < best_priority
      or (priority == best_priority and (held < best_held or (held == best_held and score < best_score))) then
      best, best_tenant, best_priority, best_held, best_score = head[1], tenant, priority, held, score
    end
  elseif held <= 0 and redis.call('EXISTS', P .. 'backlog:' .. tenant) == 0 then
    redis.call('HDEL', P .. 'tenants', tenant)
  end
end
if not best then
  return false
end
local key = P .. 'job:' .. best
redis.call('ZREM', P .. 'backlog:' .. best_tenant, best)
redis.call('HINCRBY', P .. 'tenants', best_tenant, 1)
redis.call('ZADD', P .. 'leases', now_ms() + ARGV[2], best)
redis.call('HSET', key, 'worker', ARGV[1])
local fence = redis.call('HINCRBY', key, 'fence', 1)
return {best, string.format('%.0f', fence), redis.call('HGET', key, 'record')}
