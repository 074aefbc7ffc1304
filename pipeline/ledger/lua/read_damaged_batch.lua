-- Makes what stands beside the damaged record of a batch fit for the steps that replace it, or remove it.
-- Returns false if there is no such batch, else {revision, incarnation, state or false}.
local id = unpack(ARGV)
local batch, events = keys.batch(id), keys.events(id)
local kind = redis.call('TYPE', batch).ok
if kind == 'none' then
  return false
end
if kind ~= 'hash' then
  redis.call('DEL', batch)
end
if redis.call('TYPE', events).ok ~= 'stream' then
  redis.call('DEL', events)
end
if not string.match(redis.call('HGET', batch, 'revision') or '', '^[1-9]%d*$') then
  redis.call('HSET', batch, 'revision', 1)
end
redis.call('HSETNX', batch, 'incarnation', 'damaged')
return redis.call('HMGET', batch, 'revision', 'incarnation', 'state')
