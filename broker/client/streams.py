"""Items that come one after the other, for an application that takes them at its own pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from broker.client.errors import Cancelled, ClientError
from broker.client.outcomes import EndOfStream, Outcome

T = TypeVar("T")


def _ignore() -> None:
    """Do nothing."""


@attrs.define(eq=False)
class Stream(Generic[T]):
    """Items that have come and were not asked for yet.

    Attributes:
        limit: how many there should be at most.
        on_drained: is called when, after there were more, half of that or less is left.
    """

    limit: int
    on_drained: Callable[[], object] = _ignore
    ended: bool = False
    _error: ClientError | None = None
    _items: deque[T] = attrs.field(factory=deque)
    _waiters: list[Outcome[None]] = attrs.field(factory=list)
    _was_full: bool = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether there are as many items as there should be."""
        return len(self._items) >= self.limit

    def push(self, item: T) -> None:
        """Add *item*."""
        if self.ended:
            return
        self._items.append(item)
        self._was_full = self._was_full or self.is_full
        self._wake()

    def first(self) -> T:
        """Return the item that would come next, and leave it."""
        return self._items[0]

    def drop_oldest(self) -> T:
        """Remove the item that would come next, and return it."""
        return self._items.popleft()

    def drop_newest(self) -> T:
        """Remove the item that has come last, and return it."""
        return self._items.pop()

    def clear(self) -> list[T]:
        """Remove all items, and return them."""
        items, self._items = list(self._items), deque()
        return items

    def end(self, error: ClientError | None = None) -> None:
        """Add nothing more; those that asked or will ask get what is left, and then *error*."""
        if not self.ended:
            self.ended, self._error = True, error
            self._wake()

    def available(self) -> Outcome[None]:
        """Return what ends when there may be an item, or there will be none."""
        outcome: Outcome[None] = Outcome()
        if self._items:
            outcome.succeed(None)
        elif self.ended:
            outcome.fail(self._error or EndOfStream())
        else:
            self._waiters.append(outcome)
            outcome.cancelled = lambda: self._cancel(outcome)
        return outcome

    def pop(self) -> T:
        """Return the next item; ``IndexError``: there is none."""
        item = self._items.popleft()
        if self._was_full and len(self._items) * 2 <= self.limit:
            self._was_full = False
            self.on_drained()
        return item

    def _cancel(self, outcome: Outcome[None]) -> None:
        self._waiters.remove(outcome)
        outcome.fail(Cancelled())

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if self._items or not self.ended:
                waiter.succeed(None)
            else:
                waiter.fail(self._error or EndOfStream())
