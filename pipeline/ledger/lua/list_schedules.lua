-- Returns record and last firing of each of these schedules, in their order; '' for what is not there. One request for
-- a page, because a thousand commands in a pipeline cost the client more than reading what they answer.
local first = unpack(ARGV, 1, 1)
local found = {}
for _, name in ipairs({first, unpack(arguments_after(1))}) do
  -- A key of another type is an unreadable record, and not the end of the list.
  local record = redis.pcall('HGET', keys.schedule(name), 'record')
  local last = redis.pcall('LRANGE', keys.firings(name), 0, 0)
  found[#found + 1] = type(record) == 'table' and '?' or record or ''
  found[#found + 1] = last[1] or ''
end
return found
