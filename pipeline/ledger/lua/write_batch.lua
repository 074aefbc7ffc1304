-- ARGV: id, revision that must stand (0: must not exist), state, record, final (1/0), images, created_ms, incarnation
local id, expected, state, record, final = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local key = P .. 'batch:' .. id
local revision = redis.call('HGET', key, 'revision') or '0'
if revision ~= expected or is_another(key, ARGV[8]) then
  return 0
end
redis.call('HSET', key, 'record', record, 'state', state, 'revision', revision + 1, 'incarnation', ARGV[8])
if expected == '0' then
  redis.call('ZADD', P .. 'batches', ARGV[7], id)
  redis.call('HSET', key .. ':counts', 'image.queued', ARGV[6])
end
if final == '1' then
  redis.call('SREM', P .. 'open', id)
else
  redis.call('SADD', P .. 'open', id)
end
tell(id, 'batch', id, state)
return 1
