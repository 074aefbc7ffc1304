-- state, attempts: of the delivery as its writer read it; due_ms: when it is tried next, or '' if it is not
-- Returns 1, or 0 if it has moved on since.
local id, state, attempts, record, due_ms, kept_s = unpack(ARGV)
local found = redis.call('GET', keys.delivery(id))
local before = found and cjson.decode(found)
if not before or before.state ~= state or before.attempts ~= tonumber(attempts) then
  return 0
end
redis.call('SET', keys.delivery(id), record, 'EX', kept_s)
if due_ms == '' then
  redis.call('ZREM', keys.undelivered, id)
else
  redis.call('ZADD', keys.undelivered, due_ms, id)
end
return 1
