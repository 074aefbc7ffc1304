-- Removes what stands in the place of a queue or a list of the ledger and is none, so that others can be put there again.
-- Looks at so many tenants. Returns the keys.
local most = unpack(ARGV)
local removed = {}
local function clear(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= wanted then
    redis.call('DEL', key)
    removed[#removed + 1] = key
  end
end
for _, key in ipairs({keys.tenants, keys.slots, keys.draining, keys.generation, keys.endpoints, keys.tokens}) do
  clear(key, 'hash')
end
for _, key in ipairs({
  keys.leases, keys.delayed, keys.workers, keys.batches, keys.schedules, keys.deliveries, keys.undelivered,
}) do
  clear(key, 'zset')
end
for _, key in ipairs({keys.open, keys.watched, keys.speeds}) do
  clear(key, 'set')
end
local standing = redis.call('HMGET', keys.generation, 'token', 'sequence', 'server', 'doubt')
local is_whole = standing[1] and string.match(standing[2] or '', '^%d+$') and standing[3] and standing[4]
if not is_whole and redis.call('DEL', keys.generation) == 1 then
  removed[#removed + 1] = keys.generation
end
local tenants = redis.call('HGETALL', keys.tenants)
for i = 1, math.min(#tenants, 2 * most), 2 do
  clear(keys.backlog(tenants[i]), 'zset')
  if not string.match(tenants[i + 1], '^%-?%d+$') then
    redis.call('HSET', keys.tenants, tenants[i], 0)
    removed[#removed + 1] = keys.tenants
  end
end
return removed
