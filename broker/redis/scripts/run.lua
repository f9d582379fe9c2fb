-- The end of each script: does the operations one after the other, each as a whole or
-- not at all: when Redis refuses a write, it refuses the first one of an operation.
--
-- An operation whose verb returns STOP is left to the next call, and so are those of the same place after
-- it; all others are done now.  Returned are the results, and of what was left the numbers and the states,
-- and the mark of the store, or false.

local AGAIN = 0  -- the state of what only has to be sent again

local results, left, number, at = {}, {}, 0, FIRST
local blocked  -- nil while all were done; place -> 'r' when a read of it was left, 'w' when a change was
local barred = false  -- whether one of "barriers" was left

local function waits(verb, first)
  if barred then
    return true
  end
  local place = places[verb]
  if not place then
    return blocked.writes
  end
  local kind = blocked[place(first)]
  return kind == 'w' or (kind == 'r' and not reads[verb] and not passes[verb])
end

local function leave(verb, first, state)
  if not blocked then
    blocked = {}
    for _, fill in ipairs(describe) do
      fill()
    end
  end
  left[#left + 1] = number
  left[#left + 1] = state
  barred = barred or barriers[verb]
  local place = places[verb]
  if not reads[verb] then
    blocked.writes = true
    if place then
      blocked[place(first)] = 'w'
    end
  elseif place then
    local name = place(first)
    blocked[name] = blocked[name] or 'r'
  end
end

while at < #ARGV do
  local words, verb = tonumber(ARGV[at]), ARGV[at + 1]
  number = number + 1
  if blocked and waits(verb, at + 2) then
    leave(verb, at + 2, AGAIN)
    results[number] = false
  else
    local done, result, state = pcall(verbs[verb], at + 2)
    if not done then
      -- An error of Redis is a table of version 7 on, and a text before.
      result = {err = type(result) == 'table' and result.err or tostring(result)}
    elseif result == STOP then
      leave(verb, at + 2, state)
      result = false
    end
    results[number] = result
  end
  at = at + words + 1
end
for _, finish in ipairs(endings) do
  finish()
end
return {results, left, mark}
