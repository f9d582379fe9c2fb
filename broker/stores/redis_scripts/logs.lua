-- Logs of events.  A record begins with the event's time and a blank.

local HEADS, LOGS, CHANGES = prefix .. 'heads', prefix .. 'logs', prefix .. 'changes'
local FLOORS, OPENED = prefix .. 'floors', prefix .. 'opened'

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

local function append(log, id, record, extras)
  local text = string.format('%.0f', id)
  if extras == '' then
    call('XADD', log_key(log), text .. '-0', 'e', record)
    return id
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
  return id
end

-- log, record, extras: "" for a log without marks, "-" for a mark alone, else they go before the record
-- in the message that is published
-- Stops if there is no such log.
verbs.append = function(at)
  local log = ARGV[at]
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
  if not count(ARGV[at + 3], OPENED, log) then
    return OVER_QUOTA
  end
  local id = call('HINCRBY', HEADS, log, floor_of(log) + 1)
  call('ZADD', LOGS, 0, log)
  return append(log, id, ARGV[at + 1], ARGV[at + 2])
end

local function cut(found, most)
  -- Drops what comes after the first entries that have that many bytes; 0: nothing.
  local size = 0
  for i, entry in ipairs(most > 0 and found or {}) do
    size = size + #entry[2][2]
    if size >= most then
      for j = #found, i + 1, -1 do
        found[j] = nil
      end
      break
    end
  end
  return found
end

-- log, first id, limit, bytes after which there are no more or 0
verbs.read = function(at)
  return cut(call('XRANGE', log_key(ARGV[at]), ARGV[at + 1], '+', 'COUNT', ARGV[at + 2]), tonumber(ARGV[at + 3]))
end

-- log, limit, bytes after which there are no more or 0
verbs.latest = function(at)
  return cut(call('XREVRANGE', log_key(ARGV[at]), '+', '-', 'COUNT', ARGV[at + 1]), tonumber(ARGV[at + 2]))
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

local function trim(log, first)
  -- first: the first id that stays
  if first <= 1 then
    return 0
  end
  return call('XTRIM', log_key(log), 'MINID', string.format('%.0f-0', first))
end

-- log, the first id that stays
verbs.trim = function(at)
  return trim(ARGV[at], tonumber(ARGV[at + 1]))
end

-- lower bound, upper bound, limit
verbs.logs = function(at)
  return call('ZRANGEBYLEX', LOGS, ARGV[at], ARGV[at + 1], 'LIMIT', 0, ARGV[at + 2])
end

local MAX_TIME = 8.64e12  -- seconds; that of broker/messages.py

local function young(log, before, most)
  -- Returns the id of the first event that is not too old, and whether the search was given up before it.
  local from, seen = '-', 0
  while seen < most do
    local found = call('XRANGE', log_key(log), from, '+', 'COUNT', 100)
    for _, entry in ipairs(found) do
      local id = tonumber(string.match(entry[1], '^%d+'))
      local time = tonumber(string.match(entry[2][2], '^%S+'))
      -- What no clock shows is old: it must not keep all behind it for ever.
      if time >= before and time <= MAX_TIME then
        return id, false
      end
      from = string.format('%.0f-0', id + 1)
    end
    seen = seen + #found
    if #found < 100 then
      return nil, false
    end
  end
  return tonumber(string.match(from, '^%d+')), true
end

-- lower bound, upper bound, time before which events are removed or "0", number that are kept or "0", how many logs
-- Returns how many events were removed, and the lower bound of the next step: "" at the end.
verbs.sweep = function(at)
  local before, keep, count = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local removed = 0
  local logs = call('ZRANGEBYLEX', LOGS, ARGV[at], ARGV[at + 1], 'LIMIT', 0, count)
  for _, log in ipairs(logs) do
    local head = tonumber(call('HGET', HEADS, log))
    if keep > 0 then
      removed = removed + trim(log, head - keep + 1)
    end
    if before > 0 then
      local first, more = young(log, before, 5000)
      removed = removed + trim(log, first or head + 1)
      if more then
        return {removed, '[' .. log}
      end
    end
    if call('XLEN', log_key(log)) == 0 then
      forget(log, head)
    end
  end
  return {removed, #logs == count and '(' .. logs[#logs] or ''}
end

-- node
-- Returns the mark of the last call that has written, and notes that the node lives.
verbs.mark = function(at)
  redis.pcall('ZADD', prefix .. 'members', redis.call('TIME')[1] * 1000, ARGV[at])
  return mark
end

-- node
verbs.leave = function(at)
  return call('ZREM', prefix .. 'members', ARGV[at])
end

-- mark, limit: more than one call has operations
-- Returns marks and names of the logs that were appended to after that mark, the least mark first.
verbs.changes = function(at)
  return call('ZRANGEBYSCORE', CHANGES, '(' .. ARGV[at], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[at + 1])
end

-- log, mark
-- Returns the id of the log's first event after that mark; 0 for none.
verbs.since = function(at)
  local last, first, to = tonumber(ARGV[at + 1]), 0, '+'
  while true do
    local found = call('XREVRANGE', log_key(ARGV[at]), to, '-', 'COUNT', 100)
    for _, entry in ipairs(found) do
      if tonumber(entry[2][4] or 0) <= last then
        return first
      end
      first = tonumber(string.match(entry[1], '^%d+'))
    end
    if #found < 100 then
      return first
    end
    to = string.format('%.0f-0', first - 1)
  end
end
