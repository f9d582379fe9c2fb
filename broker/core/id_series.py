"""Ids in the shape of a UUID, for what there is too much of to draw each at random."""

from __future__ import annotations

import os
from itertools import count
from uuid import uuid4


class IdSeries:
    """Ids that are random for each process, then counted.

    A process that was forked begins a series of its own.
    """

    def __init__(self, version: str) -> None:
        """*version* is the digit that says which kind of UUID it is (RFC 9562, 4.2)."""
        self._version = version
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        random = str(uuid4())
        self._prefix = f"{random[:14]}{self._version}{random[15:24]}"
        self._numbers = count(int(random[28:], 16))  # of 48 bits, which it never fills

    def next(self) -> str:
        """Return an id that was never there before."""
        return f"{self._prefix}{next(self._numbers):012x}"
