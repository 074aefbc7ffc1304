-- Returns the state of each of these batches, in their order; '' of one that is not known here.
local first = unpack(ARGV, 1, 1)
local found = {}
for _, id in ipairs({first, unpack(arguments_after(1))}) do
  local state = redis.pcall('HGET', keys.batch(id), 'state')
  found[#found + 1] = type(state) == 'string' and state or ''
end
return found
