-- A page of a partition with the rows that it names, and the row that it belongs to: KEYS hash, index, hash of the latter; ARGV from where
-- ("(FIELD" or "-"), how many rows, what the key of a named row's partition begins with, its field there (and that of the row it belongs to),
-- 1: with named rows.
-- Replies {row or "", page}.

local owner = redis.call('HGET', KEYS[3], ARGV[4]) or ''
return {owner, page(KEYS[1], KEYS[2], ARGV[1], '+', ARGV[2], ARGV[5] == '1' and ARGV[3], ARGV[4])}
