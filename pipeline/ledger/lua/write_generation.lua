-- expected_token, expected_sequence: of the generation that it must have now ('': none)
-- server: on which it was last found to agree with the bucket; doubt: why it has to be compared with it, or ''
-- Returns 1, or 0 if the ledger has another generation.
local expected_token, expected_sequence, token, sequence, server, doubt = unpack(ARGV)
local key, now = keys.generation, now_ms()
local found = redis.call('HMGET', key, 'token', 'sequence', 'doubt')
if (found[1] or '') ~= expected_token or (found[2] or '') ~= expected_sequence then
  return 0
end
redis.call('HSET', key, 'token', token, 'sequence', sequence, 'server', server, 'doubt', doubt)
if doubt == '' then
  redis.call('HSET', key, 'good_ms', now)
elseif (found[3] or '') == '' then
  redis.call('HSET', key, 'since_ms', now)
end
return 1
