"""How late the reactor is: what a plugin that blocks the loop, or a machine that is too busy, does to everybody."""

from __future__ import annotations

from collections import deque

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.observe.metrics import Histogram
from broker.observe.stacks import StackWatch

log = Logger()

INTERVAL = 0.1  # seconds between two ticks
BLOCKED = 1.0  # seconds of lag from which on the loop is said to be blocked
TOLD = 1.0  # seconds for which that is a reason not to be ready, once it is over: who has asked meanwhile is told
WINDOW, STEPS = 10.0, 6  # seconds in each of the parts of the last minute


class ReactorLag(Service):
    """Lets a timer tick, and notes by how much each tick is late.

    Args:
        clock: the reactor; its seconds can not be set.
        histogram: what each tick is counted in.
        stacks: knows what the thread of the reactor does while there is no tick; None: nobody does.
    """

    def __init__(self, clock: IReactorTime, histogram: Histogram, stacks: StackWatch | None = None) -> None:
        self._clock, self._histogram, self._stacks = clock, histogram, stacks
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self._windows: deque[tuple[float, float]] = deque(maxlen=STEPS)  # when each began, and the longest lag in it
        self._blocked = (0.0, 0.0)  # for how long it was, and until when

    def startService(self) -> None:
        """Begin to tick."""
        super().startService()
        self._wait()
        if self._stacks is not None:
            self._stacks.start()

    def stopService(self) -> None:
        """Tick no more."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._stacks is not None:
            self._stacks.stop()

    @property
    def now(self) -> float:
        """By how much the tick that is to come is late already: a scrape may be answered before it."""
        return max(0.0, self._clock.seconds() - self._due) if self._call is not None else 0.0

    def longest(self) -> float:
        """Return the longest lag of the last minute, one that goes on included."""
        since = self._clock.seconds() - WINDOW * STEPS
        return max([self.now, *(lag for began, lag in self._windows if began > since)])

    def reason(self) -> str:
        """Return that the loop is or was just now blocked, for how long; "" when it was not."""
        if self.now >= BLOCKED:
            return f"the reactor loop was blocked for {self.now:.1f} s"
        seconds, end = self._blocked
        if seconds and self._clock.seconds() < end + TOLD:
            return f"the reactor loop was blocked for {seconds:.1f} s"
        return ""

    def _wait(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._tick)
        if self._stacks is not None:
            self._stacks.ticked()

    def _tick(self) -> None:
        late = self.now
        self._histogram.observe(late)
        self._note(late)
        if late >= BLOCKED:
            self._blocked = late, self._clock.seconds()
            self._log(late)
        self._wait()

    def _note(self, late: float) -> None:
        now, windows = self._clock.seconds(), self._windows
        if not windows or now - windows[-1][0] >= WINDOW:
            windows.append((now, late))
        elif late > windows[-1][1]:
            windows[-1] = windows[-1][0], late

    def _log(self, late: float) -> None:
        where = self._stacks.caught() if self._stacks is not None else ""
        log.warn(
            "the reactor loop was blocked for {seconds:.1f} s" + (": {where}" if where else ""),
            seconds=round(late, 3),
            where=where,
        )
