"""The last changes of keys, for those who watch again after they were away."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice

from twisted.internet.interfaces import IReactorTime

from broker.messages import Event, revision_in

MAX_CHANGES = 10_000  # that are kept
MAX_SECONDS = 300.0  # for which a change is kept
MAX_BYTES = 1 << 24  # of all that are kept
CHANGE_BYTES = 500  # that a change takes besides its values, about


class RecentChanges:
    """The changes of keys that have come lately, in their order.

    Args:
        clock: says how old they are.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        # Time and size of each, and what its event is made of: the event itself keeps what it was rendered to.
        self._changes: deque[tuple[float, int, bytes, str, str, bytes | None, float, int, str, str]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, change: Event) -> None:
        """Keep *change*, which is the newest."""
        body, original = change.body, change.original
        size = len(body or b"") + len(original) + CHANGE_BYTES
        made = change.topic, change.name, body, change.time, change.id, change.epoch, change.origin
        self._changes.append((self._clock.seconds(), size, original, *made))
        self._size += size
        if self._size > MAX_BYTES or len(self._changes) > MAX_CHANGES:
            self.drop()

    def drop(self) -> None:
        """Drop what is too old or too much."""
        changes, oldest = self._changes, self._clock.seconds() - MAX_SECONDS
        while changes and (len(changes) > MAX_CHANGES or self._size > MAX_BYTES or changes[0][0] < oldest):
            self._size -= changes.popleft()[1]

    def after(self, revision: int, head: int) -> list[Event] | None:
        """Return the changes after *revision*, when *head* is the last that was given; None: not all are kept."""
        self.drop()
        if revision == head:
            return []
        revisions = [revision_in(original) for _, _, original, *_ in self._changes]
        # Revisions have no hole as long as the daemon runs.
        if not revisions or revision < revisions[0] - 1:
            return None
        return [
            Event(topic, name, body, "", time, id, epoch, origin, "", original)
            for _, _, original, topic, name, body, time, id, epoch, origin in islice(
                self._changes, bisect_right(revisions, revision), None
            )
        ]
