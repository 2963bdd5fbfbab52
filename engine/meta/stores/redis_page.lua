-- Put before the scripts that need it.
-- A page of a partition and the row that each of its rows names: of the hash whose name is `other` and the first 8 bytes of the value, under
-- `subkey`. In order of fields, except that a partition too small to have an index comes whole and in no order, as it does with no `limit`.
-- One string of, for each row, its lengths (u16 field, u32 row, u32 named row: 0 when there is none, big-endian), field, row, named row:
-- a client takes that apart in a fraction of the time that it needs for so many replies.

local function page(hash, index, first, last, limit, other, subkey)
  local found = {}
  local function put(field, row)
    local named = redis.call('HGET', other .. string.sub(row, 9, 16), subkey) or ''
    found[#found + 1] = struct.pack('>I2I4I4', #field, #row, #named)
    found[#found + 1] = field
    found[#found + 1] = row
    found[#found + 1] = named
  end
  if not limit or redis.call('EXISTS', index) == 0 then
    local flat = redis.call('HGETALL', hash)
    for i = 1, #flat, 2 do put(flat[i], flat[i + 1]) end
    return table.concat(found)
  end
  local fields = redis.call('ZRANGEBYLEX', index, first, last, 'LIMIT', 0, limit)
  for begin = 1, #fields, 1000 do
    local rows = redis.call('HMGET', hash, unpack(fields, begin, math.min(begin + 999, #fields)))
    for i, row in ipairs(rows) do put(fields[begin + i - 1], row) end
  end
  return table.concat(found)
end

