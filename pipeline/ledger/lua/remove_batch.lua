-- ARGV: id, revision that must stand, incarnation, first job, end of jobs, whole (1: the batch itself, too)
local id = ARGV[1]
local key = P .. 'batch:' .. id
if redis.call('HGET', key, 'revision') ~= ARGV[2] or is_another(key, ARGV[3]) then
  return redis.call('EXISTS', key) == 0 and 1 or 0
end
for index = tonumber(ARGV[4]), tonumber(ARGV[5]) - 1 do
  local ref = string.format('%s/%05d', id, index)
  redis.call('DEL', P .. 'job:' .. ref, P .. 'ticket:' .. ref, P .. 'claim:' .. ref)
end
if ARGV[6] == '1' then
  redis.call('ZREM', P .. 'batches', id)
  redis.call('SREM', P .. 'open', id)
  redis.call('DEL', key .. ':counts', key .. ':images', key .. ':jobs', key .. ':begun', key .. ':parked', key .. ':events', key)
end
return 1
