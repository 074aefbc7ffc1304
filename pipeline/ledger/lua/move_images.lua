-- pod: its UID or ''; fence: or ''; code: the target's; sources: the codes that an image may move from; names: of all
-- codes in order; both comma-separated
-- Images in other states than `sources` are not changed.
-- incarnation: of the batch as the caller read it, or '' of a pod
-- Returns -1 if the caller may not, -2 if the ledger does not know the batch or a pod's job, -3 if the batch has another
-- incarnation, -4 if an index is none of the job's (or, where those are not known, of the batch's), else how many images
-- moved.
local batch, ref, incarnation, pod, attempt, token, fence, target, code, sources, names = unpack(ARGV, 1, 11)
local indices = arguments_after(11)
if batch_of(ref) ~= batch then
  return -1
end
if lacks_batch(batch, incarnation) then
  return redis.call('HGET', keys.batch(batch), 'revision') and -3 or -2
end
local ours = false -- the job's images, for a pod
if pod ~= '' then
  local ticket = redis.call('HMGET', keys.ticket(ref), 'attempt', 'token', 'indices')
  local claim = redis.call('HMGET', keys.claim(ref), 'attempt', 'pod')
  if not ticket[1] then
    return -2
  end
  if ticket[1] ~= attempt or ticket[2] ~= redis.sha1hex(token) or claim[1] ~= attempt or claim[2] ~= pod then
    return -1
  end
  ours = ticket[3]
elseif not may_write(ref, fence) then
  return -1
end
local may_leave, name_of = {}, {}
for one in string.gmatch(sources, '[^,]+') do may_leave[one] = true end
for name in string.gmatch(names, '[^,]+') do name_of[#name_of + 1] = name end
local images, counts = keys.images(batch), keys.counts(batch)
if not ours then
  local fields, total = {}, 0
  for place, name in ipairs(name_of) do fields[place] = 'image.' .. name end
  for _, count in ipairs(redis.call('HMGET', counts, unpack(fields))) do
    total = total + tonumber(count or '0')
  end
  ours = string.format('0-%.0f', math.max(total, 2 * redis.call('STRLEN', images)) - 1)
end
local function is_ours(index)
  local number = string.match(index, '^%d+$') and tonumber(index)
  for first, last in string.gmatch(ours, '(%d+)%-?(%d*)') do
    if number and number >= tonumber(first) and number <= tonumber(last ~= '' and last or first) then
      return true
    end
  end
  return false
end
for _, index in ipairs(indices) do
  if not is_ours(index) then
    return -4
  end
end
local moved = 0
for _, index in ipairs(indices) do
  local before = redis.call('BITFIELD', images, 'GET', IMAGE_BITS, '#' .. index)[1]
  if may_leave[tostring(before)] then
    redis.call('BITFIELD', images, 'SET', IMAGE_BITS, '#' .. index, code)
    redis.call('HINCRBY', counts, 'image.' .. name_of[before + 1], -1)
    redis.call('HINCRBY', counts, 'image.' .. target, 1)
    if target ~= 'running' and target ~= 'queued' then
      add_event(batch, 'image', index, target)
    end
    moved = moved + 1
  end
end
return moved
