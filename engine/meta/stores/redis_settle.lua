-- What comes first on every connection (after redis_giver.lua): KEYS position, log. Where this server was not the last that committed, others may
-- know positions, and versions of rows, of commits that it lacks: no position of these is used again, and the log begins anew, at a gap
-- at which every follower drops what it has.

-- A script that comes to a command which the user may not run is ended halfway, and what it wrote stays: so none is begun. What is asked
-- about has as many arguments as the command takes at least.
local arguments = {
  [0] = 'DEL EXISTS GET GETEX HGETALL HKEYS HLEN LLEN PERSIST', 'EXPIRE HDEL HGET HMGET LINDEX RPUSH SET ZREM', 'HSET LRANGE LTRIM ZADD ZRANGEBYLEX',
}
if not redis.acl_check_cmd then return redis.error_reply('ERR it is too old: Redis 7.0 is needed') end
for n = 0, 2 do
  for name in string.gmatch(arguments[n], '%u+') do
    local is_known, may = pcall(redis.acl_check_cmd, name, prefix .. 'r', unpack({'0', '0'}, 1, n))
    if not is_known then return redis.error_reply("ERR it lacks the command '" .. name .. "' (rename-command)") end
    if not may then return redis.error_reply("NOPERM this user has no permissions to run the '" .. name .. "' command") end
  end
end

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
