-- expected: the revision it must have now (0: must not exist); due_ms: a time, -inf or +inf; firing: or ''
-- Returns 1, or 0 if the record has another revision.
local name, expected, revision, record, due_ms, firing, firings_kept = unpack(ARGV)
local schedule = keys.schedule(name)
if (redis.call('HGET', schedule, 'revision') or '0') ~= expected then
  return 0
end
redis.call('HSET', schedule, 'record', record, 'revision', revision)
redis.call('ZADD', keys.schedules, due_ms, name)
if firing ~= '' then
  redis.call('LPUSH', keys.firings(name), firing)
  redis.call('LTRIM', keys.firings(name), 0, firings_kept - 1)
end
return 1
