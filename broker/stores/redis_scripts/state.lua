-- What the verbs share.  Each call begins with these words; then follow, for each
-- operation, the number of its words, its verb and its arguments.
--
--   ARGV[1]  what all keys begin with
--   ARGV[2]  the epoch that the caller knows
--   ARGV[3]  what the channels of announced events begin with
--   ARGV[4]  the time in the place of this server's, in seconds since 1970, or ""
--   ARGV[5]  which time the caller expects it to be here, or ""
--   ARGV[6]  bytes of replies after which reads are left to the next call
--   ARGV[7]  the id of the calling node
--   ARGV[8]  which of its connections this is, counted: what comes late, by one that it has given up, is not done
--   ARGV[9]  the highest mark that the caller has seen
--   ARGV[10] whether any of the operations writes: "1" or ""
--
-- A quota is "<limit> <account>", or "" for none; a limit of 0 is none.
--
-- Keys, after the prefix; one variable part at the end keeps them apart:
--
--   caller:<node>  which of its connections a node uses; timeline.lua writes it
--   epoch          changes when the data was lost
--   form           which form all this has; broker/versions.py says what that means
--   heads          hash: log -> the last id given
--   logs           sorted set, in the order of bytes: the names of all logs
--   log:<log>      stream: <id>-0 -> e <record> [m <mark> [n <extras>]]
--   floors         hash: some digits of a log's hash -> the last id of all forgotten logs with these digits
--   accounts       hash: account -> how many logs and keys count for it
--   opened         hash: log -> the account that it counts for
--   mark           counts the calls that write; timeline.lua compares it with what nodes have seen
--   latest         the latest time of an event of any log
--   known:<length of the log>:<log><key>   the event that has come by a key: "<id> <date> <when the key ends>"
--   changes        sorted set: marked log -> mark of its last event
--   keys:<space>   hash: key -> "<revision> <expires> <value>"
--   order:<space>  sorted set, in the order of bytes: its keys
--   due:<space>    sorted set: key -> when it expires
--   owned:<space>  hash: key -> the account that it counts for
--   spaces         set: the spaces that have keys which expire
--   changed        stream: <revision>-0 -> m <message>: the last changes of keys, while "watched" is there
--   watched        there as long as somebody watches keys who may come again, and a while longer
--   previous       there as long as somebody wants to know the values before changes
--   revisions      hash: space -> the last revision given; "" -> there, if all were given from there

local call = redis.call
local prefix, BUDGET = ARGV[1], tonumber(ARGV[6])

local verbs = {}

-- Returned by a verb that can not act on what its caller knows; the second result is the present state.
local STOP = {}

-- Bytes of what was read in this call, about.  A verb that may return much does so only below BUDGET.
local replied = 0
local LATER = 0  -- the second result of a verb that returns STOP for that

-- Returned by a verb in the place of a positive number or a text.
local OVER_QUOTA, FULL, CONFLICT = -1, -2, -3

local FIRST = 11  -- where the operations begin

local ACCOUNTS = prefix .. 'accounts'

local function has_room(quota, more)
  -- Returns whether there may be so many more, and the account that they count for.
  if quota == '' then
    return true
  end
  local limit, account = string.match(quota, '^(%d+) (.*)$')
  return limit == '0' or tonumber(call('HGET', ACCOUNTS, account) or 0) + more <= tonumber(limit), account
end

local function count(quota, owners, name)
  -- Counts a new log or key; returns whether there may be one more.
  local room, account = has_room(quota, 1)
  if not (room and account) then
    return room
  end
  call('HINCRBY', ACCOUNTS, account, 1)
  call('HSET', owners, name, account)
  return true
end

local function uncount(owners, name)
  local account = call('HGET', owners, name)
  if account then
    call('HDEL', owners, name)
    if call('HINCRBY', ACCOUNTS, account, -1) <= 0 then
      call('HDEL', ACCOUNTS, account)
    end
  end
end

local may_publish = false  -- whether that was asked, and permitted

local function check_permission(log)
  -- Raises an error unless events of the log may be published: before anything is written, for what is written
  -- stays.
  local channel = ARGV[3] .. log
  if redis.acl_check_cmd then  -- since version 7
    may_publish = redis.acl_check_cmd('PUBLISH', channel, '')
  elseif not may_publish then
    may_publish = type(redis.pcall('PUBLISH', ARGV[3] .. 'probe', '')) == 'number'
  end
  if not may_publish then
    error({err = 'NOPERM this user may not publish to ' .. channel})
  end
end

local present = call(
  'MGET', prefix .. 'epoch', prefix .. 'mark', prefix .. 'clock', prefix .. 'latest', prefix .. 'previous',
  prefix .. 'watched', prefix .. 'caller:' .. ARGV[7], prefix .. 'form'
)
if tonumber(present[8] or 0) > FORM then
  return redis.error_reply('NEWER_FORM the data have the form ' .. present[8] .. ', of a later version of txbroker')
end
if tonumber(present[7] or 0) > tonumber(ARGV[8]) then
  return redis.error_reply('SUPERSEDED by another connection of this node')
end
local mark = tonumber(present[2] or 0)
if present[1] ~= ARGV[2] or mark < tonumber(ARGV[9]) then
  return redis.error_reply('STALE_EPOCH')
end
if ARGV[10] == '1' then
  local raised = redis.pcall('INCR', prefix .. 'mark')
  if type(raised) == 'number' then
    mark = raised
  elseif string.find(raised.err, 'READONLY', 1, true) then
    return raised
  end  -- else the writes are refused, too, but for removals, which Redis accepts when it is full
end
local mark_text = string.format('%.0f', mark)
