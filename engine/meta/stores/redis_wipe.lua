-- Before a volume's keys are deleted: KEYS streak; ARGV what is to stand there. Afterwards: KEYS log, position; ARGV the log's only record.
-- Leaving out one position makes the gap at which every follower drops what it has.

redis.call('DEL', KEYS[1]) -- first: a server whose memory is full takes what is behind that
if #KEYS == 1 then return redis.call('SET', KEYS[1], ARGV[1]) end
local position = string.format('%.0f', tonumber(redis.call('GET', KEYS[2]) or '0') + 2)
redis.call('RPUSH', KEYS[1], ARGV[1])
return redis.call('SET', KEYS[2], position)
