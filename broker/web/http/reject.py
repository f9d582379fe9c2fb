"""Connections over the limit: told so, at next to no cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.messages import Response
from broker.web.http.head import request_id
from broker.web.http.response import Dates, render

TIMEOUT = 2.0  # seconds in which the client may say something and hear the answer


class RejectProtocol(Protocol):
    """Answers whatever comes with one refusal, reads nothing, and closes.

    Args:
        refusal: the answer.
        clock: the reactor, or a ``task.Clock``.
        dates: makes the ``Date`` line.
        gone: called when the connection has ended.
    """

    transport: Any

    def __init__(self, refusal: Response, clock: IReactorTime, dates: Dates, gone: Callable[[], object]) -> None:
        self._refusal = refusal
        self._clock = clock
        self._dates = dates
        self._gone = gone
        self._late: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the request: an answer before it could get lost."""
        self._late = self._clock.callLater(TIMEOUT, self._cut)

    def dataReceived(self, data: bytes) -> None:
        """Refuse, once."""
        refusal, date = self._refusal, self._dates.line()
        self.transport.write(render(refusal, request_id(), False, False, date))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room for the next."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._gone()

    def _cut(self) -> None:
        self._late = None
        self.transport.abortConnection()
