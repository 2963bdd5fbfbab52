-- Records of the log after a position, and the one at it: KEYS position, log, bell; ARGV position, how many, 1: if there are none, the
-- next commit is to ring the bell (which is set while somebody wants that).
-- Replies {position of the newest, record at the position or false, records}, or {position} when some are gone or it was never reached.

-- A master that has become a replica may lag, and nobody would notice: a command that may write, and has nothing to, is refused there.
local refused = redis.pcall('PERSIST', KEYS[1])
if type(refused) == 'table' and string.find(refused.err or '', 'READONLY', 1, true) then return refused end

local newest, kept = tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('LLEN', KEYS[2])
local after = tonumber(ARGV[1])
local start = after - (newest - kept)
if start < 0 or after > newest then return {newest} end
local at = start > 0 and redis.call('LINDEX', KEYS[2], start - 1)
-- A server that takes no writes just now (memory, disk, rights) is asked often instead.
if ARGV[3] == '1' and after == newest and redis.call('EXISTS', KEYS[3]) == 0 then redis.pcall('SET', KEYS[3], '1') end
return {newest, at, redis.call('LRANGE', KEYS[2], start, start + tonumber(ARGV[2]) - 1)}
