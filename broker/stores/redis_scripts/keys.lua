-- Keys and their values.

local EVENT = 3  -- words of the event of a change: log, extras and text

local function space_key(kind, space)
  return prefix .. kind .. ':' .. space
end

local function key_place(at)
  return ARGV[at] .. '\0' .. ARGV[at + 1]
end

describe[2] = function()
  for _, verb in ipairs({'get', 'set', 'set_when_full', 'delete', 'swap', 'same', 'add', 'remove_due'}) do
    places[verb] = key_place
  end
  places.announced = function(at)
    return key_place(at + EVENT * tonumber(ARGV[at]) + 2)
  end
  places.add_announced = function(at)
    return key_place(at + EVENT + 1)
  end
  reads.get, reads.range, reads.due = true, true, true
end

local function parts(stored)
  -- Returns revision and expiry of an entry, and where its value begins.
  local first = string.find(stored, ' ', 1, true)
  local second = string.find(stored, ' ', first + 1, true)
  return tonumber(string.sub(stored, 1, first - 1)), tonumber(string.sub(stored, first + 1, second - 1)), second + 1
end

local function look(space, key)
  -- Returns what is there, and the same unless it has expired.
  local stored = call('HGET', space_key('keys', space), key)
  if not stored then
    return false, false
  end
  local _, expires = parts(stored)
  if is_over(expires) then
    return stored, false
  end
  return stored, stored
end

local function admit(space, key, there, alive, quota)
  -- Counts a key that is new; returns whether there may be one more.
  if alive then
    return true
  end
  if there then
    uncount(space_key('owned', space), key)
  end
  return count(quota, space_key('owned', space), key)
end

local function put(space, key, there, entry, expires)
  -- there: what is there now, expired or not; expires: as text
  if call('HSET', space_key('keys', space), key, entry) == 1 then
    call('ZADD', space_key('order', space), 0, key)
  end
  if tonumber(expires) > 0 then
    call('ZADD', space_key('due', space), expires, key)
    call('SADD', prefix .. 'spaces', space)
  elseif there then
    local _, before = parts(there)
    if before > 0 then
      call('ZREM', space_key('due', space), key)
    end
  end
end

local function remove(space, key)
  call('HDEL', space_key('keys', space), key)
  call('ZREM', space_key('order', space), key)
  call('ZREM', space_key('due', space), key)
  uncount(space_key('owned', space), key)
end

local function revision_of(stored)
  return stored and (parts(stored)) or 0
end

