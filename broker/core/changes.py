"""The last changes of keys, for those who watch again after they were away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from math import inf

from twisted.internet.interfaces import IReactorTime

from broker.core.change_batches import ChangeBatch
from broker.messages import Event

MAX_CHANGES = 10_000  # that are kept
MAX_SECONDS = 300.0  # for which a change is kept
MAX_BYTES = 1 << 24  # of all that are kept as long as somebody watches, or may be about to come back
IDLE_BYTES = 1 << 21  # of all that are kept otherwise
CHANGE_BYTES = 16  # that a change takes besides what it says


class RecentChanges:
    """The changes of keys that have come lately, in their order.

    Args:
        clock: says how old they are.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._batches: deque[ChangeBatch] = deque()
        self._count = 0
        self._size = 0
        self._watched_until = -inf

    def __len__(self) -> int:
        return self._count

    def keep(self) -> None:
        """Keep as much as may be for five minutes: somebody watches."""
        self._watched_until = self._clock.seconds() + MAX_SECONDS

    def add(self, change: Event) -> None:
        """Keep *change*, which is the newest."""
        if not self._batches or self._batches[-1].full:
            self._batches.append(ChangeBatch())
        self._size += self._batches[-1].add(change, self._clock.seconds()) + CHANGE_BYTES
        self._count += 1
        if self._size > IDLE_BYTES or self._count > MAX_CHANGES:
            self.drop()

    def drop(self) -> None:
        """Drop what is too old or too much."""
        batches, now = self._batches, self._clock.seconds()
        limit = MAX_BYTES if now <= self._watched_until else IDLE_BYTES
        while batches and (
            self._count > MAX_CHANGES or self._size > limit or batches[0].first_time < now - MAX_SECONDS
        ):
            self._size -= batches[0].drop_first() + CHANGE_BYTES
            self._count -= 1
            if not batches[0]:
                batches.popleft()

    def after(self, revision: int, head: int) -> Iterator[Event] | None:
        """Return the changes after *revision*, when *head* is the last that was given; None: not all are kept.

        They are made one by one, as they are there now, whenever that is.
        """
        self.drop()
        if revision == head:
            return iter(())
        # Revisions have no hole as long as the daemon runs.
        if not self._batches or revision < self._batches[0].first_revision - 1:
            return None
        later = [batch.after(revision) for batch in self._batches if batch.last_revision > revision]
        return chain.from_iterable(later)
