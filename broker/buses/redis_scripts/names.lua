-- Nodes, and the names that they hold.  Each call begins with these words; then follow, for
-- each operation, the number of its words, its verb and its arguments.
--
--   ARGV[1]  what all keys begin with
--   ARGV[2]  what all channels begin with
--   ARGV[3]  the id of the calling node
--   ARGV[4]  which of its connections this is, counted
--
-- Keys, after the prefix:
--
--   nodes     sorted set: id of a node -> when its lease ends, in milliseconds of this server's clock
--   leases    hash: id of a node -> "<number of its lease> <connection> <how often it has begun to listen>"
--   numbers   the number of the lease that was given last
--   names     hash: name -> "x <id>:<number>" of the one that holds it alone under that lease,
--             "s <id>:<number> <id>:<number> ..." of those that share it
--   untidy    there while names may be held under leases that have ended: how many have, since there was none
--   tidying   there while a node forgets those, for as long as a lease at most
--   renewed   when a node last renewed its lease, in milliseconds
--   grace     until when names are kept for nodes whose leases have ended: after a time in which no node could renew
--   form      which form all this has; broker/versions.py says what that means
--   server    the run id of the server that has written this
--   settling  until when a name that nobody holds is given to those only that held it before: after the server went
--             back, some hold names here of which this server does not know
--   returning until when nodes that have got another lease may be about to claim again what they held under the one
--             before
--
-- Verbs that act for a node take the number of the lease that it believes to have, and return FENCED when that
-- has ended, or when they come late, by a connection that the node has given up.

local call = redis.call
local prefix, me = ARGV[1], ARGV[3]
local NODES, LEASES, NUMBERS, NAMES = prefix .. 'nodes', prefix .. 'leases', prefix .. 'numbers', prefix .. 'names'
local FIRST = 5  -- where the operations begin
local STOP = {}  -- see run.lua: no verb of these stops
local mark = false  -- neither has a bus marks
local FENCED = -1

local verbs = {}

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local grace = tonumber(call('GET', prefix .. 'grace') or 0)
local known = {}  -- id of a node -> what ``look`` has found

local function inbox(node)
  return ARGV[2] .. 'node/' .. node
end

local function whole(number)
  return string.format('%.0f', number)
end

local function look(node)
  -- Returns the number of the lease of *node*, 0 when it has none, and its connection; nil when it is unknown.
  local found = known[node]
  if not found then
    found = {number = 0}
    local record = call('HGET', LEASES, node)
    if record then
      local ends = tonumber(call('ZSCORE', NODES, node) or 0)
      local number, connection, generation = string.match(record, '^(%d+) (%d+) (%d+)$')
      found.known, found.connection, found.generation = true, tonumber(connection), generation
      found.number = ends > now and tonumber(number) or 0
    end
    known[node] = found
  end
  return found
end

local function fenced(number)
  local found = look(me)
  return found.number == 0 or found.number ~= tonumber(number) or found.connection ~= tonumber(ARGV[4])
end

local function time_of(key)
  return tonumber(call('GET', prefix .. key) or 0)
end

local silent  -- see ``is_silent``; nil: nobody has asked

local function is_silent()
  -- Whether no node has renewed its lease for half of one, as after a time in which none could: what waited in this
  -- server for its end is done before the next renewal, which gives them grace.
  if silent == nil then
    local renewed, last = time_of('renewed'), call('ZRANGE', NODES, -1, -1, 'WITHSCORES')
    silent = #last > 0 and renewed > 0 and now - renewed > (last[2] - renewed) / 2
  end
  return silent
end

local function is_awaited(found)
  -- Whether a node may renew its lease that has ended.
  return found.known and (now < grace or is_silent())
end

