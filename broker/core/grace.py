"""The grace of a client that reads more slowly than it is sent to."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

# Times the limit of the send queue: what may wait during the grace.  A burst of some megabytes is under
# way to a client that does nothing but read for as long as its process does not run.
HARD_LIMIT = 16
LOOKS = 10  # at the queue during one grace


@attrs.define(eq=False)
class SlowReaderGrace:
    """Watches a send queue that is over its limit, until it is below or the time is up.

    Nothing is asked of the client but that its queue is below the limit at one of the looks.

    Attributes:
        unsent: returns how many bytes wait now.
        limit: of these.
        seconds: from ``start`` to the end of the grace.
        recovered: called when the queue is found below the limit.
        expired: called instead when the grace is over.
        clock: the reactor, or a ``task.Clock``.
    """

    unsent: Callable[[], int]
    limit: int
    seconds: float
    recovered: Callable[[], object]
    expired: Callable[[], object]
    clock: IReactorTime
    _end: float = 0.0
    _timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin the grace."""
        self._end = self.clock.seconds() + self.seconds
        self._look_later()

    def stop(self) -> None:
        """Call nothing any more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self.unsent() <= self.limit:
            self.recovered()
        elif self._left() <= 0:
            self.expired()
        else:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self.clock.callLater(min(self.seconds / LOOKS, self._left()), self._look)

    def _left(self) -> float:
        return round(self._end - self.clock.seconds(), 6)  # else a timer could be too short to let time go on
