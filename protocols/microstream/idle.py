"""The end of a session from which nothing is received any more."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from twisted.internet.interfaces import IReactorTime

from broker.core.deadlines import Deadlines
from protocols.microstream.engineio import TIMER_TOLERANCE

STEPS = 30  # a timeout is late by at most this part of it, so that all sessions share so many timers
ROUNDING = 1e-6  # seconds; what sums of times may be off


class IdleTimeout:
    """Calls *end* when nothing was received for *timeout* seconds.

    Before, in the last third of it, the client is pinged: one that is alive, but has nothing
    to send, answers and stays.

    Args:
        clock: the reactor, or a ``task.Clock``.
        timers: of all sessions; a key is the function to call.
        timeout: seconds.
        ping_timeout: seconds that the answer to a ping may take.
        ping: asks the client for a packet.
        end: ends the session.

    Attributes:
        last: when something was received, in seconds of the clock; set by the session.
    """

    __slots__ = ("_bucket", "_clock", "_due", "_end", "_ping", "_ping_after", "_step", "_timeout", "_timers", "last")

    def __init__(
        self,
        clock: IReactorTime,
        timers: Deadlines[Callable[[], object]],
        timeout: float,
        ping_timeout: float,
        ping: Callable[[], object],
        end: Callable[[], object],
    ) -> None:
        self.last = clock.seconds()
        self._clock, self._timers = clock, timers
        self._ping, self._end = ping, end
        self._timeout = timeout
        # A ping that must be answered sooner than the timeout is sent later.
        self._ping_after = timeout - min(timeout / 3, ping_timeout)
        self._step = timeout / STEPS
        self._schedule(self._ping_after)

    def stop(self) -> None:
        """Stop the timer; idempotent."""
        self._timers.drop(self._check, self._bucket)

    def _schedule(self, delay: float) -> None:
        delay = ceil((delay - ROUNDING) / self._step) * self._step
        self._due = self._clock.seconds() + delay
        self._bucket = self._timers.add(self._check, delay)

    def _check(self) -> None:
        now = self._clock.seconds()
        if now - self._due > TIMER_TOLERANCE:
            # The whole process has paused: what was received meanwhile is still to be read.
            self.last += now - self._due
        idle = now - self.last + ROUNDING
        if idle >= self._timeout:
            self._end()
        elif idle >= self._ping_after:
            self._ping()
            self._schedule(self._timeout - idle)
        else:
            self._schedule(self._ping_after - idle)
