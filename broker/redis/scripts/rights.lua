-- Which commands the user of this connection is not permitted to do: returns their numbers.
--
--   ARGV[1]  what errors say that an access control list causes, one on each line
--   ARGV[2]  and so on: for each command the number of its words, and those

local function is_refused(words)
  if redis.acl_check_cmd then  -- since version 7; nothing is done
    return not redis.acl_check_cmd(unpack(words))
  end
  local found = redis.pcall(unpack(words))
  if type(found) == 'table' and found.err then
    for message in string.gmatch(ARGV[1], '[^\n]+') do
      if string.find(found.err, message, 1, true) then
        return true
      end
    end
  end
  return false
end

local refused, at, number = {}, 2, 0
while at < #ARGV do
  local words = {}
  for index = at + 1, at + tonumber(ARGV[at]) do
    words[#words + 1] = ARGV[index]
  end
  number = number + 1
  if is_refused(words) then
    refused[#refused + 1] = number
  end
  at = at + #words + 1
end
return refused
