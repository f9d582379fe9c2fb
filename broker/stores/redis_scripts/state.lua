-- What the verbs share.  Each call begins with these words; then follow, for each
-- operation, the number of its words, its verb and its arguments.
--
--   ARGV[1]  what all keys begin with
--   ARGV[2]  the epoch that the caller knows
--   ARGV[3]  what the channels of announced events begin with
--   ARGV[4]  now, in seconds since the epoch, of the caller's clock
--
-- Keys, after the prefix; one variable part at the end keeps them apart:
--
--   epoch          changes when the data was lost
--   heads          hash: log -> the last id given
--   logs           sorted set, in the order of bytes: the names of all logs
--   log:<log>      stream: <id>-0 -> e <record> [m <mark> [n <extras>]]
--   mark           counts the calls that have appended to a marked log
--   changes        sorted set: marked log -> mark of its last event
--   keys:<space>   hash: key -> "<revision> <expires> <value>"
--   order:<space>  sorted set, in the order of bytes: its keys
--   due:<space>    sorted set: key -> when it expires
--   spaces         set: the spaces that have keys which expire

local call = redis.call
local prefix, now = ARGV[1], tonumber(ARGV[4])

local verbs = {}

-- Returned by a verb that can not act on what its caller knows; the second result is the present state.
local STOP = {}

local FIRST = 5  -- where the operations begin

if call('GET', prefix .. 'epoch') ~= ARGV[2] then
  return redis.error_reply('STALE_EPOCH')
end