local function fits(alive, size, small)
  -- Whether a full store has room for a value in the place of another.
  if not alive then
    return false
  end
  local _, _, first = parts(alive)
  return size <= math.max(small, #alive - first + 1)
end

-- space, key
verbs.get = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  local _, alive = look(ARGV[at], ARGV[at + 1])
  replied = replied + (alive and #alive or 0)
  return alive
end

-- space, key, expected revision or "", expiry, value, quota
-- Returns the new revision, or nil if another one was found.
verbs.set = function(at)
  local space, key, expires, value = ARGV[at], ARGV[at + 1], ARGV[at + 3], ARGV[at + 4]
  local there, alive = look(space, key)
  local revision = revision_of(alive)
  if ARGV[at + 2] ~= '' and tonumber(ARGV[at + 2]) ~= revision then
    return false
  end
  if not admit(space, key, there, alive, ARGV[at + 5]) then
    return OVER_QUOTA
  end
  put(space, key, there, string.format('%.0f %s ', revision + 1, expires) .. value, expires)
  return revision + 1
end

-- the same, then the size that a value may have in any case: of a store that is full
verbs.set_when_full = function(at)
  local _, alive = look(ARGV[at], ARGV[at + 1])
  if not fits(alive, #ARGV[at + 4], tonumber(ARGV[at + 6])) then
    return FULL
  end
  return verbs.set(at)
end

-- space, key, expected revision or ""
-- Returns 1, 0 if it was missing, nil if another revision was found.
verbs.delete = function(at)
  local space, key = ARGV[at], ARGV[at + 1]
  local _, alive = look(space, key)
  if ARGV[at + 2] ~= '' and tonumber(ARGV[at + 2]) ~= revision_of(alive) then
    return false
  end
  if not alive then
    return 0
  end
  remove(space, key)
  return 1
end

local function is(alive, digest)
  return (alive and redis.sha1hex(alive) or '') == digest
end

-- space, key, digest of the expected entry or "", the new entry, its expiry, quota
-- A revision is not enough: a key that was created again has had all of them before.
verbs.swap = function(at)
  local space, key = ARGV[at], ARGV[at + 1]
  local there, alive = look(space, key)
  if not is(alive, ARGV[at + 2]) then
    return STOP, alive
  end
  if not admit(space, key, there, alive, ARGV[at + 5]) then
    return OVER_QUOTA
  end
  put(space, key, there, ARGV[at + 3], ARGV[at + 4])
  return 1
end

-- space, key, digest of the expected entry or ""
verbs.same = function(at)
  local _, alive = look(ARGV[at], ARGV[at + 1])
  if not is(alive, ARGV[at + 2]) then
    return STOP, alive
  end
  return 1
end

local function small(text)
  -- Whether two such numbers and their sum are exact as doubles.
  return #text <= 15 and (text == '0' or string.find(text, '^%-?[1-9]%d*$') ~= nil)
end

-- space, key, a small whole number, quota
-- Returns the new entry.
verbs.add = function(at)
  local space, key = ARGV[at], ARGV[at + 1]
  local there, alive = look(space, key)
  local revision, expires, value = 0, '0', '0'
  if alive then
    local _, first
    revision, _, first = parts(alive)
    expires = string.match(alive, '^%S+ (%S+)')
    value = string.sub(alive, first)
  end
  if not small(value) then
    return STOP, alive
  end
  if not admit(space, key, there, alive, ARGV[at + 3]) then
    return OVER_QUOTA
  end
  local sum = tonumber(value) + tonumber(ARGV[at + 2])
  local entry = string.format('%.0f %s %.0f', revision + 1, expires, sum)
  put(space, key, there, entry, expires)
  return entry
end

-- The event of a change is published alone if its extras are "", and its text is the whole message then; otherwise
-- it is appended to the log, as by "append", and its text is the record.

local function check_events(first, last)
  for at = first, last, EVENT do
    if ARGV[at + 1] ~= '-' then
      check_permission(ARGV[at])
    end
  end
end

local function announce(found, log, extras, text)
  -- Adds to *found* the id of an event that is not published.
  if extras == '' then
    call('PUBLISH', ARGV[3] .. log, text)
    return
  end
  local id = append(log, next_id(log), text, extras)
  if extras == '-' then
    found[#found + 1] = id
  end
end

-- how many events, and of each its words; then the verb of the change, and its arguments
-- Those events are made if it takes effect.  Returns what that verb does; with the ids behind it in a list, if
-- there are any.
verbs.announced = function(at)
  local first, verb = at + 1, at + EVENT * tonumber(ARGV[at]) + 1
  check_events(first, verb - 1)
  local result, state = verbs[ARGV[verb]](verb + 1)
  if type(result) ~= 'number' or result <= 0 then
    return result, state
  end
  local found = {result}
  for event = first, verb - 1, EVENT do
    announce(found, ARGV[event], ARGV[event + 1], ARGV[event + 2])
  end
  return #found > 1 and found or result
end

-- log, extras, the text before the sum, and after it; then the arguments of "add"
verbs.add_announced = function(at)
  check_events(at, at)
  local entry, state = verbs.add(at + EVENT + 1)
  if type(entry) ~= 'string' then
    return entry, state
  end
  local _, _, first = parts(entry)
  local found = {entry}
  announce(found, ARGV[at], ARGV[at + 1], ARGV[at + 2] .. string.sub(entry, first) .. ARGV[at + 3])
  return #found > 1 and found or entry
end

local RANGE_STEP = 1000  -- keys that one call looks at

-- space, lower bound, upper bound, limit, bytes of entries after which no more are read
-- Returns the lower bound of the next step, "" at the end; then keys and entries alternately.
verbs.range = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  local limit, most = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local found, size = {''}, 0
  local count = math.min(limit, RANGE_STEP)
  local keys = call('ZRANGEBYLEX', space_key('order', ARGV[at]), ARGV[at + 1], ARGV[at + 2], 'LIMIT', 0, count)
  for _, key in ipairs(keys) do
    local _, alive = look(ARGV[at], key)
    if alive then
      found[#found + 1] = key
      found[#found + 1] = alive
      size = size + #key + #alive
      if size >= most then
        found[1] = '(' .. key
        replied = replied + size
        return found
      end
    end
  end
  replied = replied + size
  if #keys == count then
    found[1] = '(' .. keys[count]
  end
  return found
end

-- space, time, limit
-- Removes and returns the keys that were due at that time.
verbs.expire = function(at)
  local keys = call('ZRANGEBYSCORE', space_key('due', ARGV[at]), '-inf', ARGV[at + 1], 'LIMIT', 0, ARGV[at + 2])
  for _, key in ipairs(keys) do
    remove(ARGV[at], key)
  end
  return keys
end

-- space, limit
-- Returns the time, how much of it is skipped, and keys that have expired.
verbs.due = function(at)
  local due, limit = space_key('due', ARGV[at]), tonumber(ARGV[at + 1])
  look_at_clock()
  note_clock()
  local keys = call('ZRANGEBYSCORE', due, '-inf', exact(now - skipped), 'LIMIT', 0, limit)
  if skipped > 0 and #keys < limit then
    for _, key in ipairs(call('ZRANGEBYSCORE', due, '(' .. exact(after), exact(now), 'LIMIT', 0, limit - #keys)) do
      keys[#keys + 1] = key
    end
  end
  return {exact(now), exact(skipped), keys}
end

-- the same, which removes the keys
verbs.expired = function(at)
  local found = verbs.due(at)
  for _, key in ipairs(found[3]) do
    remove(ARGV[at], key)
  end
  return found
end

-- space, key
-- Removes a key if it has expired; returns 1, or 0 if it has not, or is missing.
verbs.remove_due = function(at)
  local expires = call('ZSCORE', space_key('due', ARGV[at]), ARGV[at + 1])
  if not expires or not is_over(tonumber(expires)) then
    return 0
  end
  remove(ARGV[at], ARGV[at + 1])
  return 1
end

-- cursor
-- Returns the next cursor, "0" at the end, and spaces that have, or have had, keys which expire.
verbs.spaces = function(at)
  return call('SSCAN', prefix .. 'spaces', ARGV[at])
end

-- whether the store announces: "1" or ""
-- Writes in all the ways in which the others do, to see whether that is possible.
verbs.probe = function(at)
  if ARGV[at] ~= '' then
    check_permission('probe')
  end
  local key = prefix .. 'probe'
  call('SET', key, '1')
  call('DEL', key)
  call('HINCRBY', key, 'field', 1)
  call('HSET', key, 'field', '2')
  call('DEL', key)
  call('ZADD', key, 0, 'member')
  call('DEL', key)
  call('SADD', key, 'member')
  call('DEL', key)
  call('XADD', key, '1-0', 'field', '1')
  return call('DEL', key)
end
