-- Logs of events.  A record begins with the event's time and a blank; as it is appended perhaps with "=" before them.

local HEADS, LOGS, CHANGES = prefix .. 'heads', prefix .. 'logs', prefix .. 'changes'
local FLOORS, OPENED = prefix .. 'floors', prefix .. 'opened'

local function log_place(at)
  return ARGV[at]
end

describe[1] = function()
  for _, verb in ipairs({'append', 'open', 'append_once', 'read', 'latest', 'head', 'trim', 'since'}) do
    places[verb] = log_place
  end
  reads.read, reads.latest, reads.head, reads.since = true, true, true, true
  reads.logs, reads.mark, reads.changes, reads.spaces = true, true, true, true
  -- Who reads a log may find what was appended after he has asked.
  passes.append, passes.open, passes.append_once = true, true, true
  barriers.append_all = true
end

local marked = {}

local function log_key(log)
  return prefix .. 'log:' .. log
end

local function group(log)
  return string.sub(redis.sha1hex(log), 1, 3)
end

local function floor_of(log)
  return tonumber(call('HGET', FLOORS, group(log)) or 0)
end

local MAX_TIME = 8.64e12  -- seconds; that of broker/messages.py

local written = tonumber(present[4] or 0)
local latest = written  -- the latest time of an event of any log: only what is earlier needs a look into its log

