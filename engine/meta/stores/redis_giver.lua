-- Numbers are given out by one server after another. One that was not the last (it took over, or has been restarted) may lack that more of
-- them are in use than it says here: it goes on beyond all that can be, each server by a way of its own, since one before it may have
-- done so and be lost. KEYS[1] is the position.

local STEP = 2^26 -- more than is taken within what can be lost
local prefix = string.sub(KEYS[1], 1, -#'position' - 1)
local givers, known = prefix .. 'givers', nil

local function me()
  if not known then
    local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
    known = run .. (string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or '') -- which changes with each promotion
  end
  return known
end

local function jump() -- 2^37 on average, of 2^53
  return STEP * (1 + tonumber(string.sub(redis.sha1hex(me()), 1, 3), 16))
end

