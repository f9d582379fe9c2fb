"""Closing many WebSockets over a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.interfaces import ILink

MAX_GAP = 0.25  # seconds between two closes, so that few clients do not take long
MIN_STEP = 0.02  # seconds between two looks at how many are due


class SpreadClosing:
    """Closes links one after the other at even distances, so that their clients do not come back all at once.

    Links that have ended meanwhile keep their place: to close them is a no-op.

    Args:
        clock: the reactor, or a ``task.Clock``.
        close: closes one.
    """

    def __init__(self, clock: IReactorTime, close: Callable[[ILink], object]) -> None:
        self._clock, self._close = clock, close
        self._links: deque[ILink] = deque()
        self._began = self._gap = 0.0
        self._closed = 0
        self._call: IDelayedCall | None = None

    def start(self, links: Iterable[ILink], seconds: float) -> None:
        """Close *links*: the first now, the last within *seconds*; all now for 0."""
        self._links.extend(links)
        self._gap = min(MAX_GAP, seconds / max(1, len(self._links)))
        self._began = self._clock.seconds()
        self._step()

    def stop(self) -> None:
        """Close no more of them; idempotent."""
        self._links.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _step(self) -> None:
        self._call = None
        links, gap = self._links, self._gap
        due = int((self._clock.seconds() - self._began) / gap) + 1 if gap > 0 else len(links)
        while links and self._closed < due:
            self._closed += 1
            self._close(links.popleft())
        if links:
            self._call = self._clock.callLater(max(gap, MIN_STEP), self._step)
