"""What one client can do to all others, at his worst: how long they wait, and how much memory he takes.

``target`` has the table; a new attack is a function with ``@attack``, that gets a ``Target``
and does its worst until ``target.over()``.  ``measure`` makes one against a daemon of its own.
"""
