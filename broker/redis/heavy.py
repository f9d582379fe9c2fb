"""Changes of large values, which cost much more than what was sent for them: they wait in a queue of their own.

Where a value is changed by a function, the whole of it is read, written and published, however little is said.
Thousands of such changes would keep everybody from a Redis, which does one thing at a time, and from this node.  So
each call has but some of them, and goes on with what others have submitted meanwhile.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import cast

from broker.redis.chains import Computed
from broker.redis.operations import Operation

LARGE = 1 << 12  # bytes of a value, from which on its changes wait here
CALL_BYTES = 1 << 19  # of the values that change in one call
MIN_BYTES = 1 << 10  # that any operation counts for in a call
MAX_BYTES = 1 << 26  # of the values of all changes that wait: some seconds of work
MAX_KNOWN = 10_000  # large values whose size is remembered


class HeavyQueue:
    """Changes of large values in their order, and whatever concerns these values afterwards, so that its order is kept.

    How large a value is, is known once it was read or made; a change of one of which nothing is known is none of these.

    Attributes:
        operations: those that wait, to be read only.
        bytes: of the values of all changes that wait, each counted for itself.
        in_use: whether there may be an operation that must wait here.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.in_use = False
        self.operations: deque[Operation] = deque()
        self._places: Counter[Hashable] = Counter()
        self._sizes: dict[Hashable, int] = {}

    def learn(self, place: Hashable, size: int) -> None:
        """Notice that the value of *place* has so many bytes."""
        if size > LARGE:
            if len(self._sizes) >= MAX_KNOWN:
                del self._sizes[next(iter(self._sizes))]
            self._sizes[place] = size
            self.in_use = True
        elif self._sizes.pop(place, 0):
            self._see_whether_in_use()

    def concerns(self, operation: Operation) -> bool:
        """Whether *operation* must wait here."""
        place = operation.place()
        if place in self._places or (operation.computes and place in self._sizes):
            return True
        return operation.follows_all and bool(self.operations)

    def is_full(self, operation: Operation) -> bool:
        """Whether *operation*, which must wait here, is too much for that."""
        size = self._sizes.get(operation.place(), 0) if operation.computes and self.operations else 0
        return size > 0 and self.bytes + size > MAX_BYTES

    def add(self, operation: Operation) -> None:
        """Let *operation* wait behind the others."""
        self._count(operation)
        self.operations.append(operation)

    def add_first(self, operations: Sequence[Operation]) -> None:
        """Let *operations*, which are older than the others, wait before them."""
        for operation in operations:
            self._count(operation)
        self.operations.extendleft(reversed(operations))

    def part(self, operations: Sequence[Operation]) -> tuple[list[Operation], list[Operation]]:
        """Return those of *operations*, which were under way, that belong here, and the others."""
        places = {each.place() for each in operations if each.computes and cast(Computed, each).counted}
        heavy: list[Operation] = []
        others: list[Operation] = []
        for operation in operations:
            place = operation.place()
            here = place in places or place in self._places or (operation.follows_all and self.operations)
            (heavy if here else others).append(operation)
        return heavy, others

    def next_batch(self) -> list[Operation]:
        """Return those that the next call does, one at least if there are any."""
        found: list[Operation] = []
        left = CALL_BYTES
        while self.operations and left > 0:
            operation = self.operations.popleft()
            found.append(operation)
            place = operation.place()
            if place is not None:
                self._places[place] -= 1
                if not self._places[place]:
                    del self._places[place]
            counted = cast(Computed, operation).counted if operation.computes else 0
            self.bytes -= counted
            left -= max(counted, operation.reply, MIN_BYTES)
        self._see_whether_in_use()
        return found

    def _see_whether_in_use(self) -> None:
        self.in_use = bool(self.operations or self._sizes)

    def _count(self, operation: Operation) -> None:
        self.in_use = True
        place = operation.place()
        if place is not None:
            self._places[place] += 1
        if operation.computes:
            operation = cast(Computed, operation)
            operation.counted = self._sizes.get(place, operation.counted)
            self.bytes += operation.counted
