-- Keys and their values.

local EVENT = 4  -- words of the event of a change, see "announce"

local function space_key(kind, space)
  return prefix .. kind .. ':' .. space
end

local function key_place(at)
  return ARGV[at] .. '\0' .. ARGV[at + 1]
end

describe[2] = function()
  for _, verb in ipairs({'get', 'glance', 'set', 'set_when_full', 'delete', 'swap', 'same', 'add', 'remove_due'}) do
    places[verb] = key_place
  end
  places.announced = function(at)
    return key_place(at + EVENT * tonumber(ARGV[at]) + 2)
  end
  places.add_announced = function(at)
    return key_place(at + EVENT + 1)
  end
  reads.get, reads.glance, reads.range, reads.due, reads.revision, reads.changed = true, true, true, true, true, true
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

local function content_of(stored)
  -- Expiry and value.
  return string.sub(stored, string.find(stored, ' ', 1, true) + 1)
end

local REVISIONS = prefix .. 'revisions'
local MAX_BATCH = 500  -- changes that a call could make of one key in version 1

local given = 0  -- the last revision that was given in this call
local before = false  -- what was there before the change that got it
local lasts, unwritten = {}, {}  -- space -> the last that was given, and how many of them are not written yet

local function next_revision(space, count, alive, revision)
  -- Gives revisions of a space, so many, and returns the last.  alive: what was there before, or false; revision: its
  -- revision, or 0.
  local last = lasts[space]
  if last then
    last = last + count
    unwritten[space] = (unwritten[space] or 0) + count
  else
    last = call('HINCRBY', REVISIONS, space, count)
    if last == count and call('HEXISTS', REVISIONS, '') == 0 then
      -- Each key had its own before: all of them are below this.
      last = call('HINCRBY', REVISIONS, space, string.format('%.0f', mark * MAX_BATCH))
    end
  end
  if revision > last - count then  -- a node of an older version has written it
    unwritten[space] = (unwritten[space] or 0) + revision - (last - count)
    last = revision + count
  end
  lasts[space] = last
  given, before = last, alive
  return last
end

