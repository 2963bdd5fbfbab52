-- A row and the one it names: KEYS partition; ARGV field, what the other partition's key begins with, field there. The rest of that key is
-- the first 8 bytes of the value. Replies {row or false, row or false}.

local row = redis.call('HGET', KEYS[1], ARGV[1])
return {row, row and redis.call('HGET', ARGV[2] .. string.sub(row, 9, 16), ARGV[3])}
