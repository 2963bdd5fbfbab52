-- Rows of several partitions from one moment: KEYS partitions; ARGV number of a partition, field, and so on.

local found = {}
for i = 1, #ARGV, 2 do found[#found + 1] = redis.call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
return found
