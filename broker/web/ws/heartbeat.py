"""Liveness of connections: pings, and what happens when nothing comes back."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from broker.core.deadlines import Deadlines


class Monitored(Protocol):
    """A connection that is watched.

    Attributes:
        alive: set by the connection whenever bytes come, cleared here at a ping.
        pinged: whether something must come before the deadline, because a ping was sent.
        bucket: when its deadline is, as ``Deadlines.add`` returned it.
    """

    alive: bool
    pinged: bool
    bucket: dict[Monitored, float] | None

    def ping(self) -> None:
        """Send a ping."""

    def on_timeout(self) -> None:
        """Drop the connection: nothing came in time after a ping."""


class Heartbeat:
    """Pings every connection and reports those that stay silent.

    Any byte counts as an answer: a client that sends is alive, and one that
    is busy with a long message can not answer in the middle of it.  Receiving
    costs the connection one assignment; timers exist per daemon, not per
    connection.

    Args:
        clock: the reactor, or a ``task.Clock``.
        interval: seconds from ping to ping, but at least one more than *timeout*; 0: never.
        timeout: seconds from a ping to the drop if nothing comes.
    """

    def __init__(self, clock: IReactorTime, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._pause = max(interval - timeout, 1.0)
        self._deadlines: Deadlines[Monitored] = Deadlines(clock, self._due)

    def add(self, monitored: Monitored) -> None:
        """Ping *monitored* from now on."""
        if self._interval > 0:
            monitored.bucket = self._deadlines.add(monitored, self._interval)

    def remove(self, monitored: Monitored) -> None:
        """Forget *monitored*; idempotent."""
        self._deadlines.drop(monitored, monitored.bucket)

    def _due(self, monitored: Monitored) -> None:
        if not monitored.pinged:
            monitored.pinged = True
            monitored.alive = False
            monitored.ping()
            monitored.bucket = self._deadlines.add(monitored, self._timeout)
        elif monitored.alive:
            monitored.pinged = False
            monitored.bucket = self._deadlines.add(monitored, self._pause)
        else:
            monitored.on_timeout()
