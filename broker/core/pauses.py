"""The pauses of coroutines that one part of the broker runs: it ends them when it stops."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater


class Pauses:
    """Pauses of coroutines: ``await pauses.pause(seconds)``."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._pauses: set[Deferred[None]] = set()
        self._stopped = False

    async def pause(self, seconds: float) -> None:
        """Wait for *seconds*.

        Raises:
            CancelledError: they have been stopped, perhaps meanwhile.
        """
        if self._stopped:
            raise CancelledError
        pause: Deferred[None] = deferLater(self._clock, seconds)
        self._pauses.add(pause)
        try:
            await pause
        finally:
            self._pauses.discard(pause)

    def stop(self) -> None:
        """Cancel all, and let none begin any more."""
        self._stopped = True
        for pause in list(self._pauses):
            pause.cancel()
