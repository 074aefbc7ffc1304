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
for _, key in ipairs({keys.tenants, keys.slots, keys.draining}) do
  clear(key, 'hash')
end
for _, key in ipairs({keys.leases, keys.delayed, keys.workers, keys.batches, keys.schedules}) do
  clear(key, 'zset')
end
clear(keys.open, 'set')
local tenants = redis.call('HGETALL', keys.tenants)
for i = 1, math.min(#tenants, 2 * most), 2 do
  clear(keys.backlog(tenants[i]), 'zset')
end
return removed
