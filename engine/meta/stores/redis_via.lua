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
  beside = page(hash, index, ARGV[6], '+', tonumber(ARGV[5]), ARGV[2], ARGV[3])
end
return {row, named, newest(KEYS[3], KEYS[4], ARGV[7]), n_rows, beside}
