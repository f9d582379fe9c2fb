-- Jobs of work queues.  All of it is defined by the first operation on jobs of a call: most calls have none.
--
-- Keys, after the prefix:
--
--   job-number           the last number given
--   job:<number>         hash: q queue, h source, reference and time of the sender, b body, s state (a letter of SETS),
--                        u when it is or became ready, its lease ends or it died, t token, d deliveries, x failures, e when it
--                        ends or 0, a when it was added, o order key, w worker, m whether that is named, n node, c reason
--   queues               sorted set, in the order of bytes: the names of all queues
--   queue-owners         hash: queue -> the account that it counts for
--   jobs-<set>:<queue>   sorted set: number -> number, or when it is due, of the jobs in a state
--   jobs-ends:<queue>    sorted set: number -> when it ends, unless it is in flight or dead
--   jobs-active:<queue>  hash: order key -> number of its active job
--   jobs-behind:<queue>  sorted set, in the order of bytes: <length>:<order key><number of 16 digits> of blocked jobs
--   jobs-keys:<queue>    hash: dedupe key -> number
--   jobs-kept:<queue>    sorted set: dedupe key -> until when it is kept
--   jobs-on:<node>       sorted set: number -> number of the jobs in flight on a node
--   job-nodes            set: the nodes that have such

