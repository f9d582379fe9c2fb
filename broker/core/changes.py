"""The last changes of keys, for those who watch again after they were away."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from math import inf
from typing import TypeAlias

import msgspec
from twisted.internet.interfaces import IReactorTime

from broker.messages import Event, revision_in

MAX_CHANGES = 10_000  # that are kept
MAX_SECONDS = 300.0  # for which a change is kept
MAX_BYTES = 1 << 24  # of all that are kept as long as somebody watches, or may be about to come back
IDLE_BYTES = 1 << 21  # of all that are kept otherwise
CHANGE_BYTES = 100  # that a change takes besides what it says, about

# What its event is made of: the event itself keeps what it was rendered to, and takes three times the memory.
Change: TypeAlias = tuple[bytes, str, str, bytes | None, float, int, str, str]
encode_into = msgspec.msgpack.Encoder().encode_into
decode = msgspec.msgpack.Decoder(Change).decode


class RecentChanges:
    """The changes of keys that have come lately, in their order.

    Args:
        clock: says how old they are.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._changes: deque[bytes] = deque()
        self._times: deque[float] = deque()  # when each has come
        self._buffer = bytearray()
        self._size = 0
        self._watched_until = -inf

    def __len__(self) -> int:
        return len(self._changes)

    def keep(self) -> None:
        """Keep as much as may be for five minutes: somebody watches."""
        self._watched_until = self._clock.seconds() + MAX_SECONDS

    def add(self, change: Event) -> None:
        """Keep *change*, which is the newest."""
        made = change.topic, change.name, change.body, change.time, change.id, change.epoch, change.origin
        encode_into((change.original, *made), self._buffer)
        kept = bytes(self._buffer)  # no longer than it must be: what an encoder returns may have twice the memory
        self._changes.append(kept)
        self._times.append(self._clock.seconds())
        self._size += len(kept) + CHANGE_BYTES
        if self._size > IDLE_BYTES or len(self._changes) > MAX_CHANGES:
            self.drop()

    def drop(self) -> None:
        """Drop what is too old or too much."""
        changes, times, now = self._changes, self._times, self._clock.seconds()
        limit = MAX_BYTES if now <= self._watched_until else IDLE_BYTES
        while changes and (len(changes) > MAX_CHANGES or self._size > limit or times[0] < now - MAX_SECONDS):
            self._size -= len(changes.popleft()) + CHANGE_BYTES
            times.popleft()

    def after(self, revision: int, head: int) -> list[Event] | None:
        """Return the changes after *revision*, when *head* is the last that was given; None: not all are kept."""
        self.drop()
        if revision == head:
            return []
        # Revisions have no hole as long as the daemon runs.
        if not self._changes or revision < _revision(self._changes[0]) - 1:
            return None
        first = bisect_right(self._changes, revision, key=_revision)
        return [
            Event(topic, name, body, "", time, id, epoch, origin, "", original)
            for original, topic, name, body, time, id, epoch, origin in map(decode, islice(self._changes, first, None))
        ]


def _revision(kept: bytes) -> int:
    return revision_in(decode(kept)[0])
