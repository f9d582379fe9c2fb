"""The replicas of a Redis server: whether enough of them have what is written."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from txredisapi import RedisError

from broker.redis.connection import Connection, ResponseError, refusal_text

log = Logger()

INTERVAL = 1.0  # seconds between two looks, while there are too few
LOOK = 100  # milliseconds that such a look, or the first of a connection, may take: reads wait meanwhile


class Replicas:
    """Waits, by WAIT, until enough replicas have what was written, and knows whether they do.

    Args:
        needed: how many that are.
        timeout: milliseconds that they have.
        clock: times the looks, while there are too few.
        connection: by which is written.

    Attributes:
        problem: why all writes are refused now; "" when they are not.
    """

    def __init__(self, needed: int, timeout: int, clock: IReactorTime, connection: Connection) -> None:
        self.problem = ""
        self._needed, self._timeout, self._clock, self._connection = needed, timeout, clock, connection
        self._running = False
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Look again and again from now on, while there are too few."""
        self._running, self.problem = True, ""

    def stop(self) -> None:
        """Look no more."""
        self._running = False
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def confirm(self, protocol: Any) -> Deferred[str]:
        """Wait until they have what was written by *protocol*; fire with why they may not have it, "" if they do."""
        return self._wait(protocol, self._timeout)

    def look(self, protocol: Any) -> Deferred[str]:
        """See how many there are, without a long wait for those that are missing; fire as ``confirm`` does."""
        return self._wait(protocol, min(self._timeout, LOOK))

    def _wait(self, protocol: Any, milliseconds: int) -> Deferred[str]:
        asked: Deferred[int] = protocol.execute_command(b"WAIT", b"%d" % self._needed, b"%d" % milliseconds)
        return asked.addCallbacks(self._judge, self._not_answered)

    def _judge(self, count: int) -> str:
        if count >= self._needed:
            if self.problem:
                log.info("enough replicas of Redis confirm what is written")
            self.problem = ""
            return ""
        problem = (
            f"all writes are refused: TXBROKER_REDIS_WAIT_REPLICAS is {self._needed} and {count} replicas confirm "
            "them in time; connect more, or set less"
        )
        self._note(problem)
        return f"it is written, but only {count} of {self._needed} replicas have confirmed that in time"

    def _not_answered(self, failure: Any) -> str:
        failure.trap(RedisError)
        reason = refusal_text(failure.value)
        if failure.check(ResponseError):  # else it is lost with the connection, as the answer of the script is
            needs = f"TXBROKER_REDIS_WAIT_REPLICAS is {self._needed}"
            self._note(f"all writes are refused: {needs}, and WAIT is not possible: {reason}")
        return f"it has not answered: {reason}"

    def _note(self, problem: str) -> None:
        if not self.problem:
            log.error("{problem}", problem=problem)
        self.problem = problem
        if self._next is None and self._running:
            self._next = self._clock.callLater(INTERVAL, self._look_again)

    def _look_again(self) -> None:
        self._next = None
        protocol = self._connection.protocol
        if self.problem and protocol is not None:  # else the next connection looks
            self.look(protocol)
