-- expected: the revision that the record must have now (0: must not exist); final: 1 or 0
-- cut_into: how many jobs the record says that it has, or ''
-- jobs, reopened: how many jobs the ledger must have of it, and how often some were opened again; '': whatever there is
-- ended: 1 if all of them must have ended
-- Returns 1, 0 if the record has another revision or incarnation, or what there is instead of what must be, as text.
local id, expected, state, record, final, images, created_ms, incarnation, cut_into, jobs, reopened, ended =
  unpack(ARGV)
local batch = keys.batch(id)
local revision = redis.call('HGET', batch, 'revision') or '0'
if revision ~= expected or is_of_another_incarnation(batch, incarnation) then
  return 0
end
if jobs ~= '' or reopened ~= '' or ended == '1' then
  local there, opened_again = 0, '0'
  local counts = redis.call('HGETALL', keys.counts(id))
  for i = 1, #counts, 2 do
    local name, count = counts[i], counts[i + 1]
    if string.match(name, '^job%.') then
      there = there + count
    elseif name == 'reopened' then
      opened_again = count
    end
  end
  local unfinished = redis.call('ZCARD', keys.jobs(id))
  if
    (jobs ~= '' and there ~= tonumber(jobs))
    or (reopened ~= '' and opened_again ~= reopened)
    or (ended == '1' and unfinished > 0)
  then
    return string.format('%d jobs, %d of them without an end, %s opened again', there, unfinished, opened_again)
  end
end
redis.call(
  'HSET', batch, 'record', record, 'state', state, 'revision', revision + 1, 'incarnation', incarnation,
  'cut_at', revision + 1, 'cut_into', cut_into
)
if expected == '0' then
  -- What may be left of a batch of this id whose record was lost.
  redis.call('DEL', keys.counts(id), keys.images(id), keys.jobs(id), keys.begun(id), keys.parked(id))
  redis.call('ZADD', keys.batches, created_ms, id)
  redis.call('HSET', keys.counts(id), 'image.queued', images)
end
if final == '1' then
  redis.call('SREM', keys.open, id)
else
  redis.call('SADD', keys.open, id)
end
add_event(id, 'batch', id, state)
watch(id)
return 1
