-- ARGV: batch, ref, pod's UID or '', attempt, its token, fence or '', target's name, target's code, codes it may come
--       from (comma-separated), names of all codes (comma-separated, in order), then image indices
-- Returns -1 if the caller has no right, -2 if a pod's job is not known here at all, else how many images moved; those
-- in other states stay as they are.
local batch, ref, pod, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if string.match(ref, '^(.*)/') ~= batch then
  return -1
end
if pod ~= '' then
  local ticket = redis.call('HMGET', P .. 'ticket:' .. ref, 'attempt', 'token')
  local claim = redis.call('HMGET', P .. 'claim:' .. ref, 'attempt', 'pod')
  if not ticket[1] then
    return -2
  end
  if ticket[1] ~= attempt or ticket[2] ~= redis.sha1hex(ARGV[5]) or claim[1] ~= attempt or claim[2] ~= pod then
    return -1
  end
elseif not may_write(ref, ARGV[6]) then
  return -1
end
local target, code = ARGV[7], ARGV[8]
local from, names = {}, {}
for c in string.gmatch(ARGV[9], '[^,]+') do from[c] = true end
for name in string.gmatch(ARGV[10], '[^,]+') do names[#names + 1] = name end
local images, counts = P .. 'batch:' .. batch .. ':images', P .. 'batch:' .. batch .. ':counts'
local moved = 0
for i = 11, #ARGV do
  local before = redis.call('BITFIELD', images, 'GET', 'u4', '#' .. ARGV[i])[1]
  if from[tostring(before)] then
    redis.call('BITFIELD', images, 'SET', 'u4', '#' .. ARGV[i], code)
    redis.call('HINCRBY', counts, 'image.' .. names[before + 1], -1)
    redis.call('HINCRBY', counts, 'image.' .. target, 1)
    if target ~= 'running' and target ~= 'queued' then
      tell(batch, 'image', ARGV[i], target)
    end
    moved = moved + 1
  end
end
return moved
