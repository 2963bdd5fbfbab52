-- Put before the scripts that need it.
-- The position of the newest commit that is not one of the latest of `origin`: what others have committed is up to there.

local function newest(position_key, streak_key, origin)
  local position = tonumber(redis.call('GET', position_key) or '0')
  local run = redis.call('GET', streak_key)
  if run and string.sub(run, 1, 8) == origin and string.sub(run, 17, 24) == struct.pack('>I8', position) then
    return struct.unpack('>I8', run, 9) - 1
  end
  return position
end

