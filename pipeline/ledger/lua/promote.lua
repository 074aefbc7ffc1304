local limit = unpack(ARGV)
return promote(tonumber(limit))
