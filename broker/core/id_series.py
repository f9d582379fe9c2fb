"""Ids in the shape of a UUID, for what there is too much of to draw each at random."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from uuid import uuid4


class IdSeries:
    """Ids that are random for each process, then counted.

    Attributes:
        ids: them, without end.  A process that was forked finds others here.
    """

    ids: Iterator[str]

    def __init__(self, version: str) -> None:
        """*version* is the digit that says which kind of UUID it is (RFC 9562, 4.2)."""
        self._version = version
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        random = str(uuid4())
        prefix, first = f"{random[:14]}{self._version}{random[15:24]}", int(random[28:], 16)
        self.ids = map(f"{prefix}%012x".__mod__, count(first))  # never fills its 48 bits
