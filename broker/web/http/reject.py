"""Rejects connections over the limit with a response, without parsing more than a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.messages import Response
from broker.web.http.head import request_id
from broker.web.http.response import Dates, render

TIMEOUT = 2.0  # seconds for the client to send its request, and as many to read the answer
MAX_HEAD_BYTES = 16384  # of a head that is waited for


class RejectProtocol(Protocol):
    """Answers whatever comes with one refusal, reads no more than a head, and closes.

    Args:
        refusal: the response.
        clock: the reactor, or a ``task.Clock``.
        dates: makes the ``Date`` line.
        gone: called when the connection has ended.
        delay: returns for a head the seconds for which its refusal is held.
    """

    transport: Any

    def __init__(
        self,
        refusal: Response,
        clock: IReactorTime,
        dates: Dates,
        gone: Callable[[], object],
        delay: Callable[[bytes], float],
    ) -> None:
        self._refusal = refusal
        self._clock = clock
        self._dates = dates
        self._gone = gone
        self._delay = delay
        self._head = b""
        self._decided = False
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the request: an answer before it could get lost."""
        self._set_timer(TIMEOUT, self._cut)

    def dataReceived(self, data: bytes) -> None:
        """Refuse once the head of a GET, which may be a handshake, is whole, and all else at once."""
        if self._decided:
            return
        self._head += data
        if self._may_be_part_of_a_handshake():
            return
        self._decided = True
        delay = self._delay(self._head)
        if delay > 0:
            self.transport.pauseProducing()
            self._set_timer(delay, self._refuse)
        else:
            self._refuse()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room for the next."""
        self._decided = True
        self._set_timer(0.0, None)
        self._gone()

    def _may_be_part_of_a_handshake(self) -> bool:
        head = self._head
        return b"GET ".startswith(head[:4]) and b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES

    def _refuse(self) -> None:
        self._set_timer(TIMEOUT, self._cut)
        date = self._dates.line()
        self.transport.write(render(self._refusal, request_id(), head=False, keep_alive=0, date=date))
        self.transport.loseConnection()

    def _cut(self) -> None:
        self.transport.abortConnection()

    def _set_timer(self, seconds: float, act: Callable[[], object] | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if act is None else self._clock.callLater(seconds, act)
