-- Nodes, and the names that they hold.  Each call begins with these words; then follow, for
-- each operation, the number of its words, its verb and its arguments.
--
--   ARGV[1]  what all keys begin with
--   ARGV[2]  what all channels begin with
--   ARGV[3]  the id of the calling node
--
-- Keys, after the prefix:
--
--   nodes        sorted set: id of a node -> when its lease ends, in milliseconds of this server's clock
--   generations  hash: id of a node -> how often it has begun to listen
--   names        hash: name -> "x <id>" of the one that holds it alone, "s <id> <id> ..." of those that share it
--   renewed      when a node last renewed its lease, in milliseconds
--   grace        until when leases that have ended still count: after a time in which no node could renew

local call = redis.call
local prefix, me = ARGV[1], ARGV[3]
local NODES, GENERATIONS, NAMES = prefix .. 'nodes', prefix .. 'generations', prefix .. 'names'
local FIRST = 4  -- where the operations begin
local STOP = {}  -- see run.lua: no verb of these stops
local mark = false  -- neither has a bus marks

local verbs = {}

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local grace = tonumber(call('GET', prefix .. 'grace') or 0)

local function inbox(node)
  return ARGV[2] .. 'node/' .. node
end

local function lives(node)
  local lease = call('ZSCORE', NODES, node)
  return lease and (tonumber(lease) > now or now < grace)
end

local function holders(name)
  -- Returns whether they share it, and the ids of those that are alive.
  local held, alive = call('HGET', NAMES, name), {}
  if not held then
    return true, alive
  end
  for node in string.gmatch(string.sub(held, 3), '%S+') do
    if lives(node) then
      alive[#alive + 1] = node
    end
  end
  return string.sub(held, 1, 1) == 's', alive
end

local function hold(name, shared, nodes)
  if #nodes == 0 then
    call('HDEL', NAMES, name)
  else
    call('HSET', NAMES, name, (shared and 's ' or 'x ') .. table.concat(nodes, ' '))
  end
end

local function without(nodes, node)
  local others = {}
  for _, each in ipairs(nodes) do
    if each ~= node then
      others[#others + 1] = each
    end
  end
  return others
end

-- channel, message
verbs.publish = function(at)
  return call('PUBLISH', ARGV[at], ARGV[at + 1])
end

-- node, message
-- Returns how many received it: 0 or 1.
verbs.send = function(at)
  return call('PUBLISH', inbox(ARGV[at]), 'from ' .. me .. ' ' .. ARGV[at + 1])
end

-- generation, length of the lease in milliseconds
-- Returns whether the node was known, how many of the others have just been removed, then ids and
-- generations of all that are alive.
verbs.renew = function(at)
  local lease = tonumber(ARGV[at + 1])
  local renewed = tonumber(call('GET', prefix .. 'renewed') or 0)
  if now - renewed > lease / 2 then
    grace = now + lease
    call('SET', prefix .. 'grace', string.format('%.0f', grace))
  end
  call('SET', prefix .. 'renewed', string.format('%.0f', now))
  local known = call('ZSCORE', NODES, me) and 1 or 0
  call('ZADD', NODES, string.format('%.0f', now + lease), me)
  call('HSET', GENERATIONS, me, ARGV[at])
  local removed = {}
  if now >= grace then
    removed = call('ZRANGEBYSCORE', NODES, '-inf', string.format('%.0f', now))
    for _, node in ipairs(removed) do
      call('ZREM', NODES, node)
      call('HDEL', GENERATIONS, node)
    end
  end
  local answer = {known, #removed}
  for _, node in ipairs(call('ZRANGE', NODES, 0, -1)) do
    answer[#answer + 1] = node
    answer[#answer + 1] = call('HGET', GENERATIONS, node) or '0'
  end
  return answer
end

-- Ends the lease.
verbs.leave = function()
  call('ZREM', NODES, me)
  return call('HDEL', GENERATIONS, me)
end

-- name, "s" to share it or "x"
-- Returns '', or who holds it.
verbs.claim = function(at)
  local name, shared = ARGV[at], ARGV[at + 1] == 's'
  local sharing, nodes = holders(name)
  local others = without(nodes, me)
  if #others > 0 and not (shared and sharing) then
    return others[1]
  end
  others[#others + 1] = me
  hold(name, shared, others)
  return ''
end

-- name, the node that loses it
-- Holds it alone, if nobody else but that node holds it, which gets a message.
-- Returns '', or who else holds it.
verbs.seize = function(at)
  local _, nodes = holders(ARGV[at])
  local others = without(nodes, me)
  for _, node in ipairs(others) do
    if node ~= ARGV[at + 1] then
      return node
    end
  end
  hold(ARGV[at], false, {me})
  for _, node in ipairs(others) do
    call('PUBLISH', inbox(node), 'lost ' .. ARGV[at])
  end
  return ''
end

-- name
verbs.release = function(at)
  local sharing, nodes = holders(ARGV[at])
  hold(ARGV[at], sharing, without(nodes, me))
  return 1
end

-- names, after their number
-- Returns the first of them that is held, then by whom; nothing when none is.
verbs.holders = function(at)
  for index = at + 1, at + tonumber(ARGV[at]) do
    local _, nodes = holders(ARGV[index])
    if #nodes > 0 then
      return {ARGV[index], unpack(nodes)}
    end
  end
  return {}
end

-- cursor
-- Forgets some of the names whose holders are not alive; returns the next cursor, "0" at the end.
verbs.tidy = function(at)
  local found = call('HSCAN', NAMES, ARGV[at], 'COUNT', 500)
  for index = 1, #found[2], 2 do
    local name, held = found[2][index], found[2][index + 1]
    local sharing, nodes = holders(name)
    local present = (sharing and 's ' or 'x ') .. table.concat(nodes, ' ')
    if present ~= held then
      hold(name, sharing, nodes)
    end
  end
  return found[1]
end
