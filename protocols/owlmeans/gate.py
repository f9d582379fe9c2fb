"""Holds back what the broker sends on its own account until the client can hear it.

"The broker MUST NOT push events, calls or requests to a session before its
first own frame, or before 250 ms when it came by URL/default": frames sent right
after the handshake reach the client before the app has attached its handlers,
and are lost there or end it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.messages import Frame

TIMEOUT = 0.25  # seconds from the beginning after which a silent client is taken to be ready


@attrs.define(eq=False)
class Gate:
    """Shut at first; opens once.

    Attributes:
        clock: gives the time.
        opened: called when it opens by itself.
        limit: bytes that may be held.
    """

    clock: IReactorTime
    opened: Callable[[], object]
    limit: int
    _begin: float = 0.0
    _size: int = 0
    _frames: list[Frame] = attrs.field(factory=list)
    _timer: IDelayedCall | None = None

    def begin(self) -> None:
        """Count the time from now on."""
        self._begin = self.clock.seconds()
        if self._timer is not None:
            self._timer.reset(TIMEOUT)

    @property
    def expired(self) -> bool:
        """Whether its time has come."""
        return self.clock.seconds() >= self._begin + TIMEOUT

    def wait(self) -> None:
        """Let it open by itself when its time has come; there is something to send."""
        if self._timer is None:
            delay = self._begin + TIMEOUT - self.clock.seconds()
            self._timer = self.clock.callLater(max(0.0, delay), self._open)

    def hold(self, frame: Frame) -> bool:
        """Keep *frame*; False when there are too many."""
        self._size += len(frame.payload)
        if self._size > self.limit:
            return False
        self._frames.append(frame)
        self.wait()
        return True

    def close(self) -> list[Frame]:
        """Be done with; return what was held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        frames, self._frames = self._frames, []
        return frames

    def _open(self) -> None:
        self._timer = None
        self.opened()
