"""Connections with frames that were not yet given to the kernel, and when they are flushed."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()


class Sender(Protocol):
    """A connection that keeps frames until it is told to send them."""

    def flush_frames(self) -> None:
        """Send the queued frames, as far as the kernel takes them."""

    def abortConnection(self) -> None:
        """Drop the connection."""


class Outbox:
    """Connections with unsent frames, so that what one loop iteration queues leaves in one send.

    While an inbound chunk is worked on (``busy`` is true) the connections that
    get frames are only collected here, and whoever set ``busy`` flushes at its end.  A
    frame from anywhere else — a timer, a thread's callback, a store's answer —
    schedules a flush in the reactor's next iteration.  Code that sends need not
    know which of the two it is, so it can not forget to flush.

    Make one for all ports of a daemon: a frame that a chunk of one port causes
    on a connection of another then leaves at the end of that chunk too.

    Attributes:
        busy: whether the caller that set it will flush when it is done.

    Args:
        clock: the reactor, or a ``task.Clock``.
    """

    __slots__ = ("_clock", "_scheduled", "_senders", "busy")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._senders: list[Sender] = []
        self._scheduled: IDelayedCall | None = None
        self.busy = False

    def add(self, sender: Sender) -> None:
        """Have *sender* flushed; it is added at most once until then."""
        self._senders.append(sender)
        if not self.busy and self._scheduled is None:
            self._scheduled = self._clock.callLater(0, self._flush_scheduled)

    def flush(self) -> None:
        """Flush every sender, those included that are added meanwhile."""
        while self._senders:
            senders, self._senders = self._senders, []
            for sender in senders:
                try:
                    sender.flush_frames()
                except Exception:
                    # A producer or an overflow callback failed: its own connection's loss only.
                    log.failure("flushing a connection failed")
                    sender.abortConnection()

    def _flush_scheduled(self) -> None:
        self._scheduled = None
        self.flush()
