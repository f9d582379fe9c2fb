"""What is to be done when, by an injected clock."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

import attrs

MIN_DEAD = 64  # cancelled timers that are kept at least, before they are looked through


@attrs.define(eq=False)
class Timer:
    """Something to be done, once."""

    when: float
    act: Callable[[], object] | None


@attrs.define(eq=False)
class Timers:
    """All timers of one client.

    Attributes:
        clock: gives seconds that never go back.
        changed: is told when the first of them has changed, with its time.
    """

    clock: Callable[[], float]
    changed: Callable[[float], object]
    _heap: list[tuple[float, int, Timer]] = attrs.field(factory=list)
    _number: int = 0
    _dead: int = 0

    def after(self, delay: float, act: Callable[[], object]) -> Timer:
        """Do *act* in *delay* seconds."""
        return self.at(self.clock() + delay, act)

    def at(self, when: float, act: Callable[[], object]) -> Timer:
        """Do *act* at *when*."""
        timer = Timer(when, act)
        self._number += 1
        heappush(self._heap, (when, self._number, timer))
        if self._heap[0][2] is timer:
            self.changed(when)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Do not do it; a no-op for one that was done."""
        if timer is None or timer.act is None:
            return
        timer.act = None
        self._dead += 1
        if self._dead > MIN_DEAD and self._dead * 2 > len(self._heap):
            self._heap = [each for each in self._heap if each[2].act is not None]
            heapify(self._heap)
            self._dead = 0

    def run(self) -> float | None:
        """Do what is due; return when the next one is, None for never."""
        now = self.clock()
        while self._heap and (self._heap[0][2].act is None or self._heap[0][0] <= now):
            act, timer = self._heap[0][2].act, heappop(self._heap)[2]
            timer.act = None
            if act is None:
                self._dead -= 1
            else:
                act()
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._heap) - self._dead