local function holders(name)
  -- Returns whether they share it, and for each of those that hold it: id, and id with the number.  Then whether a
  -- node that has a lease held it under an earlier one.
  local held, ids, entries, returns = call('HGET', NAMES, name), {}, {}, false
  if not held then
    return true, ids, entries, returns
  end
  for entry in string.gmatch(string.sub(held, 3), '%S+') do
    local id, number = string.match(entry, '^(.*):(%d+)$')
    local found = id and look(id)
    if found and (found.number > 0 and found.number == tonumber(number) or is_awaited(found)) then
      ids[#ids + 1], entries[#entries + 1] = id, entry
    end
    returns = returns or found and found.number > 0
  end
  return string.sub(held, 1, 1) == 's', ids, entries, returns
end

local function hold(name, shared, entries)
  if #entries == 0 then
    call('HDEL', NAMES, name)
  else
    call('HSET', NAMES, name, (shared and 's ' or 'x ') .. table.concat(entries, ' '))
  end
end

local function without(ids, entries, node)
  local others, rest = {}, {}
  for index, id in ipairs(ids) do
    if id ~= node then
      others[#others + 1], rest[#rest + 1] = id, entries[index]
    end
  end
  return others, rest
end

local function confirmed(ids, entries)
  -- Returns the first of them that holds it under the lease which it has; nil when none does: they have claimed it
  -- under an earlier one, and it is kept for them.
  for index, id in ipairs(ids) do
    local number = look(id).number
    if number > 0 and entries[index] == id .. ':' .. whole(number) then
      return id
    end
  end
end

-- How a node has a name that it claims.
local NEW = 'n'  -- not at all
local BEFORE = 'b'  -- it had it before a time without a lease, in which another may have got it
local HELD = 'h'  -- it has held it all the while, under a lease that has lasted

-- Returns '', or who holds it; or for how many milliseconds that is not sure.
local function claim(name, shared, number, how)
  local sharing, ids, entries = holders(name)
  local others, rest = without(ids, entries, me)
  local settling = time_of('settling')
  if #others > 0 and not (shared and sharing) then
    if how == NEW then
      return others[1]
    end
    local holder = confirmed(others, rest)
    if holder then
      -- After the server went back it may have given that back, and is about to do so again.
      return now < settling and settling - now or holder
    elseif how == BEFORE then
      return math.max(1, grace - now)
    end
    rest = {}  -- they have lost it before, and the data that said so
  elseif how ~= HELD and #others == 0 and now < settling then
    -- Another may hold it, which the server does not know; what it knows of this node may be what that has lost since.
    if how == NEW then
      hold(name, sharing, rest)
    end
    if how == NEW or #ids == 0 or not shared then
      return settling - now
    end
  end
  rest[#rest + 1] = me .. ':' .. number
  hold(name, shared, rest)
  return ''
end

-- channel, message
verbs.publish = function(at)
  return call('PUBLISH', ARGV[at], ARGV[at + 1])
end

-- number, node, number of its lease, message
-- The message carries both numbers.  Returns how many received it, 0 or 1; or FENCED.
verbs.send = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  if look(ARGV[at + 1]).number ~= tonumber(ARGV[at + 2]) then
    return 0
  end
  return call('PUBLISH', inbox(ARGV[at + 1]), table.concat({'from', me, ARGV[at], ARGV[at + 2], ARGV[at + 3]}, ' '))
end

local RETURN_LEASES = 2  -- lengths of a lease in which a node claims again what it held
local MAX_STEP = 1000  -- milliseconds by which a clock may be set forward

local function follow_clock(elapsed)
  -- Moves what was written to the present time, if the clock was set back, or is another server's that is behind; or
  -- if it was set forward: more has passed by it than *elapsed*, which is no less than since a node has renewed.
  local renewed = time_of('renewed')
  local ahead = renewed - now
  if ahead <= 0 then
    ahead = ahead + (elapsed or math.huge)
    if renewed == 0 or ahead >= -MAX_STEP then
      return
    end
  end
  local ends = call('ZRANGE', NODES, 0, -1, 'WITHSCORES')
  for index = 1, #ends, 2 do
    call('ZADD', NODES, whole(ends[index + 1] - ahead), ends[index])
  end
  for _, key in ipairs({'grace', 'settling', 'returning'}) do
    call('SET', prefix .. key, whole(math.max(0, time_of(key) - ahead)))
  end
  grace = math.max(0, grace - ahead)
  call('SET', prefix .. 'renewed', whole(renewed - ahead))
end

-- *renewed*: when a node last did, by the clock as it was.  What looks like a clock that was set forward may be a call
-- that has waited in a server that hung: no node could renew then.
local function give_grace(lease, renewed)
  if now - renewed > lease / 2 then
    grace = now + lease
    call('SET', prefix .. 'grace', whole(grace))
  end
  call('SET', prefix .. 'renewed', whole(now))
  silent = false
end

local function went_back(last, server, told)
  -- Whether nodes may hold names of which this server does not know; *last* is a number that it has given.
  local back = told == '1'
  if tonumber(call('GET', NUMBERS) or 0) < last then
    back = true
    call('SET', NUMBERS, whole(last))
  end
  if server ~= '' then
    local before = call('GET', prefix .. 'server')
    if before ~= server then
      call('SET', prefix .. 'server', server)
      back = back or before
    end
  end
  return back
end

-- Lets the names be kept that a node with a new lease is about to claim again.  Not once more before that is over: one
-- that gets lease after lease would never let any be forgotten.
local function return_names(lease)
  if now >= time_of('returning') then
    call('SET', prefix .. 'returning', whole(now + RETURN_LEASES * lease))
  end
end

local function remove_ended()
  for _, node in ipairs(call('ZRANGEBYSCORE', NODES, '-inf', whole(now))) do
    call('ZREM', NODES, node)
    call('HDEL', LEASES, node)
    call('INCR', prefix .. 'untidy')
  end
end

-- Returns what ``untidy`` says if it is for this node to forget names, else 0.  Who was told so may not learn of it,
-- or end before it is done: then another one is told.
local function begin_tidying(lease)
  local untidy = tonumber(call('GET', prefix .. 'untidy') or 0)
  if untidy == 0 or now < time_of('returning') or call('EXISTS', prefix .. 'tidying') == 1 then
    return 0
  end
  call('SET', prefix .. 'tidying', me)
  call('PEXPIRE', prefix .. 'tidying', whole(lease))
  return untidy
end

local function check_form()
  -- Raises an error if a later version has given the data a form that this one does not know.
  local form = call('GET', prefix .. 'form')
  if not form then
    call('SET', prefix .. 'form', FORM)  -- all was lost
  elseif tonumber(form) > FORM then
    error({err = 'NEWER_FORM the data have the form ' .. form .. ', of a later version of txbroker'})
  end
end

-- number of the lease that the node believes to have or 0, the highest that it ever had, how often it has begun to
-- listen, length of the lease in milliseconds, run id of the server; '' if this is not the first by this connection,
-- "1" if the store was found to have gone back; milliseconds since the node has sent the renewal that was answered
-- last, by a clock that can not be set, or ''
-- Returns: the number of the lease that it has now; a number for ``tidy``, if this node has to forget names, else 0;
-- id, number and generation of each node: number 0 of one that is awaited.  Or FENCED, when it comes late.
verbs.renew = function(at)
  check_form()
  local connection = look(me).connection
  if connection and connection > tonumber(ARGV[4]) then
    return FENCED  -- it would end the lease that was given since
  end
  known = {}
  local believed, last, lease = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
  local back = went_back(last, ARGV[at + 4], ARGV[at + 5])
  local renewed = time_of('renewed')
  -- Data that went back are older than a clock that can not be set would have it.
  follow_clock(not back and tonumber(ARGV[at + 6]) or nil)
  give_grace(lease, renewed)
  if back then
    call('SET', prefix .. 'settling', whole(now + lease))
  end
  local number = look(me).number
  -- A higher one than it ever had was given by an answer that it had not got when it has asked.
  if number == 0 or (number ~= believed and number <= last) then
    number = call('INCR', NUMBERS)
    if last > 0 then
      call('INCR', prefix .. 'untidy')
      return_names(lease)
    end
  end
  call('ZADD', NODES, whole(now + lease), me)
  call('HSET', LEASES, me, whole(number) .. ' ' .. ARGV[4] .. ' ' .. ARGV[at + 2])
  local untidy = 0
  if now >= grace then
    remove_ended()
    untidy = begin_tidying(lease)
  end
  known = {}
  local nodes = {}
  for _, node in ipairs(call('ZRANGE', NODES, 0, -1)) do
    local found = look(node)
    nodes[#nodes + 1] = {node, found.number, found.generation or '0'}
  end
  return {number, untidy, nodes}
end

-- Writes and publishes in all the ways in which the others do, to see whether that is possible.
verbs.probe = function()
  local key = prefix .. 'probe'
  call('SET', key, '1')
  call('DEL', key)
  call('HSET', key, 'field', '1')
  call('DEL', key)
  call('ZADD', key, 0, 'member')
  call('PUBLISH', ARGV[2] .. 'nobody', '')
  return call('DEL', key)
end

-- Ends the lease, and frees all names at once.  The others remove what is left of the node.
verbs.leave = function()
  if call('HDEL', LEASES, me) > 0 then
    call('ZADD', NODES, 0, me)
  end
  known = {}
  return 1
end

-- number, name, "s" to share it or "x"
-- Returns '' or who holds it, or for how many milliseconds it can not be given yet, or FENCED.
verbs.claim = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  return claim(ARGV[at + 1], ARGV[at + 2] == 's', ARGV[at], NEW)
end

-- number, how many names, each name with "s" or "x", or "X": that must not have been the node's all the while
-- Claims names that the node held before.
-- Returns those that others hold, each with who does, and those that can not be given yet, each with ''; or FENCED.
verbs.reclaim = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  local refused = {}
  for index = at + 2, at + 2 * tonumber(ARGV[at + 1]), 2 do
    local holder = claim(ARGV[index], ARGV[index + 1] == 's', ARGV[at], ARGV[index + 1] == 'X' and BEFORE or HELD)
    if holder ~= '' then
      refused[#refused + 1] = ARGV[index]
      refused[#refused + 1] = type(holder) == 'string' and holder or ''
    end
  end
  return refused
end

-- number, how many names, then those
-- Returns 1, or FENCED when there is nothing to release.
verbs.release = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  for index = at + 2, at + 1 + tonumber(ARGV[at + 1]) do
    local name = ARGV[index]
    local sharing, ids, entries = holders(name)
    local _, rest = without(ids, entries, me)
    hold(name, sharing, rest)
  end
  return 1
end

-- number, then names
-- Returns the first of the names that is held, then by whom, each with the number of its lease or 0; nothing when
-- none is held; for how many milliseconds that is not sure, since nodes may be about to claim it again; or FENCED.
verbs.holders = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  local sure = time_of('settling')
  for index = at + 2, at + 1 + tonumber(ARGV[at + 1]) do
    local _, ids, _, returns = holders(ARGV[index])
    if returns then
      sure = math.max(sure, time_of('returning'))
    end
    if #ids > 0 then
      local found = {ARGV[index]}
      for _, id in ipairs(ids) do
        found[#found + 1] = id
        found[#found + 1] = whole(look(id).number)
      end
      return found
    end
  end
  return now < sure and sure - now or {}
end

-- number, node, "1" if it can not come back
-- Returns 1 if that has a lease, or if it may renew the one that has ended, or which this server does not know: after a
-- time in which no node could renew; else 0.  Or FENCED.
verbs.lives = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  local found = look(ARGV[at + 1])
  local awaited = is_awaited(found) or now < time_of('settling')
  return (found.number > 0 or awaited and ARGV[at + 2] ~= '1') and 1 or 0
end

-- number, cursor
-- Returns the next cursor, "0" at the end, and some of the names that the node holds; or FENCED.
verbs.own = function(at)
  if fenced(ARGV[at]) then
    return FENCED
  end
  local found, names, mine = call('HSCAN', NAMES, ARGV[at + 1], 'COUNT', 500), {}, ' ' .. me .. ':' .. ARGV[at] .. ' '
  for index = 1, #found[2], 2 do
    if string.find(found[2][index + 1] .. ' ', mine, 1, true) then
      names[#names + 1] = found[2][index]
    end
  end
  return {found[1], names}
end

-- cursor, the number that ``renew`` has returned
-- Forgets some of the names whose holders have no lease; returns the next cursor, "0" at the end.
verbs.tidy = function(at)
  local found = call('HSCAN', NAMES, ARGV[at], 'COUNT', 500)
  for index = 1, #found[2], 2 do
    local name, held = found[2][index], found[2][index + 1]
    local sharing, _, entries = holders(name)
    local present = (sharing and 's ' or 'x ') .. table.concat(entries, ' ')
    if present ~= held then
      hold(name, sharing, entries)
    end
  end
  if found[1] == '0' then
    if now >= grace and call('GET', prefix .. 'untidy') == ARGV[at + 1] then
      call('DEL', prefix .. 'untidy')
    end
    call('DEL', prefix .. 'tidying')
  end
  return found[1]
end
