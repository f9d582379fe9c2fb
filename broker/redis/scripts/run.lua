-- The end of each script: does the operations one after the other, each as a whole or
-- not at all: when Redis refuses a write, it refuses the first one of an operation.

local results, at = {}, FIRST
while at < #ARGV do
  local count = tonumber(ARGV[at])
  local done, result, state = pcall(verbs[ARGV[at + 1]], at + 2)
  if not done then
    -- An error of Redis is a table of version 7 on, and a text before.
    result = {err = type(result) == 'table' and result.err or tostring(result)}
  elseif result == STOP then
    return {results, state}
  end
  results[#results + 1] = result
  at = at + count + 1
end
return {results, false}
