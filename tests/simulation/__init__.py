"""Several nodes and their clients in one process, on a virtual clock, over a network that a seed decides.

What runs is the broker itself: its core, its peers, what it does between nodes, its store and bus on Redis with their
Lua scripts.  Simulated are the clock (``world``), the Redis server below the scripts (``commands``, ``server``), the
connections to it (``network``), and the clients (``clients``).  ``python -m tests.simulation --help`` says how to run
it.
"""
