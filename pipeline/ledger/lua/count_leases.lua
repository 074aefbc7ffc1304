-- Counts anew how many leases each tenant has, of so many leases. Returns how many there are.
local most = unpack(ARGV)
local tenants = redis.call('HGETALL', keys.tenants)
for i = 1, #tenants, 2 do
  redis.call('HSET', keys.tenants, tenants[i], 0)
end
local leases = redis.call('ZRANGE', keys.leases, 0, most - 1)
for _, ref in ipairs(leases) do
  local tenant = of_own_type('HGET', keys.job(ref), 'tenant')
  if tenant then
    redis.call('HINCRBY', keys.tenants, tenant, 1)
  end
end
return #leases