local function define_jobs()
  local QUEUES, OWNERS, NODES = prefix .. 'queues', prefix .. 'queue-owners', prefix .. 'job-nodes'
  -- Ready, blocked by another of its order key, delayed, waiting after a failure, in flight, dead.
  local SETS = {r = 'ready', b = 'blocked', d = 'due', w = 'due', f = 'flight', x = 'dead'}
  local STEP = 100  -- jobs that one call looks at besides those that it is asked for
  local FIELDS = {'q', 'b', 'h', 't', 'd', 'x', 'c', 'w', 'o', 'u'}

  local function key(kind, queue)
    return prefix .. 'jobs-' .. kind .. ':' .. queue
  end

  local function job_key(number)
    return prefix .. 'job:' .. number
  end

  local function text_of(number)
    return string.format('%.0f', number)
  end

  local function behind_of(order, number)
    return #order .. ':' .. order .. string.format('%016.0f', number)
  end

  local function move(queue, number, before, after, due)
    -- before: false for a new job; due: when it became ready, or 0, in the states that are sorted by numbers
    local from, to = before and SETS[before], SETS[after]
    if from and from ~= to then
      call('ZREM', key(from, queue), number)
    end
    call('HSET', job_key(number), 's', after, 'u', exact(due))
    call('ZADD', key(to, queue), (after == 'd' or after == 'w' or after == 'f') and exact(due) or number, number)
  end

  local function unblock(queue, number, order)
    -- Lets the next job of an order key be ready whose active one leaves; returns whether there is one.
    local active = key('active', queue)
    if order == '' or call('HGET', active, order) ~= number then
      return false
    end
    local first = #order .. ':' .. order
    local behind = call('ZRANGEBYLEX', key('behind', queue), '[' .. first .. '0', '(' .. first .. ':', 'LIMIT', 0, 1)[1]
    if not behind then
      call('HDEL', active, order)
      return false
    end
    local following = text_of(tonumber(string.sub(behind, #first + 1)))
    call('ZREM', key('behind', queue), behind)
    call('HSET', active, order, following)
    move(queue, following, 'b', 'r', tonumber(call('HGET', job_key(following), 'u')))
    return true
  end

  local function leave_node(number, node)
    call('ZREM', prefix .. 'jobs-on:' .. node, number)
    if call('EXISTS', prefix .. 'jobs-on:' .. node) == 0 then
      call('SREM', NODES, node)
    end
  end

  local function remove(queue, number, state, order, node)
    -- Returns whether another one is ready now for that.
    call('ZREM', key(SETS[state], queue), number)
    call('ZREM', key('ends', queue), number)
    call('DEL', job_key(number))
    if state == 'f' then
      leave_node(number, node)
    elseif state == 'b' then
      call('ZREM', key('behind', queue), behind_of(order, number))
    end
    return unblock(queue, number, order)
  end

  local function state_for(queue, number, order)
    -- Returns the state of a job whose time has come.
    if order == '' then
      return 'r'
    end
    local active = call('HGET', key('active', queue), order)
    if active and active ~= number then
      call('ZADD', key('behind', queue), 0, behind_of(order, number))
      return 'b'
    end
    call('HSET', key('active', queue), order, number)
    return 'r'
  end

  local function over(kind, queue)
    local found = call('ZRANGEBYSCORE', key(kind, queue), '-inf', exact(now - skipped), 'LIMIT', 0, STEP)
    if skipped > 0 and #found < STEP then
      local rest = STEP - #found
      for _, one in ipairs(call('ZRANGEBYSCORE', key(kind, queue), '(' .. exact(after), exact(now), 'LIMIT', 0, rest)) do
        found[#found + 1] = one
      end
    end
    return found
  end

  local function come(queue)
    -- Lets jobs be ready whose time has come, and removes those whose ttl is over.
    look_at_clock()
    for _, number in ipairs(over('ends', queue)) do
      local job = call('HMGET', job_key(number), 's', 'o', 'n')
      remove(queue, number, job[1], job[2], job[3])
    end
    for _, number in ipairs(over('due', queue)) do
      local job = call('HMGET', job_key(number), 's', 'o', 'u')
      move(queue, number, job[1], job[1] == 'd' and state_for(queue, number, job[2]) or 'r', tonumber(job[3]))
    end
  end

  local function read(number)
    local found = call('HMGET', job_key(number), unpack(FIELDS))
    replied = replied + #found[2] + 100
    return {number, unpack(found)}, #found[2]
  end

  local function page(found, most)
    -- Returns the jobs of these numbers, until their bodies have so many bytes.
    local jobs, size = {}, 0
    for _, number in ipairs(found) do
      local job, bytes = read(number)
      jobs[#jobs + 1], size = job, size + bytes
      if most > 0 and size >= most then
        break
      end
    end
    return jobs
  end

  local function begin(queue, quota)
    -- Returns whether there is such a queue now.
    if call('ZSCORE', QUEUES, queue) then
      return true
    end
    if not count(quota, OWNERS, queue) then
      return false
    end
    call('ZADD', QUEUES, 0, queue)
    return true
  end

  local function number_of(queue, ...)
    local total = 0
    for _, kind in ipairs({...}) do
      total = total + call('ZCARD', key(kind, queue))
    end
    return total
  end

  -- queue, head, body, dedupe key or "", seconds for which it is kept, order key or "", delay, ttl, limit, quota
  -- Returns the number and whether there was such a key; a list of one negative number when it is refused.
  verbs.add_job = function(at)
    local queue, name, order = ARGV[at], ARGV[at + 3], ARGV[at + 5]
    local delay, ttl, limit = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8])
    if order ~= '' then
      come(queue)  -- one of its order key whose time has come is before it
    else
      look_at_clock()
    end
    if name ~= '' then
      local kept = call('ZSCORE', key('kept', queue), name)
      if kept and not is_over(tonumber(kept)) then
        return {call('HGET', key('keys', queue), name), 1}
      end
    end
    if limit > 0 and number_of(queue, 'ready', 'blocked', 'due', 'flight') >= limit then
      return {FULL}
    end
    if not begin(queue, ARGV[at + 9]) then
      return {OVER_QUOTA}
    end
    local number = text_of(call('INCR', prefix .. 'job-number'))
    local ends = ttl > 0 and exact(now + ttl) or '0'
    call('HSET', job_key(number), 'q', queue, 'h', ARGV[at + 1], 'b', ARGV[at + 2], 't', '0', 'd', '0', 'x', '0',
      'e', ends, 'a', exact(now), 'o', order, 'w', '', 'm', '', 'n', '', 'c', '')
    if ttl > 0 then
      call('ZADD', key('ends', queue), ends, number)
    end
    move(queue, number, false, delay > 0 and 'd' or state_for(queue, number, order), delay > 0 and now + delay or 0)
    if name ~= '' then
      call('HSET', key('keys', queue), name, number)
      call('ZADD', key('kept', queue), exact(now + tonumber(ARGV[at + 4])), name)
    end
    return {number, 0}
  end

  -- queue, head, body, number, token, deliveries, failures, reason, order key
  verbs.restore_job = function(at)
    local queue, number, order = ARGV[at], ARGV[at + 3], ARGV[at + 8]
    look_at_clock()
    begin(queue, '')
    call('HSET', job_key(number), 'q', queue, 'h', ARGV[at + 1], 'b', ARGV[at + 2], 't', ARGV[at + 4],
      'd', ARGV[at + 5], 'x', ARGV[at + 6], 'c', ARGV[at + 7], 'o', order, 'e', '0', 'a', exact(now), 'w', '', 'm', '',
      'n', '')
    move(queue, number, false, state_for(queue, number, order), 0)
    return 1
  end

  local function next_due(queue)
    -- Returns the seconds until the next job is due, as text; "" for none.
    local found = call('ZRANGE', key('due', queue), 0, 0, 'WITHSCORES')
    if #found == 0 then
      return ''
    end
    local due = tonumber(found[2])
    return exact(math.max(0, is_over(due) and 0 or due <= now and due - now + skipped or due - now))
  end

  local function give(queue, number, at)
    -- client, "1" if it is named, node, lease
    local job = job_key(number)
    call('ZREM', key('ends', queue), number)
    call('HINCRBY', job, 't', 1)
    call('HINCRBY', job, 'd', 1)
    call('HSET', job, 'w', ARGV[at], 'm', ARGV[at + 1], 'n', ARGV[at + 2])
    move(queue, number, 'r', 'f', now + tonumber(ARGV[at + 3]))
    call('ZADD', prefix .. 'jobs-on:' .. ARGV[at + 2], number, number)
    call('SADD', NODES, ARGV[at + 2])
  end

  local SLOT = 5  -- words: the number of its job or "", and those of "give"

  -- queue, "1" to remove the jobs, bytes of bodies after which there are no more or "0", "1" if the slots name their
  -- jobs, how many slots, and those
  -- Returns the seconds until the next job is due, or "", and behind that the jobs as they were.
  verbs.claim_jobs = function(at)
    if replied >= BUDGET then
      return STOP, LATER
    end
    local queue, slots, chosen, slot_of = ARGV[at], tonumber(ARGV[at + 4]), {}, {}
    come(queue)
    if ARGV[at + 3] == '' then
      chosen = call('ZRANGE', key('ready', queue), 0, slots - 1)
    end
    for slot = at + 5, at + 5 + SLOT * (slots - 1), SLOT do
      local number = ARGV[slot]
      if ARGV[at + 3] == '' then
        number = chosen[(slot - at - 5) / SLOT + 1]
      elseif not slot_of[number] and call('ZSCORE', key('ready', queue), number) then
        chosen[#chosen + 1] = number
      end
      if number then
        slot_of[number] = slot
      end
    end
    local jobs = page(chosen, tonumber(ARGV[at + 2]))
    for _, job in ipairs(jobs) do
      if ARGV[at + 1] == '1' then
        remove(queue, job[1], 'r', job[10], '')
      else
        give(queue, job[1], slot_of[job[1]] + 1)
      end
    end
    table.insert(jobs, 1, next_due(queue))
    return jobs
  end

  -- queue, number after which they begin, how many at most, bytes as above
  verbs.ready_jobs = function(at)
    if replied >= BUDGET then
      return STOP, LATER
    end
    come(ARGV[at])
    local found = call('ZRANGEBYSCORE', key('ready', ARGV[at]), '(' .. ARGV[at + 1], '+inf', 'LIMIT', 0, ARGV[at + 2])
    return page(found, tonumber(ARGV[at + 3]))
  end

  -- the same
  verbs.dead_jobs = function(at)
    if replied >= BUDGET then
      return STOP, LATER
    end
    local found = call('ZRANGEBYSCORE', key('dead', ARGV[at]), '(' .. ARGV[at + 1], '+inf', 'LIMIT', 0, ARGV[at + 2])
    return page(found, tonumber(ARGV[at + 3]))
  end

  -- number
  verbs.find_job = function(at)
    return call('HGET', job_key(ARGV[at]), 'q')
  end

  local function delivery(number, token, client, epoch)
    -- Returns a job if its last delivery is that of *token*, to *client* unless that is nil, and the epoch is "=" and
    -- the present one, unless it is nil or "".
    if epoch and epoch ~= '' and epoch ~= '=' .. ARGV[2] then
      return nil
    end
    local found = call('HMGET', job_key(number), 'q', 's', 't', 'w', 'o', 'x', 'd', 'n', 'e')
    if found[3] ~= token or (client and found[4] ~= client) then
      return nil
    end
    local names = {'queue', 'state', 'token', 'worker', 'order', 'failures', 'deliveries', 'node', 'ends'}
    local job = {}
    for index, name in ipairs(names) do
      job[name] = found[index]
    end
    return job
  end

  local function settled(job, ready, dead, delay)
    return {job.queue, ready and 1 or 0, dead and 1 or 0, exact(delay or 0)}
  end

  -- number, token, "=" and the epoch or "", client
  verbs.finish_job = function(at)
    local job = delivery(ARGV[at], ARGV[at + 1], ARGV[at + 3], ARGV[at + 2])
    if not job then
      return false
    end
    return settled(job, remove(job.queue, ARGV[at], job.state, job.order, job.node))
  end

  local function return_job(job, number, state, due)
    -- Takes a job from the worker that has it.
    leave_node(number, job.node)
    move(job.queue, number, 'f', state, due)
    if state == 'x' then
      return
    end
    if tonumber(job.ends) > 0 then
      call('ZADD', key('ends', job.queue), job.ends, number)
    end
  end

  local function bury(job, number)
    return_job(job, number, 'x', now)
    return settled(job, unblock(job.queue, number, job.order), true)
  end

  -- number, token, "=" and the epoch or "", client, reason, the node where the lease has ended or "", how many delays,
  -- and those
  verbs.fail_job = function(at)
    local number, expired, count = ARGV[at], ARGV[at + 5] ~= '', tonumber(ARGV[at + 6])
    local job = delivery(number, ARGV[at + 1], ARGV[at + 3], ARGV[at + 2])
    if not job or (expired and job.node ~= ARGV[at + 5]) or (job.state ~= 'f' and (expired or job.state == 'b')) then
      return false
    end
    look_at_clock()
    call('HINCRBY', job_key(number), 't', expired and 0 or 1)
    call('HSET', job_key(number), 'c', ARGV[at + 4])
    if job.state ~= 'f' then
      return settled(job, false, job.state == 'x')
    end
    local failures = call('HINCRBY', job_key(number), 'x', 1)
    if failures > count then
      return bury(job, number)
    end
    local delay = tonumber(ARGV[at + 6 + failures])
    return_job(job, number, delay > 0 and 'w' or 'r', now + delay)
    return settled(job, delay <= 0, false, delay)
  end

  -- number, token, node, deliveries after which it is dead, "1" if it may have been delivered, the reason of its death
  verbs.release_job = function(at)
    local number = ARGV[at]
    local job = delivery(number, ARGV[at + 1])
    if not job or job.state ~= 'f' or job.node ~= ARGV[at + 2] then
      return false
    end
    look_at_clock()
    if ARGV[at + 4] ~= '1' then
      call('HINCRBY', job_key(number), 'd', -1)
    elseif tonumber(job.deliveries) >= tonumber(ARGV[at + 3]) then
      call('HSET', job_key(number), 'c', string.format(ARGV[at + 5], job.deliveries))
      return bury(job, number)
    end
    return_job(job, number, 'r', now)
    return settled(job, true)
  end

  -- number, token, "=" and the epoch or "", client, "1" if it is named, node, lease
  verbs.extend_job = function(at)
    local number, node = ARGV[at], ARGV[at + 5]
    local job = delivery(number, ARGV[at + 1], ARGV[at + 3], ARGV[at + 2])
    if not job or (job.state ~= 'f' and job.state ~= 'r' and job.state ~= 'w') then
      return false
    end
    look_at_clock()
    if job.state == 'f' then
      leave_node(number, job.node)
    end
    call('ZREM', key('ends', job.queue), number)
    call('HSET', job_key(number), 'm', ARGV[at + 4], 'n', node)
    move(job.queue, number, job.state, 'f', now + tonumber(ARGV[at + 6]))
    call('ZADD', prefix .. 'jobs-on:' .. node, number, number)
    call('SADD', NODES, node)
    return settled(job)
  end

  -- node, heir, number after which they begin, how many at most
  -- Returns for each job its fields, without the body, and whether its worker is named.
  verbs.adopt_jobs = function(at)
    local node, heir, jobs = ARGV[at], ARGV[at + 1], {}
    local fields = {'q', 'h', 't', 'd', 'x', 'c', 'w', 'o', 'u', 'm'}
    local on = prefix .. 'jobs-on:' .. node
    for _, number in ipairs(call('ZRANGEBYSCORE', on, '(' .. ARGV[at + 2], '+inf', 'LIMIT', 0, ARGV[at + 3])) do
      jobs[#jobs + 1] = {number, unpack(call('HMGET', job_key(number), unpack(fields)))}
      if heir ~= node then
        leave_node(number, node)
        call('HSET', job_key(number), 'n', heir)
        call('ZADD', prefix .. 'jobs-on:' .. heir, number, number)
        call('SADD', NODES, heir)
      end
    end
    return jobs
  end

  -- "": the verbs have one argument at least
  verbs.job_nodes = function()
    return call('SMEMBERS', NODES)
  end

  local function added(queue, kind)
    local first = call('ZRANGE', key(kind, queue), 0, 0)[1]
    return first and tonumber(call('HGET', job_key(first), 'a'))
  end

  local function come_of(queue)
    -- Returns how many jobs are due that no call has let be ready yet.
    look_at_clock()
    local due = key('due', queue)
    local found = call('ZCOUNT', due, '-inf', exact(now - skipped))
    if skipped > 0 then
      found = found + call('ZCOUNT', due, '(' .. exact(after), exact(now))
    end
    return found
  end

  local function counts(queue)
    local come, oldest = come_of(queue), math.huge
    for _, kind in ipairs(come > 0 and {'ready', 'blocked', 'due'} or {'ready', 'blocked'}) do
      oldest = math.min(oldest, added(queue, kind) or math.huge)
    end
    return number_of(queue, 'ready', 'blocked') + come, number_of(queue, 'due') - come, number_of(queue, 'flight'),
      number_of(queue, 'dead'), oldest < math.huge and exact(oldest) or '0'
  end

  -- queue
  verbs.queue_state = function(at)
    come(ARGV[at])
    return {counts(ARGV[at])}
  end

  -- lower bound of the names, how many queues at most
  -- Returns the lower bound of the next step, "" at the end; then the counts of each queue.
  verbs.queue_states = function(at)
    local found = {''}
    local queues = call('ZRANGEBYLEX', QUEUES, ARGV[at], '+', 'LIMIT', 0, ARGV[at + 1])
    for _, queue in ipairs(queues) do
      found[#found + 1] = {counts(queue)}
    end
    if #queues == tonumber(ARGV[at + 1]) then
      found[1] = '(' .. queues[#queues]
    end
    return found
  end

  local function dead(at)
    -- queue, how many at most, how many numbers follow or "", and those
    local queue, most, found = ARGV[at], tonumber(ARGV[at + 1]), {}
    if ARGV[at + 2] == '' then
      return queue, call('ZRANGE', key('dead', queue), 0, most - 1)
    end
    local seen = {}
    for index = at + 3, at + 2 + tonumber(ARGV[at + 2]) do
      local number = ARGV[index]
      if #found < most and not seen[number] and call('ZSCORE', key('dead', queue), number) then
        found[#found + 1], seen[number] = number, true
      end
    end
    return queue, found
  end

  -- the arguments of "dead"; returns how many were
  verbs.retry_jobs = function(at)
    local queue, found = dead(at)
    look_at_clock()
    for _, number in ipairs(found) do
      local order = call('HGET', job_key(number), 'o')
      call('HINCRBY', job_key(number), 't', 1)
      call('HSET', job_key(number), 'd', '0', 'x', '0', 'e', '0', 'a', exact(now))
      move(queue, number, 'x', state_for(queue, number, order), 0)
    end
    return #found
  end

  -- the same
  verbs.drop_jobs = function(at)
    local queue, found = dead(at)
    for _, number in ipairs(found) do
      remove(queue, number, 'x', '', '')
    end
    return #found
  end

  local function too_old(queue, before)
    -- Removes jobs that were added and ready, or died, before that; returns how many, and whether there may be more.
    local removed, more = 0, false
    for _, kind in ipairs({'ready', 'blocked', 'due', 'dead'}) do
      local gone = 0
      for _, number in ipairs(call('ZRANGE', key(kind, queue), 0, STEP - 1)) do
        local job = call('HMGET', job_key(number), 's', 'o', 'u', kind == 'dead' and 'u' or 'a')
        if math.max(job[3], job[4]) < before then
          remove(queue, number, job[1], job[2], '')
          gone = gone + 1
        end
      end
      removed, more = removed + gone, more or gone == STEP
    end
    return removed, more
  end

  local function all_of(queue)
    return number_of(queue, 'ready', 'blocked', 'due', 'flight', 'dead')
  end

  -- queue, seconds after which jobs are too old, or "0"
  -- Returns how many jobs were removed, and whether there may be more.
  verbs.sweep_queue = function(at)
    local queue, seconds, before = ARGV[at], tonumber(ARGV[at + 1]), all_of(ARGV[at])
    come(queue)
    local more, removed = before - all_of(queue) >= STEP, before - all_of(queue)
    if seconds > 0 then
      local old, rest = too_old(queue, now - skipped - seconds)
      removed, more = removed + old, more or rest
    end
    local kept = over('kept', queue)
    for _, name in ipairs(kept) do
      call('ZREM', key('kept', queue), name)
      call('HDEL', key('keys', queue), name)
    end
    if #kept == STEP then
      more = true
    elseif all_of(queue) == 0 and number_of(queue, 'kept') == 0 then
      call('ZREM', QUEUES, queue)
      uncount(OWNERS, queue)
    end
    return {removed, more and 1 or 0}
  end

  -- lower bound of the names, how many at most
  verbs.queue_names = function(at)
    return call('ZRANGEBYLEX', QUEUES, ARGV[at], '+', 'LIMIT', 0, ARGV[at + 1])
  end
end

setmetatable(verbs, {__index = function(_, verb)
  setmetatable(verbs, nil)
  define_jobs()
  return verbs[verb]
end})

describe[3] = function()
  local function queue_place(at)
    return 'jobs:' .. ARGV[at]
  end
  for _, verb in ipairs({'add_job', 'restore_job', 'claim_jobs', 'ready_jobs', 'dead_jobs', 'queue_state', 'retry_jobs',
    'drop_jobs', 'sweep_queue'}) do
    places[verb] = queue_place
  end
  reads.dead_jobs, reads.find_job, reads.job_nodes = true, true, true
  reads.queue_states, reads.queue_names = true, true
end
