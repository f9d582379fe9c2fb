-- What has ended: by the clock of this server, whose jumps forward are skipped for a while, see expiry.py.
-- A jump is what one of the nodes, whose own clock can not be set, did not expect.
--
-- A key, after the prefix:
--
--   clock  "<time when a node asked last> <seconds skipped> <where the last jump has led> <when that was noticed>"

local MAX_STEP = 60  -- seconds that are no jump
local MAX_DOWNTIME = 86400  -- seconds in which no node may have asked
local SKIPPED_FOR = 3600

local now = tonumber(ARGV[4])  -- nil until it is asked for
local skipped, after, noticed = 0, 0, 0

local function exact(number)
  return string.format('%.17g', number)
end

local function note_clock()
  if ARGV[4] ~= '' then
    return
  end
  -- It can be done without: a server that is full, or only reads, refuses it.
  local note = {exact(now), exact(skipped), exact(after), exact(noticed)}
  redis.pcall('SET', prefix .. 'clock', table.concat(note, ' '))
end

local function step_of(last)
  -- Returns by how much the clock has jumped since the last look, and what is no jump.
  local expected = tonumber(ARGV[5])
  if not expected then
    return last and now - last or 0, MAX_DOWNTIME
  end
  local step = now - expected
  if last and math.abs(now - last) < math.abs(step) then
    step = now - last  -- another node has noticed it
  end
  return step, MAX_STEP
end

local function look_at_clock()
  if now then
    return
  end
  local time = call('TIME')
  now = time[1] + time[2] / 1e6
  local last
  if present[3] then
    last, skipped, after, noticed = string.match(present[3], '^(%S+) (%S+) (%S+) (%S+)$')
    last, skipped, after, noticed = tonumber(last), tonumber(skipped), tonumber(after), tonumber(noticed)
  end
  local step, limit = step_of(last)
  if step > limit then
    skipped, after, noticed = skipped + step, last and last + step or now, now
    note_clock()
  elseif step < -limit then
    skipped, after, noticed = math.max(0, skipped + step), math.min(after, last and last + step or now), math.min(noticed, now)
    note_clock()
  end
  if skipped <= MAX_STEP or now - noticed >= SKIPPED_FOR then
    skipped = 0
  end
end

local function is_over(expires)
  if expires <= 0 then
    return false
  end
  look_at_clock()
  return expires <= now - skipped or (skipped > 0 and expires > after and expires <= now)
end
