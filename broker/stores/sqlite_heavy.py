"""Operations that cost much more than what was sent for them: they wait in a queue of their own.

Whoever changes a key rewrites its whole value, however little is said, and whoever reads it asks for all of it by a
few bytes.  A thousand patches of a large one would be a transaction of many seconds, and everybody's writes with it.
So each batch has but some of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

import attrs

from broker.stores.sqlite_batches import QueuedCall

HEAVY_BYTES = 1 << 16  # that an operation reads and writes; those with less are quick
BATCH_BYTES = 1 << 22  # of heavy operations, in one batch
MAX_HEAVY_BYTES = 1 << 26  # of all that wait: about a second of work


@attrs.frozen(eq=False)
class Heavy:
    """An operation that waits.

    Attributes:
        call: what is to be done.
        size: bytes of the bodies and values that are kept for it.
        cost: bytes that it reads and writes.
        touched: names of what it may change, or reads.
    """

    call: QueuedCall
    size: int
    cost: int
    touched: tuple[Hashable, ...]


@attrs.define
class Touched:
    """What waits and touches the same: how many operations, and the most that one of them costs."""

    count: int = 0
    cost: int = 0


class HeavyQueue:
    """Heavy operations in their order, and whatever has to do with the same afterwards, so that its order is kept.

    Attributes:
        count: how many there are.
        bytes: what all of them cost.
        size: the bytes of bodies and values that are kept for them.
    """

    def __init__(self) -> None:
        self.count = self.bytes = self.size = 0
        self._waiting: deque[Heavy] = deque()
        self._touched: dict[Hashable, Touched] = {}

    def cost(self, *touched: Hashable) -> int:
        """Return the most that an operation costs which waits and touches one of these; 0 if there is none."""
        return max((self._touched[name].cost for name in touched if name in self._touched), default=0)

    def add(self, call: QueuedCall, size: int, cost: int, touched: tuple[Hashable, ...]) -> None:
        """Let a call wait; see ``Heavy``."""
        self._waiting.append(Heavy(call, size, cost, touched))
        for name in touched:
            known = self._touched.setdefault(name, Touched())
            known.count += 1
            known.cost = max(known.cost, cost)
        self.count += 1
        self.bytes += cost
        self.size += size

    def remove_all(self) -> list[QueuedCall]:
        """Remove all of them; return their calls."""
        calls = [operation.call for operation in self._waiting]
        self._waiting.clear()
        self._touched.clear()
        self.count = self.bytes = self.size = 0
        return calls

    def next_batch(self) -> list[Heavy]:
        """Return those that the next batch is to do, one at least if there are any."""
        found: list[Heavy] = []
        left = BATCH_BYTES
        while self._waiting and left > 0:
            operation = self._waiting.popleft()
            found.append(operation)
            left -= operation.cost
            self.count -= 1
            self.bytes -= operation.cost
            self.size -= operation.size
            for name in operation.touched:
                self._touched[name].count -= 1
                if not self._touched[name].count:
                    del self._touched[name]
        return found
