-- What comes first on every connection (after redis_giver.lua): KEYS position, log. Where this server was not the last that committed, others may
-- know positions, and versions of rows, of commits that it lacks: no position of these is used again, and the log begins anew, at a gap
-- at which every follower drops what it has.

local position = redis.call('GET', KEYS[1])
if not position or string.find(redis.call('INFO', 'replication'), 'role:slave', 1, true) then return 0 end
local last = redis.call('HGET', givers, 'position')
if last == me() then return 0 end
local run = redis.call('GET', prefix .. 'streak') -- what a destroyed volume has left there stays
redis.call('DEL', prefix .. 'streak') -- first: what frees memory is done where that is full, and then what is behind it; else nothing could be read
redis.call('HSET', givers, 'position', me())
if run and #run > 24 then redis.call('SET', prefix .. 'streak', string.rep('\0', 24) .. string.sub(run, 25)) end
if not last then return 0 end -- a volume that was just made
redis.call('SET', KEYS[1], string.format('%.0f', tonumber(position) + jump()))
redis.call('DEL', KEYS[2])
if redis.call('DEL', prefix .. 'bell') == 1 then redis.pcall('PUBLISH', prefix .. 'bell', '') end
return 1
