-- ARGV: kind of job, then names of sums and what to add to each, in turn
redis.call('SADD', P .. 'speeds', ARGV[1])
for i = 2, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', P .. 'speed:' .. ARGV[1], ARGV[i], ARGV[i + 1])
end
