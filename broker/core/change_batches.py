"""Changes of keys that came one after the other, packed into one piece of memory."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from broker.messages import Event, revision_in

BATCH_BYTES = 1 << 16  # of changes that are packed together, and one change more

# What its event is made of: the event itself keeps what it was rendered to, and takes three times the memory.
Change: TypeAlias = tuple[bytes, str, str, bytes | None, float, int, str, str]
encode_into = msgspec.msgpack.Encoder().encode_into
decode = msgspec.msgpack.Decoder(Change).decode


class ChangeBatch:
    """Changes in their order; the oldest can be dropped.

    They are no objects of their own.  Thousands of those, which are kept for minutes, would lie between
    what clients made at the same time, and keep the memory of that from the operating system.
    """

    __slots__ = ("_ends", "_first", "_packed", "_times")

    def __init__(self) -> None:
        self._packed = bytearray()
        self._ends = array("Q")  # where each ends in what is packed
        self._times = array("d")  # when each has come
        self._first = 0  # those before it were dropped

    def __len__(self) -> int:
        return len(self._ends) - self._first

    @property
    def full(self) -> bool:
        """Whether the next change is to be packed into another batch."""
        return len(self._packed) >= BATCH_BYTES

    @property
    def first_time(self) -> float:
        """When the oldest has come."""
        return self._times[self._first]

    @property
    def first_revision(self) -> int:
        """The revision of the oldest."""
        return self._revision(self._first)

    @property
    def last_revision(self) -> int:
        """The revision of the newest."""
        return self._revision(len(self._ends) - 1)

    def add(self, change: Event, time: float) -> int:
        """Add *change*, which has come at *time*; return how many bytes it has."""
        before = len(self._packed)
        made = change.topic, change.name, change.body, change.time, change.id, change.epoch, change.origin
        encode_into((change.original, *made), self._packed, before)
        self._ends.append(len(self._packed))
        self._times.append(time)
        return len(self._packed) - before

    def drop_first(self) -> int:
        """Drop the oldest; return how many bytes it had."""
        start, end = self._place(self._first)
        self._first += 1
        return end - start

    def after(self, revision: int) -> Iterator[Event]:
        """Return the changes after *revision* that there are now: also those that are dropped before they are read."""
        count = len(self._ends)
        return map(self._event, range(bisect_right(range(count), revision, self._first, key=self._revision), count))

    def _event(self, index: int) -> Event:
        original, topic, name, body, time, id, epoch, origin = self._read(index)
        return Event(topic, name, body, "", time, id, epoch, origin, "", original)

    def _place(self, index: int) -> tuple[int, int]:
        return self._ends[index - 1] if index else 0, self._ends[index]

    def _read(self, index: int) -> Change:
        start, end = self._place(index)
        change: Change = decode(self._packed[start:end])
        return change

    def _revision(self, index: int) -> int:
        return revision_in(self._read(index)[0])
