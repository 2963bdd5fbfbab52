-- Put before the scripts that need it.
-- A page of a partition and, if `other` is given, the row that each of its rows names: of the hash whose name is `other` and the first 8 bytes
-- of the value, under `subkey`. In order of fields, except that a partition too small to have an index, or to have more than `limit` rows if it
-- is asked for from its beginning, comes whole and in no order, as it does with no `limit`: of a hash of up to 512 fields, which Redis keeps in
-- one piece of memory, HMGET of many is quadratic.
-- One string, as ext/page_impl.h has it: a client takes that apart in a fraction of the time that it needs for so many replies.

local call, pack, sub = redis.call, struct.pack, string.sub

local function page(hash, index, first, last, limit, other, subkey)
  local found, n = {}, 0
  local function put(field, row)
    local named = other and call('HGET', other .. sub(row, 9, 16), subkey) or ''
    found[n + 1] = pack('>I2I4I4', #field, #row, #named)
    found[n + 2], found[n + 3], found[n + 4] = field, row, named
    n = n + 4
  end
  if not limit or (first == '-' and call('HLEN', hash) <= limit) or call('EXISTS', index) == 0 then
    local flat = call('HGETALL', hash)
    for i = 1, #flat, 2 do put(flat[i], flat[i + 1]) end
    return table.concat(found)
  end
  local fields = call('ZRANGEBYLEX', index, first, last, 'LIMIT', 0, limit)
  for begin = 1, #fields, 1000 do
    local rows = call('HMGET', hash, unpack(fields, begin, math.min(begin + 999, #fields)))
    for i, row in ipairs(rows) do put(fields[begin + i - 1], row) end
  end
  return table.concat(found)
end

