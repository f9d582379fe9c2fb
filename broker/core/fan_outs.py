"""Events for very many listeners, which are delivered in slices, to each in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Protocol

import attrs

from broker.core.slices import Slices
from broker.messages import Event

FEW = 1000  # listeners: an event for no more goes to all at once, since slices cost some 7 % more
AT_ONCE = 300  # deliveries of one loop iteration: with what it takes to send them, some 3 milliseconds
PER_LOOK = 50  # of them, before it is seen whether they have taken longer than that, as those of changes of keys do
MAX_WAITING = 100_000  # deliveries; if there are more, the oldest event is delivered to all at once


class Listener(Protocol):
    """What topics need of a peer."""

    id: str

    def on_event(self, event: Event, pattern: str) -> None:
        """Hand *event* to the client; never raises."""


@attrs.frozen(eq=False)
class FanOut:
    """One event, by which subscription it goes, and to whom it is yet to be delivered: the last of them first."""

    event: Event
    pattern: str
    left: dict[Listener, None]


class FanOuts:
    """Delivers what goes to more than ``FEW`` listeners to ``AT_ONCE`` of them in each loop iteration.

    Who is to get something else meanwhile gets before what waits for it: for each listener the order is the same as
    if nothing had waited.

    Args:
        slices: give the time.

    Attributes:
        waiting: what is not delivered to all yet, the oldest first; not to be changed by others.
    """

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self.waiting: deque[FanOut] = deque()
        self._running = False  # or it waits for a slice

    def add(self, event: Event, pattern: str, listeners: Collection[Listener]) -> None:
        """Deliver *event* to *listeners*: to those of another one that waits when that is delivered."""
        if len(listeners) <= (AT_ONCE if self.waiting else FEW):
            for listener in listeners:
                self.catch_up(listener)
                listener.on_event(event, pattern)
            return
        # All of them, before the first: what a listener publishes in answer comes after this for the others, too.
        self.waiting.append(FanOut(event, pattern, dict.fromkeys(reversed(list(listeners)))))
        if not self._running:
            self._deliver_some()
        while sum(len(each.left) for each in self.waiting) > MAX_WAITING:
            self._deliver(self.waiting[0], MAX_WAITING)

    def catch_up(self, listener: Listener) -> None:
        """Deliver to *listener* what waits for it."""
        for fan_out in list(self.waiting):
            if listener in fan_out.left:
                del fan_out.left[listener]
                listener.on_event(fan_out.event, fan_out.pattern)

    def forget(self, listener: Listener, pattern: str) -> None:
        """Do not deliver to *listener* what waits for it by *pattern*, or the topic of that name."""
        for fan_out in self.waiting:
            if fan_out.pattern == pattern:
                fan_out.left.pop(listener, None)

    def stop(self) -> None:
        """Deliver at once what waits."""
        while self.waiting:
            self._deliver(self.waiting[0], MAX_WAITING)

    def _deliver_some(self) -> None:
        self._running, deliveries, end = True, AT_ONCE, self._slices.deadline()
        while self.waiting and deliveries > 0:
            deliveries -= self._deliver(self.waiting[0], min(deliveries, PER_LOOK))
            if self._slices.now() >= end:
                break
        if self.waiting:
            self._slices.add(self._deliver_some)
        else:
            self._running = False

    def _deliver(self, fan_out: FanOut, deliveries: int) -> int:
        """Deliver to at most so many of those that are left; return to how many."""
        event, pattern, left = fan_out.event, fan_out.pattern, fan_out.left
        done = 0
        while left and done < deliveries:
            listener, _ = left.popitem()
            listener.on_event(event, pattern)
            done += 1
        if not left and self.waiting and self.waiting[0] is fan_out:
            self.waiting.popleft()
        return done
