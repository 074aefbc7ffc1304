-- Returns which of these works are due, each to one caller only: those that were last done at least every_ms ago, or
-- before the clock was set back, and that do not rest.
local first, every_ms = unpack(ARGV, 1, 2)
local asked = {first, every_ms, unpack(arguments_after(2))} -- names, each followed by its every_ms
local found, now = {}, now_ms()
for i = 1, #asked, 2 do
  local name, every = asked[i], tonumber(asked[i + 1])
  local rest = redis.call('PTTL', keys.rest(name))
  local last = redis.pcall('GET', keys.due(name))
  last = type(last) == 'string' and tonumber(last) or 0 -- else something else lies there, which is replaced
  if rest < 0 and (now < last or now - last >= every) then -- a rest that does not end is none
    redis.call('SET', keys.due(name), now)
    found[#found + 1] = name
  end
end
return found
