"""Finding out which clients have gone without a word."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from broker.core.deadlines import Deadlines


class Pulse(Protocol):
    """A connection that is watched.

    Attributes:
        heard: set by the connection whenever bytes come.
        pinged: whether a ping awaits a sign of life.
        line: where its deadline stands.
    """

    heard: bool
    pinged: bool
    line: float

    def ping(self) -> None:
        """Send a ping."""

    def lifeless(self) -> None:
        """No sign of life came in time."""


class Heartbeat:
    """Pings every connection and reports those that stay silent.

    Any byte counts as a sign of life: a client that sends is alive, and one that
    is busy with a long message can not answer in the middle of it.  Receiving
    costs the connection one assignment; timers exist per daemon, not per
    connection.

    Args:
        clock: the reactor, or a ``task.Clock``.
        interval: seconds from ping to ping, if not more by *timeout*; 0: never.
        timeout: seconds without a sign of life after a ping.
    """

    def __init__(self, clock: IReactorTime, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._pause = max(interval - timeout, 1.0)
        self._deadlines: Deadlines[Pulse] = Deadlines(clock, self._due)

    def add(self, pulse: Pulse) -> None:
        """Begin to watch *pulse*."""
        if self._interval > 0:
            pulse.line = self._deadlines.add(pulse, self._interval)

    def remove(self, pulse: Pulse) -> None:
        """Watch *pulse* no more."""
        self._deadlines.drop(pulse, pulse.line)

    def _due(self, pulse: Pulse) -> None:
        if not pulse.pinged:
            pulse.pinged = True
            pulse.heard = False
            pulse.ping()
            pulse.line = self._deadlines.add(pulse, self._timeout)
        elif pulse.heard:
            pulse.pinged = False
            pulse.line = self._deadlines.add(pulse, self._pause)
        else:
            pulse.lifeless()
