-- ARGV: limit
return promote(tonumber(ARGV[1]))
