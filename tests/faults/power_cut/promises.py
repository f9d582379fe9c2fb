"""What a daemon has acknowledged, and what is broken of that by what is found after a power cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import attrs

NOTHING = None  # the value of what was never written, or was removed


@attrs.define
class Register:
    """The values that one client has written to one place, each after the answer to the one before.

    What was not answered, since the daemon was stopped, may have been written.
    """

    _writes: list[tuple[Any, int | None]] = attrs.field(factory=lambda: [(NOTHING, 0)])  # and when it was answered

    def begin(self, value: Any) -> None:
        """Note that *value* is about to be written."""
        self._writes.append((value, None))

    def acknowledge(self) -> None:
        """Note that it was."""
        self._writes[-1] = self._writes[-1][0], time.monotonic_ns()

    @property
    def values(self) -> list[Any]:
        """What was written, answered or not."""
        return [value for value, _ in self._writes]

    @property
    def last(self) -> Any:
        """What was written last, answered or not."""
        return self._writes[-1][0]

    def acknowledged(self, stamp: float) -> int:
        """Return how many writes had been answered at *stamp*."""
        return sum(when is not None and 0 < when < stamp for _, when in self._writes)

    def possible(self, stamp: float) -> list[Any]:
        """Return what may be there after a power cut at *stamp*, in nanoseconds of the monotonic clock."""
        values: list[Any] = []
        for value, when in self._writes:
            if when is not None and when < stamp:
                values.clear()
            values.append(value)
            if when is not None and when >= stamp:
                break  # it was written after this at the earliest that what follows was
        return values


@attrs.define
class Found:
    """What is there after a power cut.

    Attributes:
        events: those of the channel, by id.
        values: of each register, ``NOTHING`` for none.
        unreadable: why nothing can be found at all.
        faults: what is wrong with it, whatever was acknowledged.
    """

    events: dict[int, Any] = attrs.field(factory=dict)
    values: dict[tuple[str, str], Any] = attrs.field(factory=dict)
    unreadable: str = ""
    faults: list[str] = attrs.field(factory=list)


@attrs.define
class Promises:
    """All that was acknowledged.

    Args:
        kept: how many events the retention leaves.

    Attributes:
        events: when each was acknowledged, and its data, by its id.
        registers: by what they are and their name.
    """

    kept: int
    events: dict[int, tuple[int, Any]] = attrs.field(factory=dict)
    registers: dict[tuple[str, str], Register] = attrs.field(factory=dict)

    def register(self, kind: str, name: str) -> Register:
        """Return that of this kind and name."""
        return self.registers.setdefault((kind, name), Register())

    def posted(self, id: int, data: Any) -> None:
        """Note that an event was acknowledged."""
        assert id not in self.events
        self.events[id] = time.monotonic_ns(), data

    def acknowledged(self, stamp: float) -> int:
        """Return how much had been acknowledged at *stamp*."""
        events = sum(when < stamp for when, _ in self.events.values())
        return events + sum(register.acknowledged(stamp) for register in self.registers.values())

    def broken(self, found: Found, stamp: float) -> list[str]:
        """Return what is broken if *found* is there after a power cut at *stamp*, each beginning with its kind."""
        if found.unreadable:
            return [f"store can not be used: {found.unreadable}"]
        return [*found.faults, *self._lost_events(found.events, stamp), *self._lost_values(found, stamp)]

    def _lost_events(self, found: dict[int, Any], stamp: float) -> Iterator[str]:
        first, last = min(found, default=1), max(found, default=0)
        if sorted(found) != list(range(first, last + 1)) or first > max(1, last + 1 - self.kept):
            yield f"holes between the events: {len(found)} from {first} to {last}"
        if len({str(data) for data in found.values()}) != len(found):
            yield "doubled events"
        for id, (when, data) in self.events.items():
            if when < stamp and id >= first and found.get(id) != data:
                yield f"event {id} is {found.get(id)}, not {data}"

    def _lost_values(self, found: Found, stamp: float) -> Iterator[str]:
        for (kind, name), register in self.registers.items():
            value, possible = found.values[kind, name], register.possible(stamp)
            if value not in possible:
                yield f"{kind} {name} is {str(value)[:40]!r}, not one of {[str(one)[:40] for one in possible]}"
