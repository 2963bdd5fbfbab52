-- One commit of the store contract (base.py), after redis_giver.lua, atomically: check all conditions, compute all effects, then apply them.
--
-- KEYS   1 position (decimal)   2 log (list, newest last)   3 done (hash of this client)   4.. partitions (hashes)
-- ARGV   1 slot   2 number of the commit in its slot   3 log record   4 records to keep   5 partitions larger than this have an index
--        6 number of conditions, then each condition, then each effect:
--        e P F   a P F   u P F VERSION   s P F VERSION             exists, absent, unchanged, not since
--        m P F OFFSET N LIMIT                                      at most
--        p P F VALUE   d P F   + P F OFFSET N   > P F OFFSET BYTES  put, delete, add, max
--        n P F OFFSET N                                            add, giving out numbers
--        P is the number of a partition among KEYS, F the field
-- A field of a partition is the version (8 bytes, big-endian), then the value. The index of a partition is a sorted set
-- of its fields, under the same name but for "x" in the place of "r" after the hash tag.
--
-- Replies {1, position, {field after each add}, {P, F, value, ...} of rows with an add or max}, or {0, number of what does not hold, row or
-- false}: conditions count from 1, effects go on. A client that was not answered asks again with the same number and gets the same reply.

local slot, number = ARGV[1], tonumber(ARGV[2])
local done = redis.call('HGET', KEYS[3], slot)
if done then
  local last = cmsgpack.unpack(done)
  if last[1] == number then return last[2] end
  if last[1] > number then return redis.error_reply('LATE this commit was given up by its client') end
end

local at = 7
local function take(n)
  at = at + n
  return unpack(ARGV, at - n, at - 1)
end

local before, after, order, counted = {}, {}, {}, {}

local function row(part, field)
  local id = part .. ' ' .. field
  if before[id] == nil then before[id] = redis.call('HGET', KEYS[tonumber(part)], field) end
  return id, before[id]
end

local function number_at(value, offset)
  if #value < offset + 8 then return 0 end
  return (struct.unpack('>i8', value, offset + 1))
end

local function with_field(value, offset, bytes)
  if #value < offset then value = value .. string.rep('\0', offset - #value) end
  return string.sub(value, 1, offset) .. bytes .. string.sub(value, offset + 9)
end

-- Strings are compared by the server's locale otherwise.
local function is_less(a, b)
  local n = math.min(#a, #b)
  for i = 1, n do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local gave = {}

-- What a counter of numbers is further on. Asked for no numbers, it only says who gives them.
local function skipped(counter, n)
  if redis.call('HGET', givers, counter) == me() then return 0 end
  gave[#gave + 1] = counter
  return n > 0 and jump() or 0
end

local n_conditions = tonumber(ARGV[6])
for i = 1, n_conditions do
  local op, part, field = take(3)
  local _, raw = row(part, field)
  local holds
  if op == 'e' then holds = raw
  elseif op == 'a' then holds = not raw
  elseif op == 'u' then holds = raw and string.sub(raw, 1, 8) == take(1)
  elseif op == 's' then
    local newest = take(1)
    holds = not raw or not is_less(newest, string.sub(raw, 1, 8))
  else
    local offset, n, limit = take(3)
    holds = number_at(raw and string.sub(raw, 9) or '', tonumber(offset)) + tonumber(n) <= tonumber(limit)
  end
  if not holds then return {0, i, raw} end
end

local position = tonumber(redis.call('GET', KEYS[1]) or '0')
if at > #ARGV then return {1, position, {}, {}} end

local totals, i = {}, n_conditions
while at <= #ARGV do
  i = i + 1
  local op, part, field = take(3)
  local id, raw = row(part, field)
  if after[id] == nil then order[#order + 1] = {id, part, field} end
  local value = after[id]
  if value == nil then value = raw and string.sub(raw, 9) end
  if op == 'p' then value = take(1)
  elseif op == 'd' then value = false
  elseif op == '+' or op == 'n' then
    local offset, n = take(2)
    offset = tonumber(offset)
    local present = number_at(value or '', offset)
    n = tonumber(n)
    if op == 'n' then n = n + skipped(KEYS[tonumber(part)] .. ' ' .. field .. ' ' .. offset, n) end
    if n > 2^53 - present or n < -2^53 - present then return redis.error_reply('RANGE') end
    local total = present + n
    totals[#totals + 1] = total
    value = with_field(value or '', offset, struct.pack('>i8', total))
    counted[id] = true
  else
    local offset, bytes = take(2)
    offset = tonumber(offset)
    if not value then return {0, i, raw} end
    if is_less(string.sub(value, offset + 1, offset + 8), bytes) then value = with_field(value, offset, bytes) end
    counted[id] = true
  end
  after[id] = value
end

position = position + 1
local version = struct.pack('>I8', position)
local rows = {}
local index_from = tonumber(ARGV[5])

local function keep_index(hash, field, is_new)
  local tag = string.find(hash, '}', 1, true)
  local index = string.sub(hash, 1, tag) .. 'x' .. string.sub(hash, tag + 2)
  if redis.call('EXISTS', index) == 1 then
    if is_new then redis.call('ZADD', index, 0, field) else redis.call('ZREM', index, field) end
  elseif is_new and redis.call('HLEN', hash) > index_from then
    for _, each in ipairs(redis.call('HKEYS', hash)) do redis.call('ZADD', index, 0, each) end
  end
end

for _, changed in ipairs(order) do
  local id, part, field = unpack(changed)
  local hash, value = KEYS[tonumber(part)], after[id]
  if value then
    if redis.call('HSET', hash, field, version .. value) == 1 then keep_index(hash, field, true) end
  elseif redis.call('HDEL', hash, field) == 1 then
    keep_index(hash, field, false)
  end
  if counted[id] then
    local n = #rows
    rows[n + 1], rows[n + 2], rows[n + 3] = tonumber(part), field, value
  end
end

for _, counter in ipairs(gave) do redis.call('HSET', givers, counter, me()) end
redis.call('SET', KEYS[1], string.format('%.0f', position))
-- The run of commits by one origin that ends with this one: origin, position of its first, of its last, 8 bytes each.
local streak, origin = prefix .. 'streak', string.sub(ARGV[3], 1, 8)
local run, first = redis.call('GET', streak), version
if run and string.sub(run, 1, 8) == origin and string.sub(run, 17) == struct.pack('>I8', position - 1) then first = string.sub(run, 9, 16) end
redis.call('SET', streak, origin .. first .. version)
local keep = tonumber(ARGV[4])
if redis.call('RPUSH', KEYS[2], ARGV[3]) > 2 * keep then redis.call('LTRIM', KEYS[2], -keep, -1) end
local reply = {1, position, totals, rows}
local bell = prefix .. 'bell'
if redis.call('DEL', bell) == 1 then redis.pcall('PUBLISH', bell, '') end -- an ACL user may lack the channel
redis.call('HSET', KEYS[3], slot, cmsgpack.pack({number, reply}))
redis.call('EXPIRE', KEYS[3], 86400)
return reply
