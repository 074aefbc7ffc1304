local kind = unpack(ARGV, 1, 1)
local amounts = arguments_after(1) -- names of sums, each followed by what to add to it
redis.call('SADD', keys.speeds, kind)
local function add()
  for i = 1, #amounts, 2 do
    local sum = redis.pcall('HINCRBYFLOAT', keys.speed(kind), amounts[i], amounts[i + 1])
    if type(sum) == 'table' or tonumber(sum) < 0 then
      return false
    end
  end
  return true
end
if not add() then
  redis.call('DEL', keys.speed(kind)) -- something else lies there: what was learned begins anew
  add()
end