endings[#endings + 1] = function()
  for space, count in pairs(unwritten) do
    call('HINCRBY', REVISIONS, space, string.format('%.0f', count))
  end
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

local LONG, MAX_LONG = 4096, 1048576  -- bytes of an entry, and of all that a call reads before it leaves long ones

-- space, key
-- Returns the entry, as "get"; or, if it is a long one and the call has read much, how many bytes it has.
verbs.glance = function(at)
  if replied >= MAX_LONG then
    local length = call('HSTRLEN', space_key('keys', ARGV[at]), ARGV[at + 1])
    if length > LONG then
      return length
    end
  end
  return verbs.get(at)
end

-- space, key, expected revision or "", expiry, value, quota
-- Returns twice the new revision, and one more if the key was missing; or nil if another revision was found.
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
  revision = next_revision(space, 1, alive, revision)
  put(space, key, there, string.format('%.0f %s ', revision, expires) .. value, expires)
  return 2 * revision + (alive and 0 or 1)
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
-- Returns twice the revision of its end, 0 if it was missing, nil if another revision was found.
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
  return 2 * next_revision(space, 1, alive, revision_of(alive))
end

local function is(alive, digest)
  return (alive and redis.sha1hex(content_of(alive)) or '') == digest
end

-- space, key, digest of expiry and value that are expected or "", the new ones, the expiry alone, quota, how many
-- changes have led to them
-- Returns the last revision of these.  They are the same whatever revision the key has had.
verbs.swap = function(at)
  local space, key = ARGV[at], ARGV[at + 1]
  local there, alive = look(space, key)
  if not is(alive, ARGV[at + 2]) then
    return STOP, alive
  end
  if not admit(space, key, there, alive, ARGV[at + 5]) then
    return OVER_QUOTA
  end
  local revision = next_revision(space, tonumber(ARGV[at + 6]), alive, revision_of(alive))
  put(space, key, there, string.format('%.0f ', revision) .. ARGV[at + 3], ARGV[at + 4])
  return revision
end

-- space, key, digest of expiry and value that are expected or ""
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
-- Returns the new entry, with "+" before it if the key was missing.
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
    return STOP, #alive > LONG and #alive or alive
  end
  if not admit(space, key, there, alive, ARGV[at + 3]) then
    return OVER_QUOTA
  end
  local sum = tonumber(value) + tonumber(ARGV[at + 2])
  local entry = string.format('%.0f %s %.0f', next_revision(space, 1, alive, revision), expires, sum)
  put(space, key, there, entry, expires)
  return alive and entry or '+' .. entry
end

local function check_events(first, last)
  for at = first, last, EVENT do
    if ARGV[at + 2] ~= '-' then
      check_permission(ARGV[at])
    end
  end
end

local CHANGED = prefix .. 'changed'
local MAX_CHANGES = 10000  -- that are kept
local LARGE, MAX_LARGE_BYTES = 4096, 16777216  -- bytes of a change, from which on fewer are kept

local function keep(revision, message)
  -- Keeps a change for those who watch again.  A server that is full refuses: then there is none for them.
  if #message > LARGE then
    redis.pcall('XTRIM', CHANGED, 'MAXLEN', math.floor(MAX_LARGE_BYTES / #message))
  end
  redis.pcall('XADD', CHANGED, 'MAXLEN', '~', MAX_CHANGES, string.format('%.0f-0', revision), 'm', message)
end

local function binary(text)
  -- In MessagePack.
  local size = #text
  if size < 256 then
    return '\196' .. string.char(size) .. text
  end
  local high = math.floor(size / 65536)
  local bytes = {math.floor(high / 256), high % 256, math.floor(size / 256) % 256, size % 256}
  return '\198' .. string.char(unpack(bytes)) .. text
end

local function with_previous(start, number, previous)
  -- Completes the start of a message or of extras, see "announce", with a revision and the value before: previous is
  -- what follows the revision, or "1" if the change has found it.
  if previous == '1' then
    previous = before and '=' .. string.sub(before, (select(3, parts(before)))) or '-'
  end
  local head, extras = string.match(start, '^(%S+ %S+ )%d+ (.*)$')
  if not head or not string.find(head, '^0 ') then
    head, extras = '', string.match(start, '^%d+ (.*)$')
  end
  extras = string.sub(extras, 1, -3) .. binary(number .. previous)
  return head .. #extras .. ' ' .. extras
end

local function announce(found, at, record, revision)
  -- Publishes the event of a change, or appends it to its log, and adds to *found* its id if it is not published.
  -- Its words are: the log; "p" if it is published alone, or "s" if it is stored, and behind that the value before, as
  -- in "with_previous", if what follows lacks the revision; what its message, or its extras, begin with, or "-" if it
  -- is not published; and the record.
  local log, kind, start = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local alone, number = string.byte(kind) == 112, ''
  if #kind > 1 then
    number = string.format('%016.0f', revision)
    if present[5] then
      start, number = with_previous(start, number, string.sub(kind, 2)), ''
    end
  end
  if alone then
    local message = start .. number .. record
    call('PUBLISH', ARGV[3] .. log, message)
    if present[6] and #kind > 1 then
      keep(revision, message)
    end
    return
  end
  if number ~= '' then
    start = start .. number
  end
  if present[6] and #kind > 1 then
    keep(revision, '0 - ' .. start .. record)
  end
  local id = append(log, next_id(log), record, start)
  if start == '-' then
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
  local found, revision = {result}, given - tonumber(ARGV[at])
  for event = first, verb - 1, EVENT do
    revision = revision + 1
    announce(found, event, ARGV[event + 3], revision)
  end
  return #found > 1 and found or result
end

-- the words of an event, but for its record what is there before the sum, and after it; then the arguments of "add"
verbs.add_announced = function(at)
  check_events(at, at)
  local entry, state = verbs.add(at + EVENT + 1)
  if type(entry) ~= 'string' then
    return entry, state
  end
  local found = {entry}
  announce(found, at, ARGV[at + 3] .. string.match(entry, '%S+$') .. ARGV[at + 4], given)
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
  if #keys > 0 then
    next_revision(ARGV[at], #keys, false, 0)
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
  if #found[3] > 0 then
    next_revision(ARGV[at], #found[3], false, 0)
  end
  return found
end

-- space, key
-- Removes a key if it has expired; returns twice the revision of its end, or 0 if it has not, or is missing.
verbs.remove_due = function(at)
  local expires = call('ZSCORE', space_key('due', ARGV[at]), ARGV[at + 1])
  if not expires or not is_over(tonumber(expires)) then
    return 0
  end
  local there = call('HGET', space_key('keys', ARGV[at]), ARGV[at + 1])
  remove(ARGV[at], ARGV[at + 1])
  return 2 * next_revision(ARGV[at], 1, there, revision_of(there))
end

-- seconds, seconds or "0"
-- Lets changes be kept for so long at least, and say the value before for so long.  A server that is full refuses;
-- those who watch get the changes all the same.
verbs.watched = function(at)
  redis.pcall('SET', prefix .. 'watched', '1', 'EX', ARGV[at])
  if ARGV[at + 1] ~= '0' then
    redis.pcall('SET', prefix .. 'previous', '1', 'EX', ARGV[at + 1])
  end
  return 1
end

local CHANGES_STEP, MAX_CHANGES_BYTES = 16, 1048576  -- changes, and bytes, in one look and in one answer

-- space, revision, limit
-- Returns the last revision that was given, and the messages of those changes after the other that are kept.
verbs.changed = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  local found = {verbs.revision(at)}
  local first, left, size = tonumber(ARGV[at + 1]) + 1, tonumber(ARGV[at + 2]), 0
  while left > 0 and size < MAX_CHANGES_BYTES do
    local some = call('XRANGE', CHANGED, string.format('%.0f-0', first), '+', 'COUNT', math.min(left, CHANGES_STEP))
    if #some == 0 then
      break
    end
    for _, entry in ipairs(some) do
      found[#found + 1] = entry[2][2]
      size = size + #entry[2][2]
    end
    first, left = tonumber(string.match(some[#some][1], '^%d+')) + 1, left - #some
  end
  replied = replied + size
  return found
end

-- space
-- Returns the last revision that was given.
verbs.revision = function(at)
  local last = lasts[ARGV[at]]
  if last then
    return string.format('%.0f', last)
  end
  last = call('HGET', REVISIONS, ARGV[at])
  if not last and call('HEXISTS', REVISIONS, '') == 0 then
    last = string.format('%.0f', mark * MAX_BATCH)
  end
  return last or '0'
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
