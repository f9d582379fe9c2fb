"""Which connections have bytes that were not yet given to the kernel."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()


class Sender(Protocol):
    """A connection that keeps frames until it is told to send them."""

    def flush_frames(self) -> None:
        """Send what waits, as far as the kernel takes it."""

    def abortConnection(self) -> None:
        """Drop the connection."""


class Outbox:
    """Connections with unsent frames, so that a turn's frames leave in one send.

    While an inbound chunk is worked on (``busy`` is true) the connections that
    get frames only gather here, and whoever set ``busy`` flushes at its end.  A
    frame from anywhere else — a timer, a thread's callback, a store's answer —
    makes the outbox flush itself on the reactor's next turn.  Nobody who sends
    has to know which of the two it is, so nobody can forget to flush.

    Make one for all ports of a daemon: a frame that a chunk of one port causes
    on a connection of another then leaves at the end of that chunk too.

    Attributes:
        busy: whether somebody will flush when it is done.

    Args:
        clock: the reactor, or a ``task.Clock``.
    """

    __slots__ = ("_clock", "_due", "_senders", "busy")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._senders: list[Sender] = []
        self._due: IDelayedCall | None = None
        self.busy = False

    def add(self, sender: Sender) -> None:
        """Remember that *sender* has unsent frames; once until it was flushed."""
        self._senders.append(sender)
        if not self.busy and self._due is None:
            self._due = self._clock.callLater(0, self._turn)

    def flush(self) -> None:
        """Let everybody send, those included who are added meanwhile."""
        while self._senders:
            senders, self._senders = self._senders, []
            for sender in senders:
                try:
                    sender.flush_frames()
                except Exception:
                    # A producer or an overflow callback failed: its own connection's loss only.
                    log.failure("flushing a connection failed")
                    sender.abortConnection()

    def _turn(self) -> None:
        self._due = None
        self.flush()
