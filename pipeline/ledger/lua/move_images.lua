-- ARGV: batch, ref, pod's UID or '', attempt, fence or '', target's name, target's code, codes it may come from
--       (comma-separated), names of all codes (comma-separated, in order), then image indices
-- Returns -1 if the caller has no right, -2 if a pod's job is not known here at all, else how many images moved; those in other states stay as they are.
local batch, ref, pod = ARGV[1], ARGV[2], ARGV[3]
if pod ~= '' then
  if redis.call('EXISTS', P .. 'job:' .. ref) == 0 then
    return -2
  end
  local claim = redis.call('HMGET', P .. 'job:' .. ref, 'pod', 'pod_attempt', 'attempt')
  if claim[1] ~= pod or claim[2] ~= ARGV[4] or claim[3] ~= ARGV[4] then
    return -1
  end
elseif not may_write(ref, ARGV[5]) then
  return -1
end
local target, code = ARGV[6], ARGV[7]
local from, names = {}, {}
for c in string.gmatch(ARGV[8], '[^,]+') do from[c] = true end
for name in string.gmatch(ARGV[9], '[^,]+') do names[#names + 1] = name end
local images, counts = P .. 'batch:' .. batch .. ':images', P .. 'batch:' .. batch .. ':counts'
local moved = 0
for i = 10, #ARGV do
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
