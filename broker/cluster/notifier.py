"""Notifies the other nodes that something waits in a queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError

log = Logger()

RETRY_DELAY = 1.0  # seconds until those are notified again who may not know


class QueueNotifier:
    """Notifies the other nodes until they know, of one queue once at a time.

    Args:
        clock: times the attempts.
        notify: notifies them of a queue; returns whether all know.
    """

    def __init__(self, clock: IReactorTime, notify: Callable[[str], Awaitable[bool]]) -> None:
        self._clock, self._notify = clock, notify
        self._again: dict[str, bool] = {}  # queues whose nodes are being notified, and whether once more
        self._pauses: set[Deferred[None]] = set()
        self._stopped = False

    def notify(self, queue: str) -> None:
        """Notify the other nodes that something waits in *queue*."""
        if queue in self._again:
            self._again[queue] = True
        else:
            Deferred.fromCoroutine(self._until_notified(queue)).addErrback(_failed, queue)

    def stop(self) -> None:
        """Cancel all timers."""
        self._stopped = True
        for pause in list(self._pauses):
            pause.cancel()

    async def _until_notified(self, queue: str) -> None:
        try:
            again = True
            while again:
                self._again[queue] = False
                if await self._notified(queue):
                    again = self._again[queue]
                else:
                    await self._pause()
        finally:
            del self._again[queue]

    async def _notified(self, queue: str) -> bool:
        try:
            return await self._notify(queue)
        except BrokerError:
            return False

    async def _pause(self) -> None:
        if self._stopped:
            raise CancelledError
        pause: Deferred[None] = deferLater(self._clock, RETRY_DELAY)
        self._pauses.add(pause)
        try:
            await pause
        finally:
            self._pauses.discard(pause)


def _failed(failure: Failure, queue: str) -> None:
    if not failure.check(CancelledError):
        log.failure("the other nodes were not notified of {queue}", failure, queue=queue)
