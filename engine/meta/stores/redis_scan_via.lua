-- A page of a partition with the rows that it names: KEYS hash, index; ARGV from where ("(FIELD" or "-"), how many rows, what the key of a named
-- row's partition begins with, its field there. Replies the page.

return page(KEYS[1], KEYS[2], ARGV[1], '+', ARGV[2], ARGV[3], ARGV[4])
