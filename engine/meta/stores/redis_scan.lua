-- A page of a partition in order of its fields: KEYS hash, index; ARGV first or "" (inclusive if it begins with "[", exclusive with "("), end
-- ("(BYTES" or "+"), how many. Replies {field, row, ...}; all of the partition, in no order, when it is too small to have an index.

local hash, index = KEYS[1], KEYS[2]
if redis.call('EXISTS', index) == 0 then return redis.call('HGETALL', hash) end
local fields = redis.call('ZRANGEBYLEX', index, ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local found = {}
for first = 1, #fields, 1000 do
  local last = math.min(first + 999, #fields)
  local rows = redis.call('HMGET', hash, unpack(fields, first, last))
  for i, row in ipairs(rows) do
    found[#found + 1] = fields[first + i - 1]
    found[#found + 1] = row
  end
end
return found
