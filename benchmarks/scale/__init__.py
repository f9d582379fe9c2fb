"""How the cost of an operation grows with what there is of connections, topics, events, keys and cursors.

``growth`` counts the calls of functions in the core; here the CPU time of a real daemon is measured, its store and
its connections included.
"""
