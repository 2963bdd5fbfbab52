-- A row, the one it names, and rows beside it: KEYS hash, index, position, run; ARGV field, what the key of a named row's partition begins with, its
-- field there, most rows for which the partition is given whole, rows to give otherwise, from where ("(FIELD" or "-"),
-- origin of whoever asks. Replies {row or "", named row or "", position of the newest commit that is not one of the asking origin's latest, rows of the partition, page}.

local hash, index = KEYS[1], KEYS[2]
local row = redis.call('HGET', hash, ARGV[1]) or ''
local named = row ~= '' and redis.call('HGET', ARGV[2] .. string.sub(row, 9, 16), ARGV[3]) or ''
local n_rows, beside = redis.call('HLEN', hash), ''
if n_rows <= tonumber(ARGV[4]) then
  beside = page(hash, index, '-', '+', nil, ARGV[2], ARGV[3])
elseif tonumber(ARGV[5]) > 0 then
  beside = page(hash, index, ARGV[6], '+', ARGV[5], ARGV[2], ARGV[3])
end
local position = tonumber(redis.call('GET', KEYS[3]) or '0')
local run = redis.call('GET', KEYS[4])
if run and string.sub(run, 1, 8) == ARGV[7] and string.sub(run, 17) == struct.pack('>I8', position) then
  position = struct.unpack('>I8', run, 9) - 1
end
return {row, named, position, n_rows, beside}
