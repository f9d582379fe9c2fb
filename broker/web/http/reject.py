"""Rejects connections over the limit with a response, without parsing anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.messages import Response
from broker.web.http.head import request_id
from broker.web.http.response import Dates, render

TIMEOUT = 2.0  # seconds for the client to send something and read the refusal


class RejectProtocol(Protocol):
    """Answers the first bytes with a refusal, whatever they are, and closes.

    Args:
        refusal: the response.
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
        self._timeout: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the request: a response sent before it could get lost."""
        self._timeout = self._clock.callLater(TIMEOUT, self._abort)

    def dataReceived(self, data: bytes) -> None:
        """Send the refusal and close."""
        refusal, date = self._refusal, self._dates.line()
        self.transport.write(render(refusal, request_id(), False, 0, date))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel the timeout and report the end."""
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self._gone()

    def _abort(self) -> None:
        self._timeout = None
        self.transport.abortConnection()
