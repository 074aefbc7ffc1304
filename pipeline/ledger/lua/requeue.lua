-- Puts those of some jobs of a batch that are not over and stand in no queue back into the backlog. Forgets what is the
-- name of no job. Looks at those from the first on, so many.
-- Returns {how many were looked at and stay, how many were put back, refs of jobs that stand nowhere and are gone}.
local batch, first, limit = unpack(ARGV)
local stay, put, gone = 0, 0, {}
local jobs = tonumber(redis.call('HGET', keys.batch(batch), 'cut_into') or nil) or math.huge
for _, ref in ipairs(redis.call('ZRANGE', keys.jobs(batch), first, first + limit - 1)) do
  local id, index = string.match(ref, '^(.*)/(%d%d%d%d%d+)$')
  if id ~= batch or tonumber(index) >= jobs then
    redis.call('ZREM', keys.jobs(batch), ref)
  else
    stay = stay + 1
    local tenant, score = unpack(of_own_type('HMGET', keys.job(ref), 'tenant', 'score'))
    local stands = redis.call('ZSCORE', keys.leases, ref)
      or redis.call('ZSCORE', keys.delayed, ref)
      or redis.call('SISMEMBER', keys.parked(batch), ref) == 1
      or tenant and redis.call('ZSCORE', keys.backlog(tenant), ref)
    if not stands then
      if tenant and tonumber(score) then
        to_backlog(ref)
        put = put + 1
      else
        gone[#gone + 1] = ref
      end
    end
  end
end
return {stay, put, gone}
