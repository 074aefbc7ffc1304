-- ARGV: ref, fence. Hands the job to whoever claims next; what runs for it goes on. Returns 1, or 0 if it was not ours.
if ARGV[2] == '' or not may_write(ARGV[1], ARGV[2]) then
  return 0
end
drop_lease(ARGV[1])
to_backlog(ARGV[1])
return 1
