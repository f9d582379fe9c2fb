"""When things are due, without a timer for each.

Things with the same delay are due in the order in which they came, so that a
line for each delay, and one look at the head of each line, is all it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

K = TypeVar("K")

GRAIN = 0.05  # seconds between two looks at the lines
COARSE = 64  # at most so many lines of odd delays before they are rounded up


class Deadlines(Generic[K]):
    """Calls ``expire(key)`` for each key whose time has come.

    Adding and dropping are two dictionary operations; nothing remains of a
    key that was dropped.  A key is late by at most *grain* seconds.
    """

    def __init__(self, clock: IReactorTime, expire: Callable[[K], object], grain: float = GRAIN) -> None:
        self._clock = clock
        self._grain = grain
        self._expire = expire
        self._lines: dict[float, dict[K, float]] = {}
        self._look: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, key: K, delay: float) -> float:
        """Let *key* be due in *delay* seconds; return the line to drop it from.

        A key that is in a line already must be dropped first.
        """
        line = self._lines.get(delay)
        if line is None:
            if len(self._lines) >= COARSE:
                # Clients choose delays: without rounding, each could be a line.
                power = 1.0
                while power < delay:
                    power *= 2
                delay = power
                line = self._lines.get(delay)
            if line is None:
                line = self._lines[delay] = {}
        line[key] = self._clock.seconds() + delay
        if self._look is None:
            self._look = self._clock.callLater(self._grain, self._sweep)
        return delay

    def drop(self, key: K, line: float) -> None:
        """Forget *key*, which may be gone already."""
        keys = self._lines.get(line)
        if keys is not None:
            keys.pop(key, None)

    def stop(self) -> None:
        """Forget everything."""
        self._lines.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _sweep(self) -> None:
        self._look = None
        now = self._clock.seconds()
        due: list[K] = []
        for delay, line in list(self._lines.items()):
            ripe = []
            for key, when in line.items():
                if when > now:
                    break
                ripe.append(key)
            for key in ripe:
                del line[key]
            if not line:
                del self._lines[delay]
            due += ripe
        for key in due:
            try:
                self._expire(key)
            except Exception:
                log.failure("a deadline could not be kept")
        if self._lines and self._look is None:
            self._look = self._clock.callLater(self._grain, self._sweep)
