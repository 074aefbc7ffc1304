-- ARGV: worker, lease_ms
-- The best job that may be claimed: least priority number, then the tenant that holds fewest leases, then age.
-- Returns false, or {ref, fence, record}.
promote(100)
local best, best_tenant, best_priority, best_held, best_score
local tenants = redis.call('HGETALL', P .. 'tenants')
for i = 1, #tenants, 2 do
  local tenant, held = tenants[i], tonumber(tenants[i + 1])
  local head = redis.call('ZRANGE', P .. 'backlog:' .. tenant, 0, 0, 'WITHSCORES')
  if head[1] then
    local score = tonumber(head[2])
    local priority = math.floor(score / 1e13)
    if not best or priority < best_priority
      or (priority == best_priority and (held < best_held or (held == best_held and score < best_score))) then
      best, best_tenant, best_priority, best_held, best_score = head[1], tenant, priority, held, score
    end
  elseif held <= 0 then
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
