-- One commit of the store contract (base.py), after redis_giver.lua, atomically: check all conditions, compute all effects, then apply them.
--
-- KEYS   1 position (decimal)   2 log (list, newest last)   3 done (hash of this client)   4.. partitions (hashes)
-- ARGV   1 slot   2 number of the commit in its slot   3 log record   4 records to keep (and an eighth)   5 partitions larger than this have an index
--        6 three arrays of MessagePack, one behind the other: rows, conditions, effects (ext/steps)
--          P F                      of each row: P is the number of its partition among KEYS, F the field; R below is its number, from 1
--          e R   a R   u R VERSION   s R VERSION   m R OFFSET N LIMIT   exists, absent, unchanged, not since, at most
--          p R VALUE   d R   + R OFFSET N UNUSED   > R OFFSET BYTES     put, delete, add (giving out numbers), max
-- A field of a partition is the version (8 bytes, big-endian), then the value. The index of a partition is a sorted set
-- of its fields, under the same name but for "x" in the place of "r" after the hash tag.
--
-- Replies {1, position, {field after each add}, {R, value, ...} of rows with an add or max}, or {0, number of what does not hold, row or
-- false}: conditions count from 1, effects go on. A client that was not answered asks again with the same number and gets the same reply.

local call = redis.call
local slot, number = ARGV[1], tonumber(ARGV[2])
local done = call('HGET', KEYS[3], slot) -- the number of the latest commit (8 bytes, big-endian), its reply
if done then
  local last = struct.unpack('>I8', done)
  if last == number then
    call('EXPIRE', KEYS[3], 86400) -- it is written so that WAIT waits for replicas on this connection, too
    return cmsgpack.unpack(string.sub(done, 9))
  end
  if last > number then return redis.error_reply('LATE this commit was given up by its client') end
end

local rows, conditions, effects = cmsgpack.unpack(ARGV[6])
local before, after, order, counted = {}, {}, {}, {}

local function row(r)
  local found = before[r]
  if found == nil then
    found = call('HGET', KEYS[rows[2 * r - 1]], rows[2 * r])
    before[r] = found
  end
  return found
end

local function version_of(row)
  return #row < 8 and -1 or (struct.unpack('>I8', row))
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

-- The run of commits by one origin that ends with the latest commit: origin, position of its first, of its last, 8 bytes each. Then, where
-- a volume was destroyed, the first session that is not one of that volume: earlier ones were not told.
local streak, origin = prefix .. 'streak', string.sub(ARGV[3], 1, 8)
local run = call('GET', streak)
local first_session = run and string.sub(run, 25) or ''
if first_session ~= '' and is_less(origin, first_session) and origin ~= string.rep('\0', 8) then
  return redis.error_reply('FORMER the volume of this session was destroyed')
end

local gave = {}

