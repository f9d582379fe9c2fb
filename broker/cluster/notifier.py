"""Notifies the other nodes that something waits in a queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.pauses import Pauses
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
        self._pauses, self._notify = Pauses(clock), notify
        self._again: dict[str, bool] = {}  # queues whose nodes are being notified, and whether once more

    def notify(self, queue: str) -> None:
        """Notify the other nodes that something waits in *queue*."""
        if queue in self._again:
            self._again[queue] = True
        else:
            Deferred.fromCoroutine(self._until_notified(queue)).addErrback(_failed, queue)

    def stop(self) -> None:
        """Cancel all timers."""
        self._pauses.stop()

    async def _until_notified(self, queue: str) -> None:
        try:
            again = True
            while again:
                self._again[queue] = False
                if await self._notified(queue):
                    again = self._again[queue]
                else:
                    await self._pauses.pause(RETRY_DELAY)
        finally:
            del self._again[queue]

    async def _notified(self, queue: str) -> bool:
        try:
            return await self._notify(queue)
        except BrokerError:
            return False


def _failed(failure: Failure, queue: str) -> None:
    if not failure.check(CancelledError):
        log.failure("the other nodes were not notified of {queue}", failure, queue=queue)
