local kind = unpack(ARGV, 1, 1)
local amounts = arguments_after(1) -- names of sums, each followed by what to add to it
redis.call('SADD', keys.speeds, kind)
for i = 1, #amounts, 2 do
  redis.call('HINCRBYFLOAT', keys.speed(kind), amounts[i], amounts[i + 1])
end