-- What a counter of numbers is further on. Asked for no numbers, it only says who gives them.
local function skipped(counter, n)
  if call('HGET', givers, counter) == me() then return 0 end
  gave[#gave + 1] = counter
  return n > 0 and jump() or 0
end

local i, at = 0, 1 -- steps, and where the next one is
while at <= #conditions do
  i = i + 1
  local op, raw, holds = conditions[at], row(conditions[at + 1]), nil
  at = at + 2
  if op == 'e' then holds = raw
  elseif op == 'a' then holds = not raw
  elseif op == 'u' then
    holds = raw and version_of(raw) == conditions[at]
    at = at + 1
  elseif op == 's' then
    holds = not raw or version_of(raw) <= conditions[at]
    at = at + 1
  else
    holds = number_at(raw and string.sub(raw, 9) or '', conditions[at]) + conditions[at + 1] <= conditions[at + 2]
    at = at + 3
  end
  if not holds then return {0, i, raw} end
end

local position = tonumber(call('GET', KEYS[1]) or '0')
if #effects == 0 then return {1, position, {}, {}} end

local totals = {}
at = 1
while at <= #effects do
  i = i + 1
  local op, r = effects[at], effects[at + 1]
  local raw, value = nil, after[r]
  if value == nil then
    order[#order + 1] = r
    if op ~= 'p' and op ~= 'd' then
      raw = row(r)
      value = raw and string.sub(raw, 9)
    end
  end
  if op == 'p' then
    value = effects[at + 2]
    at = at + 3
  elseif op == 'd' then
    value = false
    at = at + 2
  else
    local offset = effects[at + 2]
    if op == '+' then
      local n, present = effects[at + 3], number_at(value or '', offset)
      if effects[at + 4] then n = n + skipped(KEYS[rows[2 * r - 1]] .. ' ' .. rows[2 * r] .. ' ' .. string.format('%.0f', offset), n) end
      if n > 2^53 - present or n < -2^53 - present then return redis.error_reply('RANGE') end
      local total = present + n
      totals[#totals + 1] = total
      value = with_field(value or '', offset, struct.pack('>i8', total))
      at = at + 5
    else
      if not value then return {0, i, row(r)} end
      local bytes = effects[at + 3]
      if is_less(string.sub(value, offset + 1, offset + 8), bytes) then value = with_field(value, offset, bytes) end
      at = at + 4
    end
    counted[r] = true
  end
  after[r] = value
end

-- A right may be taken from the user at any time, and what was written until a command is refused stays. So one of each kind that comes
-- after the first write is asked for; redis_settle.lua asks for all.
local may = redis.acl_check_cmd
if not (may('SET', KEYS[1], '') and may('RPUSH', KEYS[2], '') and may('DEL', prefix .. 'bell') and may('ZREM', prefix .. 'x', '')) then
  return redis.error_reply('NOPERM rights of this user were withdrawn')
end

position = position + 1
local version = struct.pack('>I8', position)
local present = {}
local index_from = tonumber(ARGV[5])

local function index_of(hash)
  local tag = string.find(hash, '}', 1, true)
  return string.sub(hash, 1, tag) .. 'x' .. string.sub(hash, tag + 2)
end

local function note_new(hash, field)
  local n = call('HLEN', hash)
  if n == 1 then return end -- an index has as many fields as its partition: there was none
  local index = index_of(hash)
  if call('EXISTS', index) == 1 then call('ZADD', index, 0, field)
  elseif n > index_from then
    for _, each in ipairs(call('HKEYS', hash)) do call('ZADD', index, 0, each) end
  end
end

for _, r in ipairs(order) do
  local hash, field, value = KEYS[rows[2 * r - 1]], rows[2 * r], after[r]
  if value then
    if call('HSET', hash, field, version .. value) == 1 then note_new(hash, field) end
  elseif call('HDEL', hash, field) == 1 then
    call('ZREM', index_of(hash), field)
  end
  if counted[r] then
    local n = #present
    present[n + 1], present[n + 2] = r, value
  end
end

for _, counter in ipairs(gave) do call('HSET', givers, counter, me()) end
call('SET', KEYS[1], string.format('%.0f', position))
local first = version
if run and string.sub(run, 1, 8) == origin and string.sub(run, 17, 24) == struct.pack('>I8', position - 1) then first = string.sub(run, 9, 16) end
call('SET', streak, origin .. first .. version .. first_session)
local keep = tonumber(ARGV[4])
local excess = math.max(8, math.floor(keep / 8)) -- trimmed at once, and not one with each commit
if call('RPUSH', KEYS[2], ARGV[3]) > keep + excess then call('LTRIM', KEYS[2], -keep, -1) end
local reply = {1, position, totals, present}
local bell = prefix .. 'bell'
if call('DEL', bell) == 1 then redis.pcall('PUBLISH', bell, '') end -- an ACL user may lack the channel
call('HSET', KEYS[3], slot, struct.pack('>I8', number) .. cmsgpack.pack(reply))
call('EXPIRE', KEYS[3], 86400)
return reply
