-- The end of each script: does the operations one after the other, each as a whole or
-- not at all: when Redis refuses a write, it refuses the first one of an operation.
-- Answers the results, the state that the one at which it has stopped must know, and the mark of the store or false.

local results, at = {}, FIRST
while at < #ARGV do
  local count = tonumber(ARGV[at])
  local done, result, state = pcall(verbs[ARGV[at + 1]], at + 2)
  if not done then
    -- An error of Redis is a table of version 7 on, and a text before.
    result = {err = type(result) == 'table' and result.err or tostring(result)}
  elseif result == STOP then
    return {results, state, mark}
  end
  results[#results + 1] = result
  at = at + count + 1
end
return {results, false, mark}
