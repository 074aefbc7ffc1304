-- ARGV: name, revision that must stand (0: must not exist), its revision then, record, when it is due (ms),
--       firing or '', firings kept
local name, key = ARGV[1], P .. 'schedule:' .. ARGV[1]
if (redis.call('HGET', key, 'revision') or '0') ~= ARGV[2] then
  return 0
end
redis.call('HSET', key, 'record', ARGV[4], 'revision', ARGV[3])
redis.call('ZADD', P .. 'schedules', ARGV[5], name)
if ARGV[6] ~= '' then
  redis.call('LPUSH', key .. ':firings', ARGV[6])
  redis.call('LTRIM', key .. ':firings', 0, ARGV[7] - 1)
end
return 1
