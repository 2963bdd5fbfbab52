-- A page of a partition with the rows that it names, and the row that it belongs to: KEYS hash, index, hash of the latter, position, run; ARGV
-- from where ("(FIELD" or "-"), how many rows, what the key of a named row's partition begins with, its field there (and that of the row it
-- belongs to), 1: with named rows, origin of whoever asks.
-- Replies {row or "", page, position of the newest commit that is not one of the asking origin's latest}.

local owner = redis.call('HGET', KEYS[3], ARGV[4]) or ''
local found = page(KEYS[1], KEYS[2], ARGV[1], '+', tonumber(ARGV[2]), ARGV[5] == '1' and ARGV[3], ARGV[4])
return {owner, found, newest(KEYS[4], KEYS[5], ARGV[6])}
