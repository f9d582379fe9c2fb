-- The beginning of each script: what run.lua must know of its verbs, once one of them has stopped.

-- verb -> function of the index of its first argument, which returns the name of the place that it reads or
-- changes.  A verb without one concerns everything.
local places = {}

-- Verbs that change nothing, and those that may go before such reads of the same place.
local reads, passes = {}, {}

-- Verbs that change several places: all that follows one that was left is left, too.
local barriers = {}

-- Functions that fill these tables: most calls need none of them.
local describe = {}

-- Functions that are called when all operations are done.
local endings = {}
