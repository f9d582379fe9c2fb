"""What waits to be sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from broker.client.errors import BufferFull
from broker.client.outcomes import Operation


@attrs.define(eq=False)
class Outbox:
    """Operations in the order in which they are to be sent, as many as may wait.

    Attributes:
        max_messages: how many.
        max_bytes: of their frames together.
        size: bytes of those that wait.
    """

    max_messages: int
    max_bytes: int
    size: int = 0
    _waiting: dict[str, Operation[Any]] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Operation[Any]]:
        return iter(list(self._waiting.values()))

    def add(self, operation: Operation[Any]) -> None:
        """Let *operation* wait.

        Raises:
            BufferFull: too much waits.
        """
        if len(self._waiting) >= self.max_messages or self.size + len(operation.data) > self.max_bytes:
            raise BufferFull()
        self._waiting[operation.id] = operation
        self.size += len(operation.data)

    def put_back(self, operations: Iterable[Operation[Any]]) -> None:
        """Let *operations*, which had been sent, wait before all others; they have had their room."""
        first = {each.id: each for each in operations}
        self.size += sum(len(each.data) for each in first.values())
        self._waiting = {**first, **self._waiting}

    def remove(self, operation: Operation[Any]) -> bool:
        """Let it not wait any more; say whether it did."""
        if self._waiting.pop(operation.id, None) is None:
            return False
        self.size -= len(operation.data)
        return True

    def first(self) -> Operation[Any] | None:
        """Return the one that is to be sent next."""
        return next(iter(self._waiting.values()), None)
