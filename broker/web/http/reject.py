"""Answers connections over the limit: a page that is for everybody, or a refusal, and nothing behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.messages import HttpRequest, Response
from broker.web.http.head import request_id
from broker.web.http.parser import Limits, RequestParser
from broker.web.http.response import Dates, render

TIMEOUT = 2.0  # seconds for the client to send its request, and as many to read the answer
MAX_HEAD_BYTES = 16384  # of a head that is waited for


class RejectProtocol(Protocol):
    """Reads a head, answers it once, and closes.

    Args:
        address: of the client.
        refusal: the response.
        decide: returns for a request (None if it could not be read) of this and whether it is a handshake
            another response or None, and the seconds for which that is held; it may also evict this.
        clock: the reactor, or a ``task.Clock``.
        dates: makes the ``Date`` line.
        gone: called with this when the connection has ended.

    Attributes:
        address: of the client.
        admitted: False, as it never will be; see ``Unadmitted``.
    """

    transport: Any
    admitted = False

    def __init__(
        self,
        address: str,
        refusal: Response,
        decide: Callable[[RejectProtocol, HttpRequest | None, bool], tuple[Response | None, float]],
        clock: IReactorTime,
        dates: Dates,
        gone: Callable[[RejectProtocol], object],
    ) -> None:
        self.address = address
        self._decide = decide
        self._clock = clock
        self._dates = dates
        self._gone = gone
        self._refusal = refusal
        self._is_head = False
        self._head = b""
        self._decided = False
        self._over = False
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the request: an answer before it could get lost."""
        self._set_timer(TIMEOUT, self._cut)

    def dataReceived(self, data: bytes) -> None:
        """Answer once the head of a GET is whole, and refuse all else at once."""
        if self._decided:
            return
        self._head += data
        if self._may_be_answered():
            return
        self._decided = True
        request, upgrade = self._read()
        self._is_head = request is not None and request.method == "HEAD"
        page, delay = self._decide(self, request, upgrade)
        self._refusal = page or self._refusal
        if self._over:
            return
        if delay > 0:
            self.transport.pauseProducing()
            self._set_timer(delay, self._refuse)
        else:
            self._refuse()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room for the next."""
        self._decided = self._over = True
        self._set_timer(0.0, None)
        self._gone(self)

    # Unadmitted

    @property
    def evictable(self) -> bool:
        """Whether it is not answered yet, nor held."""
        return not self._decided

    def evict(self) -> None:
        """Drop it: another one may be for everybody's page."""
        self._cut()

    def overdue(self, seconds: float) -> bool:
        """Drop it."""
        self._cut()
        return False

    def _may_be_answered(self) -> bool:
        """Whether what has come may be the begin of a page's request or of a handshake."""
        head = self._head
        begins = b"GET ".startswith(head[:4]) or b"HEAD ".startswith(head[:5])
        return begins and b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES

    def _read(self) -> tuple[HttpRequest | None, bool]:
        """Return the request whose head has come, if it is one, and whether it is a handshake."""
        parser = RequestParser(Limits(), self.address)
        parser.feed(self._head)
        arrival = parser.arrived.popleft() if parser.arrived else None
        parser.close()
        if arrival is None or arrival.status:
            return None, False
        return arrival.request, arrival.upgrade

    def _refuse(self) -> None:
        self._set_timer(TIMEOUT, self._cut)
        date = self._dates.line()
        self.transport.write(render(self._refusal, request_id(), head=self._is_head, keep_alive=0, date=date))
        self.transport.loseConnection()

    def _cut(self) -> None:
        self._over = True
        self.transport.abortConnection()

    def _set_timer(self, seconds: float, act: Callable[[], object] | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if act is None else self._clock.callLater(seconds, act)
