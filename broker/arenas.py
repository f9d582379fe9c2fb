"""How many arenas the interpreter may have: as many as what lasts needs, so that a burst leaves no memory behind.

An arena is a megabyte of small objects, and is given back when none is left in it.  What a burst makes is gone soon,
but for a few objects in each of its arenas.  So what the clients that are connected, and all that has been there for
a while, do not need is taken from ``malloc`` instead, from which the trimmer gives back each free page.

``broker/_arenas.c`` does it, where it was built; else the interpreter has as many as it likes.
"""

from __future__ import annotations

from collections.abc import Callable

LimitArenas = Callable[[int], int]

limit_arenas: LimitArenas | None
try:
    from broker import _arenas
except ImportError:
    limit_arenas = None
else:
    limit_arenas = _arenas.limit_arenas


class ArenaLimit:
    """Keeps the limit; one for the process.

    Args:
        limit_arenas: sets how many there may be more than at its first call; None where that is not possible.
    """

    SPARE = 2  # arenas, for what comes and goes all the time
    BLOCKS = 10_000  # small objects of an arena, about
    CONNECTIONS = 200  # whose state needs an arena, about

    def __init__(self, limit_arenas: LimitArenas | None) -> None:
        self._limit = limit_arenas
        self._begun = False
        self._lasting = 0
        self._connections: dict[object, int] = {}  # by their port

    def begin(self) -> None:
        """Set the limit from here on: all is made that the daemon has without clients."""
        self._begun = self._limit is not None
        self._set()

    def connected(self, port: object, connections: int) -> None:
        """Let the clients of *port* have their arenas; called with how many are connected, whenever that changes."""
        if connections % (self.CONNECTIONS // 2) == 0:
            if connections:
                self._connections[port] = connections
            else:
                self._connections.pop(port, None)
            self._set()

    def look(self, lasting: int) -> None:
        """Let what lasts have its arenas; called now and then with how many blocks more than at the start do."""
        self._lasting = lasting
        self._set()

    def _set(self) -> None:
        if self._begun and self._limit is not None:
            connections = sum(self._connections.values())
            self._limit(self.SPARE + max(self._lasting // self.BLOCKS, connections // self.CONNECTIONS))


arenas = ArenaLimit(limit_arenas)