endings[#endings + 1] = function()
  if latest > written then
    redis.pcall('SET', prefix .. 'latest', exact(latest))
  end
end

local function date(log, record)
  -- Returns *record*, dated no earlier than the last event of its log, and that date if it had another.
  if string.byte(record) == 61 then  -- "=": the event has a date of its own, and keeps it
    record = string.sub(record, 2)
    local own = tonumber(string.match(record, '^%S+'))
    if own > latest and own <= MAX_TIME then
      latest = own
    end
    return record
  end
  local given = string.match(record, '^%S+')
  local text, time = given, tonumber(given)
  if time > latest + MAX_STEP then
    look_at_clock()
    if time > now + MAX_STEP then
      text, time = exact(now), now  -- the node did not know yet what time it is here
    end
  end
  if time >= latest then
    latest = time
  else
    local found = call('XREVRANGE', log_key(log), '+', '-', 'COUNT', 1)[1]
    local last = found and string.match(found[2][2], '^%S+')
    if last and time < tonumber(last) and tonumber(last) <= MAX_TIME then
      text = last
    end
  end
  if text == given then
    return record
  end
  return text .. string.sub(record, #given + 1), text
end

local function append(log, id, record, extras)
  -- Returns the id, with the time if that is not the one of the record.
  local text, time = string.format('%.0f', id), nil
  record, time = date(log, record)
  local result = time and {id, time} or id
  if extras == '' then
    call('XADD', log_key(log), text .. '-0', 'e', record)
    return result
  end
  if extras == '-' then
    call('XADD', log_key(log), text .. '-0', 'e', record, 'm', mark_text)
  else
    call('XADD', log_key(log), text .. '-0', 'e', record, 'm', mark_text, 'n', extras)
  end
  if not marked[log] then
    marked[log] = true
    call('ZADD', CHANGES, mark_text, log)
  end
  if extras ~= '-' then
    call('PUBLISH', ARGV[3] .. log, text .. ' ' .. ARGV[2] .. '.' .. mark_text .. ' ' .. extras .. record)
  end
  return result
end

local function next_id(log)
  -- Begins the log if there is none.
  if call('HEXISTS', HEADS, log) == 1 then
    return call('HINCRBY', HEADS, log, 1)
  end
  local id = call('HINCRBY', HEADS, log, floor_of(log) + 1)
  call('ZADD', LOGS, 0, log)
  return id
end

-- log, record, extras: "" for a log without marks, "-" for a mark alone, else they go before the record
-- in the message that is published
-- Stops if there is no such log.
verbs.append = function(at)
  local log = ARGV[at]
  if not may_publish and #ARGV[at + 2] > 1 then  -- once in a call: it is a twentieth of an append
    check_permission(log)
  end
  local id = call('HINCRBY', HEADS, log, 1)
  if id == 1 then
    call('HDEL', HEADS, log)
    return STOP, false
  end
  return append(log, id, ARGV[at + 1], ARGV[at + 2])
end

-- the same, then the quota of a new log
verbs.open = function(at)
  local log = ARGV[at]
  if call('HEXISTS', HEADS, log) == 1 then
    return verbs.append(at)
  end
  if not may_publish and #ARGV[at + 2] > 1 then
    check_permission(log)
  end
  if not count(ARGV[at + 3], OPENED, log) then
    return OVER_QUOTA
  end
  return append(log, next_id(log), ARGV[at + 1], ARGV[at + 2])
end

-- Events that are appended under conditions.  Of each: log, record and extras as above, the quota of a new log, the id
-- that its last event must have or "", the key by which it may come again or "", and for how many seconds.

local ADDITION = 7  -- words of each

-- Seconds that Redis keeps a key longer than it counts: a clock that is set forward by less forgets none.
local KEY_SLACK = 60

local function known_key(at)
  return prefix .. 'known:' .. #ARGV[at] .. ':' .. ARGV[at] .. ARGV[at + 5]
end

local function first_by(name)
  -- Returns the result for the event that has come by a key that counts still.
  local id, date, expires = string.match(call('GET', name) or '', '^(%S+) (%S+) (%S+)$')
  if id and not is_over(tonumber(expires)) then
    return {tonumber(id), date, 1}
  end
end

local function plan(first, last)
  -- Returns by the place of each what it repeats: a result, or the place of one before it; false: it is new.
  -- Or nil, and why one of them is refused.
  local repeats, heads, keys, opened = {}, {}, {}, {}
  for at = first, last, ADDITION do
    local log, quota, expected = ARGV[at], ARGV[at + 3], ARGV[at + 4]
    if not may_publish and #ARGV[at + 2] > 1 then
      check_permission(log)
    end
    local name = ARGV[at + 5] ~= '' and known_key(at)
    repeats[at] = name and (keys[name] or first_by(name)) or false
    if not repeats[at] then
      local head, number = heads[log], (at - first) / ADDITION + 1
      if not head then
        local there = call('HGET', HEADS, log)
        if not there then
          opened[quota] = (opened[quota] or 0) + 1
          if not has_room(quota, opened[quota]) then
            return nil, {OVER_QUOTA, number}
          end
        end
        head = tonumber(there or floor_of(log))
      end
      if expected ~= '' and tonumber(expected) ~= head then
        return nil, {CONFLICT, number, head}
      end
      heads[log] = head + 1
      if name then
        keys[name] = at
      end
    end
  end
  return repeats
end

local function remember(at, id, date)
  if ARGV[at + 5] == '' then
    return
  end
  local seconds = tonumber(ARGV[at + 6])
  look_at_clock()
  local first = string.format('%.0f %s %s', id, date, exact(now + seconds))
  call('SET', known_key(at), first, 'EX', string.format('%.0f', math.ceil(seconds) + KEY_SLACK))
end

local function append_all(first, last)
  local repeats, refusal = plan(first, last)
  if not repeats then
    return refusal
  end
  local results, dates = {}, {}
  for at = first, last, ADDITION do
    local before, result = repeats[at], nil
    if not before then
      result = verbs.open(at)
      local id, date = result, string.match(ARGV[at + 1], '^=?(%S+)')
      if type(result) == 'table' then
        id, date = result[1], result[2]
      end
      dates[at] = {id, date, 1}
      remember(at, id, date)
    elseif type(before) == 'number' then
      result = dates[before]
    else
      result = before
    end
    results[#results + 1] = result
  end
  return results
end

-- one of them
-- Returns its id; with its date in a list, if that is another than the one of its record or it is a duplicate; then a
-- 1 follows.  Or, in the place of the first, why it is refused, with its number and the last id of the log.
verbs.append_once = function(at)
  return append_all(at, at)
end

-- how many; then their words
-- Returns the same for each of them.
verbs.append_all = function(at)
  return append_all(at + 1, at + 1 + (tonumber(ARGV[at]) - 1) * ADDITION)
end

local ENTRY = 100  -- bytes that an entry takes besides its record, about
local MAX_STEP = 1000  -- entries in one look

local function next_from(log, id, newest_first)
  local number = tonumber(string.match(id, '^%d+'))
  return string.format('%.0f-0', newest_first and number - 1 or number + 1)
end

local function collect(log, from, newest_first, limit, most, step)
  -- Returns entries of a log from that id on, until they have so many bytes, records and ENTRY (0: any number).
  -- step: how many to look at first: those of a log are about as large as each other.
  local command, last = newest_first and 'XREVRANGE' or 'XRANGE', newest_first and '-' or '+'
  local found, count, size = {}, 0, 0
  while true do
    step = math.max(1, math.min(step, limit - count, MAX_STEP))
    local some = call(command, log_key(log), from, last, 'COUNT', step)
    for _, entry in ipairs(some) do
      local fields = entry[2]
      count = count + 1
      found[count] = entry
      size = size + #fields[2] + ENTRY
      replied = replied + #fields[2] + (fields[6] and #fields[6] or 0) + ENTRY
      if most > 0 and size >= most then
        return found
      end
    end
    if #some < step or count >= limit then
      return found
    end
    from = next_from(log, some[#some][1], newest_first)
    -- As many as there is room for, if the others are like these.
    step = most > 0 and math.ceil((most - size) * count / size) or MAX_STEP
    step = math.min(step, 8 * count)
  end
end

-- log, first id, limit, bytes after which there are no more or 0, how many to look at first
verbs.read = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  local limit, most, step = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  return collect(ARGV[at], ARGV[at + 1], false, limit, most, step)
end

-- log, last id or "+", limit, bytes after which there are no more or 0, how many to look at first
verbs.latest = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  local limit, most, step = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  return collect(ARGV[at], ARGV[at + 1], true, limit, most, step)
end

-- log
verbs.head = function(at)
  return tonumber(call('HGET', HEADS, ARGV[at]) or floor_of(ARGV[at]))
end

local function forget(log, head)
  -- Removes a log that has no events.
  call('DEL', log_key(log))
  call('HDEL', HEADS, log)
  call('ZREM', LOGS, log)
  call('ZREM', CHANGES, log)
  uncount(OPENED, log)
  if head > floor_of(log) then
    call('HSET', FLOORS, group(log), string.format('%.0f', head))
  end
end

local TRIM_STEP = 500  -- events that one call removes, of one log

local function trim(log, first)
  -- first: the first id that stays
  return call('XTRIM', log_key(log), 'MINID', string.format('%.0f-0', first))
end

local function first_of(log, head)
  -- The id of the first event there is, or the one after the last: ids rise by one without a hole.
  return head - call('XLEN', log_key(log)) + 1
end

-- log, the first id that stays
-- In steps: until the last of them is done, later operations on the log wait.
verbs.trim = function(at)
  local log, stays = ARGV[at], tonumber(ARGV[at + 1])
  local head = tonumber(call('HGET', HEADS, log) or 0)
  if stays > head then
    return call('UNLINK', log_key(log))  -- its memory is given back in another thread
  end
  local upto = first_of(log, head) + TRIM_STEP
  if stays <= upto or trim(log, upto) == 0 then
    return trim(log, stays)
  end
  return STOP, LATER
end

-- lower bound, upper bound, limit
verbs.logs = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  local found = call('ZRANGEBYLEX', LOGS, ARGV[at], ARGV[at + 1], 'LIMIT', 0, ARGV[at + 2])
  for _, log in ipairs(found) do
    replied = replied + #log
  end
  return found
end

local LARGE = 10000  -- bytes of a record, from which on they are looked at one by one
local WORK_BYTES = 1000  -- bytes of a record that cost as much as to look at a small one

local function young(log, first, head, before, work)
  -- Returns the id of the first event from *first* on that is not too old, or the last that there was work
  -- for, the work that is left, and whether the search was given up.
  local step = 1
  while first <= head do
    if work <= 0 then
      return first, 0, true
    end
    local found = call('XRANGE', log_key(log), string.format('%.0f-0', first), '+', 'COUNT', step)
    local size = 0
    for _, entry in ipairs(found) do
      local record, time = entry[2][2], tonumber(string.match(entry[2][2], '^%S+'))
      first = tonumber(string.match(entry[1], '^%d+'))
      size = math.max(size, #record)
      work = work - 1 - #record / WORK_BYTES
      -- What no clock shows is old: it must not keep all behind it for ever.
      if time >= before and time <= MAX_TIME then
        return first, work, false
      end
      first = first + 1
    end
    if #found == 0 then
      return head + 1, work, false
    end
    step = size > LARGE and 1 or math.min(4 * step, 100)
  end
  return first, work, false
end

local LOG_WORK = 5  -- what a log costs in which nothing is too old

local function shorten(log, before, keep, work)
  -- Removes old events; returns how many, the work that is left, and whether there is more to do.
  local head, more = tonumber(call('HGET', HEADS, log) or 0), false
  local stays = first_of(log, head)
  work = work - LOG_WORK
  if keep > 0 and head - keep + 1 > stays then
    local wanted = head - keep + 1
    stays = math.min(wanted, stays + math.max(1, math.ceil(work)))
    more = stays < wanted
  end
  if before > 0 and not more then
    stays, work, more = young(log, stays, head, before, work)
  end
  local removed = trim(log, stays)
  if more and removed == 0 then
    removed, more = trim(log, math.max(stays, head - keep + 1)), false  -- there are holes after all
  end
  if not more and call('XLEN', log_key(log)) == 0 then
    forget(log, head)
  end
  return removed, work - removed, more
end

-- lower bound, upper bound, time before which events are removed or "0", number that are kept or "0", how much
-- work is done at most, in events that are looked at or removed
-- Returns how many events were removed, and the lower bound of the next step: "" at the end.
verbs.sweep = function(at)
  local before, keep, work = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local removed, count = 0, math.ceil(work / LOG_WORK)
  local logs = call('ZRANGEBYLEX', LOGS, ARGV[at], ARGV[at + 1], 'LIMIT', 0, count)
  for _, log in ipairs(logs) do
    local gone, left, more = shorten(log, before, keep, work)
    removed, work = removed + gone, left
    if more then
      return {removed, '[' .. log}
    elseif work <= 0 then
      return {removed, '(' .. log}
    end
  end
  return {removed, #logs == count and '(' .. logs[#logs] or ''}
end

-- node
-- Returns the mark of the last call that has written, and notes that the node lives.
verbs.mark = function(at)
  local noted = redis.pcall('ZADD', prefix .. 'members', call('TIME')[1] * 1000, ARGV[at])
  if type(noted) == 'table' and string.find(noted.err, 'READONLY', 1, true) then
    return noted  -- what is read here may be old: another server is the master
  end
  return mark
end

-- node
verbs.leave = function(at)
  return call('ZREM', prefix .. 'members', ARGV[at])
end

-- mark, limit: more than one call has operations
-- Returns marks and names of the logs that were appended to after that mark, the least mark first.
verbs.changes = function(at)
  if replied >= BUDGET then
    return STOP, LATER
  end
  return call('ZRANGEBYSCORE', CHANGES, '(' .. ARGV[at], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[at + 1])
end

local function mark_of(log, id)
  local found = call('XRANGE', log_key(log), string.format('%.0f-0', id), '+', 'COUNT', 1)[1]
  return found and tonumber(found[2][4] or 0) or math.huge
end

-- log, mark
-- Returns the id of the log's first event after that mark; 0 for none.
verbs.since = function(at)
  local log, last = ARGV[at], tonumber(ARGV[at + 1])
  local head = tonumber(call('HGET', HEADS, log) or 0)
  local first = first_of(log, head)
  -- Marks rise with the ids: from the end in steps that double, for few were missed as a rule, then by halves.
  local low, high, step = first - 1, head + 1, 1
  while high - 1 > low do
    local id = math.max(high - step, low + 1)
    if mark_of(log, id) <= last then
      low = id
      break
    end
    high, step = id, step * 2
  end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if mark_of(log, middle) <= last then
      low = middle
    else
      high = middle
    end
  end
  return high <= head and high or 0
end
