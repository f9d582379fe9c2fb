-- Compares what a node has seen of the data with what this server has, and begins a new epoch if something is missing.
--
-- A *timeline* is a stretch of the history of the data: one begins when another server takes over (a replica, or the same
-- one started again), and one with each epoch.  It is written as "<id> <run> <epoch> <mark>": run says which server it
-- is, the mark is how far the data had come when it began.  The data go back when a server takes over that has not got
-- all of them: then the mark at which its timeline begins is lower than what a node has seen of the one before, or
-- the last one that a node knows is missing.
--
--   ARGV[1]  what all keys begin with
--   ARGV[2]  the id of the node
--   ARGV[3]  which server this is
--   ARGV[4]  the epoch that the node knows, or ""
--   ARGV[5]  the highest mark that it has seen
--   ARGV[6]  the epoch that begins if one must, which is also the id of its timeline
--   ARGV[7]  the id of the timeline that begins if another server has taken over
--   ARGV[8]  milliseconds for which nodes that have not come yet are waited for
--   ARGV[9]  which of its connections this is, counted
--   ARGV[10] and following: the timelines that the node knows, the latest first
--
-- Keys, after the prefix, beside those of state.lua:
--
--   caller:<node>  which of its connections a node uses; what it has sent by an earlier one is not done any more
--   timelines  a line for each, the latest first
--   members    sorted set: node -> when it was last heard of, in milliseconds
--   arriving   "<since> <horizon>" while nodes are waited for: those that were heard of after the horizon
--   arrived    set: the nodes that have come since
--
-- Returns how many nodes are waited for, the epoch, the mark, up to which mark what the node knew is still there,
-- whether this call began the epoch, and all timelines.

local call = redis.call
local prefix, member, run = ARGV[1], ARGV[2], ARGV[3]
local TIMELINES, MEMBERS = prefix .. 'timelines', prefix .. 'members'
local ARRIVING, ARRIVED = prefix .. 'arriving', prefix .. 'arrived'
local MAX_TIMELINES = 30
local FENCED_FOR = 86400  -- seconds in which all has come that was sent by an earlier connection
local ALIVE = 5000  -- milliseconds since a node was heard of, as of the last that was

local epoch = call('GET', prefix .. 'epoch')
local mark = tonumber(call('GET', prefix .. 'mark') or 0)
local timelines = {}
for timeline in string.gmatch(call('GET', TIMELINES) or '', '[^\n]+') do
  timelines[#timelines + 1] = timeline
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function note(...)
  -- Writes what can be done without while Redis is full: reads go on then, also of a node that has just come.
  local result = redis.pcall(...)
  if type(result) == 'table' and result.err and not string.find(result.err, 'OOM', 1, true) then
    call(...)
  end
end

local caller = prefix .. 'caller:' .. member
if tonumber(call('GET', caller) or 0) > tonumber(ARGV[9]) then
  return redis.error_reply('SUPERSEDED by another connection of this node')
end
note('SET', caller, ARGV[9], 'EX', FENCED_FOR)

local function parts(timeline)
  return string.match(timeline, '^(%S+) (%S+) (%S+) (%d+)$')
end

local function begin(id, at)
  table.insert(timelines, 1, string.format('%s %s %s %.0f', id, run, epoch, at))
end

local function begin_epoch(at)
  epoch = ARGV[6]
  call('SET', prefix .. 'epoch', epoch)
  begin(epoch, at)
end

local known, latest = {}, nil
for index = 10, #ARGV do
  local id = parts(ARGV[index])
  known[id] = true
  latest = latest or id
end

-- Which server, and whether there is anything.

local _, last_run = parts(timelines[1] or '')
if not epoch then
  begin_epoch(mark)
  call('SET', prefix .. 'form', FORM)
  call('HSET', prefix .. 'revisions', '', 0)  -- there are no keys whose revisions were counted otherwise
elseif last_run ~= run then
  begin(ARGV[7], mark)
end
if last_run ~= run then
  local newest = call('ZRANGE', MEMBERS, -1, -1, 'WITHSCORES')[2] or 0
  call('SET', ARRIVING, string.format('%.0f %.0f', now, newest - ALIVE))
  call('DEL', ARRIVED)
end

-- What of all that the node has seen is still there.

local kept, found = mark, nil
for _, timeline in ipairs(timelines) do
  local id, _, _, at = parts(timeline)
  if known[id] then
    found = id
    break
  end
  kept = math.min(kept, tonumber(at))
end

if latest and (found ~= latest or (epoch == ARGV[4] and tonumber(ARGV[5]) > kept)) then
  if epoch ~= ARGV[6] then
    begin_epoch(kept)
  end
  -- What this node knows is a part of the history for all others.
  local present = {}
  for _, timeline in ipairs(timelines) do
    present[parts(timeline)] = true
  end
  for index = #ARGV, 10, -1 do
    if not present[parts(ARGV[index])] then
      table.insert(timelines, 2, ARGV[index])
    end
  end
end

local written = table.concat(timelines, '\n', 1, math.min(#timelines, MAX_TIMELINES))
if written ~= call('GET', TIMELINES) then
  call('SET', TIMELINES, written)
end

-- Who else must have compared before anything is written.

local function settle()
  -- Returns how many nodes are waited for.
  local since, horizon = string.match(call('GET', ARRIVING) or '', '^(%S+) (%S+)$')
  if not since then
    note('ZADD', MEMBERS, now, member)
    return 0
  end
  call('SADD', ARRIVED, member)
  local missing = 0
  for _, each in ipairs(call('ZRANGEBYSCORE', MEMBERS, horizon, '+inf')) do
    missing = missing + 1 - call('SISMEMBER', ARRIVED, each)
  end
  local waited = now - tonumber(since)
  if missing > 0 and waited >= 0 and waited < tonumber(ARGV[8]) then
    return missing
  end
  -- Their times are those of another server's clock.
  call('DEL', MEMBERS)
  for _, each in ipairs(call('SMEMBERS', ARRIVED)) do
    call('ZADD', MEMBERS, now, each)
  end
  call('DEL', ARRIVING, ARRIVED)
  return 0
end

return {settle(), epoch, mark, kept, epoch == ARGV[6] and 1 or 0, unpack(timelines, 1, math.min(#timelines, MAX_TIMELINES))}
