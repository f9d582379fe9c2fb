"""Operations that wait for a later call, and what must not go before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

from broker.redis.operations import Operation


class Postponed:
    """Operations in their order, which let others go before them that concern other places.

    So a small write does not wait behind large reads; but it waits behind a read or a write of its own place.
    The script of the store decides in the same way within a call (``run.lua``).

    Attributes:
        operations: those that wait, to be read only.
    """

    def __init__(self) -> None:
        self.operations: deque[Operation] = deque()
        self._reads: dict[Hashable, int] = {}  # how many of them read a place
        self._writes: dict[Hashable, int] = {}  # how many of them change it; None: those without one place
        self._barriers = 0  # how many of them all others wait for

    def add(self, operation: Operation) -> None:
        """Let *operation* wait behind the others."""
        self.operations.append(operation)
        self._count(operation, 1)

    def add_first(self, operations: Iterable[Operation]) -> None:
        """Let *operations*, which are older than the others, wait before them."""
        found = list(operations)
        self.operations.extendleft(reversed(found))
        for operation in found:
            self._count(operation, 1)

    def pop(self) -> Operation:
        """Remove the first, and return it."""
        operation = self.operations.popleft()
        self._count(operation, -1)
        return operation

    def blocks(self, operation: Operation) -> bool:
        """Whether *operation*, which is newer than all these, must wait for one of them."""
        if self._barriers:
            return True
        place = operation.place()
        if place is None:
            return bool(self._writes)
        if place in self._writes:
            return True
        return place in self._reads and not (operation.reads or operation.passes_reads)

    def _count(self, operation: Operation, number: int) -> None:
        if operation.barrier:
            self._barriers += number
        counts = self._reads if operation.reads else self._writes
        place = operation.place()
        left = counts.get(place, 0) + number
        if left:
            counts[place] = left
        else:
            del counts[place]
